"""Differences of paired shares: known values, and how often the interval holds the truth."""

import math

import pytest

from analysis.metrics.statistics import paired_difference


def test_a_known_difference():
    e = paired_difference(3, 1, 8)
    # (3 + 1) / 10 and (1 + 1) / 10: d = 0.2, half = z sqrt((0.4 + 0.2 - 0.04) / 10)
    half = 1.959963984540054 * math.sqrt(0.056)
    assert (e.value, e.n, e.kind) == (0.25, 8, "points")
    assert (e.low, e.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_ends_and_symmetry():
    for n in (1, 2, 7, 1000):
        for gained in {0, 1, n}:
            for lost in {0, n - gained}:
                e, mirrored = paired_difference(gained, lost, n), paired_difference(lost, gained, n)
                assert -1 <= e.low <= e.value <= e.high <= 1 and e.low < e.high
                assert (mirrored.low, mirrored.high) == pytest.approx((-e.high, -e.low))
    assert paired_difference(0, 0, 0).value is None
    assert paired_difference(0, 0, 1000).high < 0.004, "many inputs without a difference prove it"


@pytest.mark.parametrize("counts", [(-1, 0, 3), (0, -1, 3), (2, 2, 3)])
def test_counts_that_cannot_be(counts):
    with pytest.raises(ValueError, match="give counts of n inputs"):
        paired_difference(*counts)


@pytest.mark.parametrize("n", [10, 60])
@pytest.mark.parametrize("gains, losses", [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1), (0.0, 0.4)])
def test_the_interval_holds_the_truth_as_often_as_it_says(n, gains, losses):
    """Summed over all outcomes, exactly: no simulation."""
    covered = total = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            same = n - gained - lost
            ways = math.factorial(n) / math.prod(map(math.factorial, (gained, lost, same)))
            chance = ways * gains**gained * losses**lost * (1 - gains - losses) ** same
            e = paired_difference(gained, lost, n)
            covered += chance * (e.low <= gains - losses <= e.high)
            total += chance
    assert total == pytest.approx(1)
    assert 0.93 < covered <= 1
