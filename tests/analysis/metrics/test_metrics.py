"""Measures against closed forms, brute force over all pairs, and torchmetrics."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from torchmetrics.functional.text import bleu_score, rouge_score

from analysis.metrics.distances import (
    cmmd,
    diversity,
    frechet_distance,
    kernel_distance,
    paired_cosine,
    recall,
)
from analysis.metrics.statistics import Z95, Estimate, mean, ratio, share, wilson
from analysis.metrics.text_metrics import (
    bleu,
    caption_statistics,
    cider_d,
    repeats,
    rouge_l,
    same_wording,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def with_moments(n, mean, covariance, seed=0):
    """n vectors whose sample mean and unbiased covariance are exactly the given ones."""
    x = normal(seed, n, len(mean))
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1))).T
    return white @ np.linalg.cholesky(np.asarray(covariance, float)).T + mean


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize("hits, n", [(0, 10), (1, 10), (5, 10), (10, 10), (407, 500), (3, 1000)])
def test_wilson_as_scipy_has_it(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    found = wilson(hits, n)
    assert found.value == hits / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_known_numbers():
    found = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1
    assert wilson(0, 0) == Estimate(None, None, None, 0, "share")
    with pytest.raises(ValueError, match="3 hits of 2"):
        wilson(3, 2)


def test_a_share_counts_booleans():
    assert share([True, False, np.True_]) == wilson(2, 3)
    assert share([]).value is None
    with pytest.raises(ValueError, match="booleans"):
        share([0.5])


def test_mean_has_the_normal_interval():
    found = mean([1.0, 2.0, 3.0, 6.0], "dB")
    half = 1.959964 * math.sqrt(14 / 3 / 4)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)
    assert (found.n, found.unit, found.kind) == (4, "dB", "mean")
    assert mean([5.0]) == Estimate(5.0, None, None, 1, "mean")
    assert mean([]).value is None
    with pytest.raises(ValueError, match="NaN"):
        mean([1.0, math.nan])


def test_ratio_by_the_delta_method_agrees_with_resampling():
    rng = np.random.default_rng(0)
    b = rng.gamma(8.0, 1.0, 400)
    a = 0.5 * b + rng.normal(0, 0.5, 400)
    found = ratio(a, b)
    picks = rng.integers(400, size=(4000, 400))
    resampled = a[picks].mean(axis=1) / b[picks].mean(axis=1)
    assert found.value == pytest.approx(a.mean() / b.mean(), rel=1e-12)
    assert found.high - found.low == pytest.approx(2 * Z95 * resampled.std(), rel=0.06)
    r, ((aa, ab), (_, bb)) = found.value, np.cov(a, b)
    half = Z95 * math.sqrt((aa - 2 * r * ab + r * r * bb) / 400) / b.mean()
    assert found.high - found.value == pytest.approx(half, rel=1e-9)
    exact = ratio([1.0, 2.0], [2.0, 4.0])
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio([1.0], [0.0]).value is None
    assert ratio([], []).value is None
    with pytest.raises(ValueError, match="give pairs"):
        ratio([1.0], [])


# ------------------------------------------------------------------ distances


def test_frechet_distance_of_two_gaussians():
    a = with_moments(50, [0.0, 0.0], np.diag([1.0, 4.0]))
    b = with_moments(70, [3.0, 4.0], np.diag([9.0, 1.0]), seed=1)
    # commuting covariances: |m|^2 + sum (sqrt(l) - sqrt(k))^2
    expected = 25 + (1 - 3) ** 2 + (2 - 1) ** 2
    found = frechet_distance(a, b)
    assert (found.value, found.n) == (pytest.approx(expected, rel=1e-9), 50)


def test_frechet_distance_with_covariances_that_do_not_commute():
    s, t = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    a, b = with_moments(40, [0.0, 1.0], s), with_moments(40, [0.5, 0.0], t, seed=1)
    expected = 1.25 + np.trace(s + t - 2 * sqrtm(s @ t).real)
    found = frechet_distance(a, b)
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_equal_sets_are_at_distance_zero():
    x = normal(0, 40, 6)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-6)
    few = normal(0, 4, 6)  # fewer samples than features: a singular covariance
    assert frechet_distance(few, few).value == pytest.approx(0, abs=1e-6)
    assert cmmd(x, x[::-1]).value == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_brute_force():
    x, y = normal(0, 5, 3), normal(1, 7, 3) + 0.5

    def k(a, b):
        return (sum(a * b) / 3 + 1) ** 3

    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    xy = np.mean([k(a, b) for a in x for b in y])
    found = kernel_distance(x, torch.from_numpy(y))
    assert found.value == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_kernel_distance_known_by_hand_and_unbiased():
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    # k(0, .) = 1, k(1, 2) = 27: 1 + 1 - 2 (1 + 1 + 1 + 27) / 4
    assert kernel_distance(x, y).value == pytest.approx(-13)
    draws = [kernel_distance(normal(k, 20, 2), normal(1000 + k, 20, 2)).value for k in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(300)


def test_kernels_over_more_rows_than_a_block(monkeypatch):
    x, y = normal(0, 23, 3), normal(1, 31, 3)
    whole = [measure(x, y).value for measure in (kernel_distance, cmmd)]
    monkeypatch.setattr("analysis.metrics.distances._BLOCK", 4)
    blocks = [measure(x, y).value for measure in (kernel_distance, cmmd)]
    assert blocks == pytest.approx(whole, rel=1e-12)


def test_cmmd_by_brute_force():
    x, y = normal(0, 4, 3), normal(1, 6, 3) + 1
    u, v = ([row / math.sqrt(sum(row**2)) for row in s] for s in (x, y))

    def mean(a, b):
        return np.mean([math.exp(-sum((p - q) ** 2) / 200) for p in a for q in b])

    expected = 1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v))
    assert cmmd(x, y).value == pytest.approx(expected, rel=1e-8)
    opposite = cmmd(np.array([[1.0, 0]] * 2), np.array([[-1.0, 0]] * 2)).value
    assert opposite == pytest.approx(2000 * (1 - math.exp(-4 / 200)))


# ------------------------------------------------------------------ retrieval, scores, diversity


def test_recall_at_k_of_a_known_order():
    gallery = np.eye(4)
    queries = np.array([[9, 0, 0, 0], [3, 2, 0, 0], [3, 2, 1, 0], [0, 0, 0, 1.0]])
    found = recall(queries, gallery, ks=(1, 2, 3))
    assert {k: e.value for k, e in found.items()} == {
        "recall@1": 0.5,
        "recall@2": 0.75,
        "recall@3": 1.0,
    }
    assert found["recall@1"].n == 4


def test_recall_over_more_queries_than_a_block(monkeypatch):
    queries, gallery = normal(0, 23, 3), normal(1, 23, 3)
    whole = recall(queries, gallery)
    monkeypatch.setattr("analysis.metrics.distances._BLOCK", 4)
    assert recall(queries, gallery) == whole


def test_recall_counts_any_item_of_the_label_and_ties_against():
    queries = gallery = np.ones((4, 2))
    assert recall(queries, gallery)["recall@1"].value == 0
    assert recall(queries, gallery, ks=(4,))["recall@4"].value == 1
    assert recall(queries, gallery, ["same"] * 4)["recall@1"].value == 1


def test_paired_cosine_is_the_mean_cosine():
    a, b = np.array([[3.0, 0], [1, 1], [1, 0]]), np.array([[1.0, 0], [1, 0], [-2, 0]])
    expected = (1 + math.sqrt(0.5) - 1) / 3
    assert paired_cosine(a, torch.from_numpy(b)).value == pytest.approx(expected)


def test_diversity_of_three_samples():
    samples = np.array([[[3.0, 0.0], [0.0, 8.0], [-1.0, 0.0]], [[1.0, 1.0]] * 3])
    found = diversity(samples)  # distances 1, 2, 1 of the first input, none of the second
    assert (found.value, found.n) == (pytest.approx(2 / 3), 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: frechet_distance(np.ones(3), np.eye(3)), "shape"),
        (lambda: frechet_distance(np.full((2, 2), np.nan), np.eye(2)), "NaN"),
        (lambda: frechet_distance(np.ones((1, 2)), np.ones((5, 2))), "2 samples"),
        (lambda: frechet_distance(np.eye(3), np.eye(2)), "3 and 2 wide"),
        (lambda: kernel_distance(np.eye(2), np.empty((0, 2))), "0 generated"),
        (lambda: cmmd(np.eye(3), np.eye(2)), "3 and 2 wide"),
        (lambda: paired_cosine(np.eye(2), np.ones((3, 2))), "pairs"),
        (lambda: paired_cosine(np.eye(2), np.eye(3)), "shape"),
        (lambda: recall(np.eye(2), np.eye(2), ks=(0,)), "ranks from 1"),
        (lambda: recall(np.eye(2), np.eye(2), ["x"]), "1 labels"),
        (lambda: recall(np.ones((1, 2)), np.ones((1, 2))), "among 1 is not defined"),
        (lambda: diversity(np.ones((2, 1, 3))), "2 or more"),
        (lambda: bleu(["a"], [[]]), "at least one"),
        (lambda: rouge_l("a", ["b"]), "single string"),
        (lambda: cider_d(["a b"], [["a b"]]), "CIDEr-D of 1 texts is not defined"),
    ],
)
def test_bad_input_is_said_clearly(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------ captions

TEXTS = [
    "a large red circle above a small blue square on a white background",
    "on gray, a tiny star",
    "a dotted picture of a big pink heart",
    "the ring",
]
REFERENCES = [
    ["a big red circle over a tiny blue square on white", "a large red circle above a blue square"],
    ["a tiny striped black star on gray", "on gray, a tiny black star with stripes"],
    ["a spotted drawing of a large pink heart on white", "a big pink heart with dots"],
    ["a small ring", "the ring is small"],
]


def test_bleu_as_torchmetrics_has_it():
    plain = [[r.replace(",", "") for r in refs] for refs in REFERENCES]
    expected = bleu_score([t.replace(",", "") for t in TEXTS], plain).item()
    assert bleu(TEXTS, REFERENCES).value == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 1
    assert bleu(["red"], [["blue"]]).value == 0
    assert bleu([TEXTS[0]], [[TEXTS[0]]]).value == pytest.approx(1)


def test_rouge_l_as_torchmetrics_has_it():
    expected = rouge_score(TEXTS, REFERENCES, accumulate="best", rouge_keys="rougeL")
    found = rouge_l(TEXTS, REFERENCES)
    assert found.value == pytest.approx(expected["rougeL_fmeasure"].item(), rel=1e-5)


def test_cider_d_by_hand():
    # two inputs; every n-gram of a reference occurs for one input: idf = log 2 for all
    same = cider_d(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]])
    assert same.value == pytest.approx(10)
    # "a b": cosine 2 / (sqrt 2 sqrt 4) of words, 1 / (sqrt 1 sqrt 3) of pairs, none longer
    half = cider_d(["a b", "x"], [["a b c d"], ["e f g h"]])
    penalty = math.exp(-(2**2) / 72)
    likeness = [2 / math.sqrt(2 * 4), 1 / math.sqrt(3), 0, 0]
    assert half.value == pytest.approx(10 * penalty * sum(likeness) / 4 / 2)
    # a repeated word is clipped to the reference's count, but lengthens the vector
    clipped = cider_d(["a a", "x"], [["a b"], ["y"]])
    assert clipped.value == pytest.approx(10 / 4 / 2 * 1 / (2 * math.sqrt(2)))
    # what every input's references hold says nothing
    assert cider_d(["a", "a"], [["a"], ["a"]]).value == 0


def test_caption_statistics():
    found = caption_statistics(["a red a red star", "A red star!", "a red star"])
    assert found["length"].value == pytest.approx(11 / 3)
    assert found["repetition"].value == pytest.approx(1 / 3)
    assert found["distinct-1"].value == pytest.approx(3 / 11)
    assert found["distinct-2"].value == pytest.approx(3 / 8)  # "a red", "red a", "red star"
    assert found["distinct"].value == pytest.approx(2 / 3)
    assert caption_statistics([])["distinct"].value is None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a red red star", True),
        ("a red star, a red star", True),
        ("a red star above a red ring", False),
        ("", False),
    ],
)
def test_repeats(text, expected):
    assert repeats(text) is expected


def test_wording_is_a_matter_of_words_alone():
    assert same_wording("On white, a STAR.", "on white a star")
    assert not same_wording("on white a star", "a star on white")
