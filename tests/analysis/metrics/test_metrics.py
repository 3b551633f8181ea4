"""Measures against closed forms, brute force over all pairs, and torchmetrics."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from torchmetrics.functional.text import bleu_score, rouge_score

from analysis.metrics import text_metrics
from analysis.metrics.metrics import (
    CMMD,
    FrechetDistance,
    KernelDistance,
    Mean,
    Moments,
    PairScore,
    PairwiseDiversity,
    Proportion,
    Ratio,
    RecallAtK,
)
from analysis.metrics.statistics import Z95, Estimate, wilson
from analysis.metrics.text_metrics import Bleu, CaptionStatistics, CiderD, RougeL, repeats


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


def test_mean_has_the_normal_interval():
    found = Mean("dB").update([1.0, 2.0, 3.0, 6.0]).compute()
    half = 1.959964 * math.sqrt(14 / 3 / 4)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)
    assert (found.n, found.unit, found.kind) == (4, "dB", "mean")
    assert Mean().update(5.0).compute() == Estimate(5.0, None, None, 1, "mean")
    assert Mean().compute().value is None


def test_ratio_by_the_delta_method_agrees_with_resampling():
    rng = np.random.default_rng(0)
    b = rng.gamma(8.0, 1.0, 400)
    a = 0.5 * b + rng.normal(0, 0.5, 400)
    found = Ratio().update(a, b).compute()
    picks = rng.integers(400, size=(4000, 400))
    resampled = a[picks].mean(axis=1) / b[picks].mean(axis=1)
    assert found.value == pytest.approx(a.mean() / b.mean(), rel=1e-12)
    assert found.high - found.low == pytest.approx(2 * Z95 * resampled.std(), rel=0.06)
    exact = Ratio().update([1.0, 2.0], [2.0, 4.0]).compute()
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    assert Ratio().update(1.0, 0.0).compute().value is None
    assert Ratio().compute().value is None


# ------------------------------------------------------------------ merging


def everything(features, flags, captions):
    """Every accumulator, fed with a part of the data."""
    a, b, c = features
    references = [[caption, caption[::-1]] for caption, _ in captions]
    texts = [text for _, text in captions]
    return [
        Proportion().update(flags),
        Mean().update(a[:, 0]),
        Ratio().update(a[:, 0] + 3, b[:, 0] + 3),
        Moments().update(a),
        FrechetDistance().update(real=a, generated=b),
        KernelDistance().update(real=a, generated=b),
        CMMD().update(real=a, generated=b),
        PairScore().update(a, b),
        RecallAtK((1, 3)).update(a, b),
        PairwiseDiversity().update(np.stack([a, b, c], axis=1)),
        CaptionStatistics().update(texts),
        Bleu().update(texts, references),
        RougeL().update(texts, references),
        CiderD().update(texts, references),
    ]


def numbers(metric):
    if isinstance(metric, Moments):
        return [metric.n, *metric.mean, *metric.covariance.ravel()]
    found = metric.compute()
    estimates = list(found.values()) if isinstance(found, dict) else [found]
    return [x for e in estimates for x in (e.value, e.low, e.high, e.n) if x is not None]


def test_merging_parts_is_a_single_pass():
    n = 60
    features = [normal(k, n, 5) + k / 2 for k in range(3)]
    flags = normal(4, n) > 0
    vocabulary = ["a", "small", "red", "circle", "left", "of", "large", "blue", "star"]
    rng = np.random.default_rng(5)
    captions = [tuple(" ".join(rng.choice(vocabulary, 9)) for _ in range(2)) for _ in range(n)]
    whole = everything(features, flags, captions)
    cuts = [(0, 17), (17, 18), (18, 60)]
    parts = [everything([f[i:j] for f in features], flags[i:j], captions[i:j]) for i, j in cuts]
    for total, first, *others in zip(whole, *parts, strict=True):
        merged = pickle.loads(pickle.dumps(first))  # as another process would send it
        for other in others:
            assert merged.merge(other) is merged
        assert numbers(merged) == pytest.approx(numbers(total), rel=1e-9), type(total).__name__


def test_merging_into_an_empty_one_leaves_the_other_alone():
    full = Moments().update(normal(0, 4, 2))
    empty = Moments().merge(full).update(normal(1, 4, 2))
    assert (empty.n, full.n) == (8, 4)
    assert full.mean == pytest.approx(normal(0, 4, 2).mean(axis=0))


def test_moments_keep_their_digits_far_from_the_origin():
    x = normal(0, 1000, 3)
    moments = Moments()
    for part in np.split(x + 1e6, 10):
        moments.update(torch.from_numpy(part))
    assert moments.covariance == pytest.approx(np.cov(x.T), rel=1e-8)


# ------------------------------------------------------------------ distances


def test_frechet_distance_of_two_gaussians():
    a = with_moments(50, [0.0, 0.0], np.diag([1.0, 4.0]))
    b = with_moments(70, [3.0, 4.0], np.diag([9.0, 1.0]), seed=1)
    # commuting covariances: |m|^2 + sum (sqrt(l) - sqrt(k))^2
    expected = 25 + (1 - 3) ** 2 + (2 - 1) ** 2
    found = FrechetDistance().update(real=a, generated=b).compute()
    assert (found.value, found.n) == (pytest.approx(expected, rel=1e-9), 50)


def test_frechet_distance_with_covariances_that_do_not_commute():
    s, t = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    a, b = with_moments(40, [0.0, 1.0], s), with_moments(40, [0.5, 0.0], t, seed=1)
    expected = 1.25 + np.trace(s + t - 2 * sqrtm(s @ t).real)
    found = FrechetDistance().update(real=a, generated=b).compute()
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_equal_sets_are_at_distance_zero():
    x = normal(0, 40, 6)
    assert FrechetDistance().update(real=x, generated=x).compute().value == pytest.approx(
        0, abs=1e-6
    )
    few = normal(0, 4, 6)  # fewer samples than features: a singular covariance
    assert FrechetDistance().update(few, few).compute().value == pytest.approx(0, abs=1e-6)
    assert CMMD().update(real=x, generated=x[::-1]).compute().value == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_brute_force():
    x, y = normal(0, 5, 3), normal(1, 7, 3) + 0.5

    def k(a, b):
        return (sum(a * b) / 3 + 1) ** 3

    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    xy = np.mean([k(a, b) for a in x for b in y])
    found = KernelDistance().update(real=x).update(generated=torch.from_numpy(y)).compute()
    assert found.value == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_kernel_distance_known_by_hand_and_unbiased():
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    # k(0, .) = 1, k(1, 2) = 27: 1 + 1 - 2 (1 + 1 + 1 + 27) / 4
    assert KernelDistance().update(x, y).compute().value == pytest.approx(-13)
    draws = [
        KernelDistance().update(normal(k, 20, 2), normal(1000 + k, 20, 2)).compute().value
        for k in range(300)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(300)


def test_kernels_over_more_rows_than_a_block(monkeypatch):
    x, y = normal(0, 23, 3), normal(1, 31, 3)
    whole = [metric().update(x, y).compute().value for metric in (KernelDistance, CMMD)]
    monkeypatch.setattr("analysis.metrics.metrics._BLOCK", 4)
    blocks = [metric().update(x, y).compute().value for metric in (KernelDistance, CMMD)]
    assert blocks == pytest.approx(whole, rel=1e-12)


def test_cmmd_by_brute_force():
    x, y = normal(0, 4, 3), normal(1, 6, 3) + 1
    u, v = ([row / math.sqrt(sum(row**2)) for row in s] for s in (x, y))

    def mean(a, b):
        return np.mean([math.exp(-sum((p - q) ** 2) / 200) for p in a for q in b])

    expected = 1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v))
    assert CMMD().update(real=x, generated=y).compute().value == pytest.approx(expected, rel=1e-8)
    opposite = CMMD().update(np.array([[1.0, 0]] * 2), np.array([[-1.0, 0]] * 2)).compute().value
    assert opposite == pytest.approx(2000 * (1 - math.exp(-4 / 200)))


# ------------------------------------------------------------------ retrieval, scores, diversity


def test_recall_at_k_of_a_known_order():
    gallery = np.eye(4)
    queries = np.array([[9, 0, 0, 0], [3, 2, 0, 0], [3, 2, 1, 0], [0, 0, 0, 1.0]])
    found = RecallAtK((1, 2, 3)).update(queries, gallery).compute()
    assert {k: e.value for k, e in found.items()} == {1: 0.5, 2: 0.75, 3: 1.0}


def test_recall_counts_any_item_of_the_label_and_ties_against():
    queries = gallery = np.ones((4, 2))
    assert RecallAtK((1,)).update(queries, gallery).compute()[1].value == 0
    assert RecallAtK((4,)).update(queries, gallery).compute()[4].value == 1
    labels = ["same"] * 4
    assert RecallAtK((1,)).update(queries, gallery, labels).compute()[1].value == 1


def test_pair_score_is_the_mean_cosine():
    a, b = np.array([[3.0, 0], [1, 1], [1, 0]]), np.array([[1.0, 0], [1, 0], [-2, 0]])
    expected = (1 + math.sqrt(0.5) - 1) / 3
    assert PairScore().update(a, torch.from_numpy(b)).compute().value == pytest.approx(expected)


@pytest.mark.parametrize(
    "distance, expected",
    [("euclidean", (5 + 5 + 0) / 3), ("absolute", (3.5 + 3.5 + 0) / 3), ("cosine", 0.0)],
)
def test_pairwise_diversity_of_three_samples(distance, expected):
    samples = np.array([[[3.0, 4.0], [6.0, 8.0], [6.0, 8.0]]])
    found = PairwiseDiversity(distance).update(samples).compute()
    assert found.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FrechetDistance().update(real=np.ones(3)), "shape"),
        (lambda: FrechetDistance().update(real=np.full((2, 2), np.nan)), "NaN"),
        (lambda: FrechetDistance().update(np.ones((1, 2)), np.ones((5, 2))).compute(), "2 samples"),
        (lambda: FrechetDistance().update(np.eye(3), np.eye(2)).compute(), "3 and 2 wide"),
        (lambda: Moments().update(np.eye(3)).update(np.eye(2)), "shape"),
        (lambda: KernelDistance().update(real=np.eye(2)).compute(), "0 generated"),
        (lambda: CMMD().update(np.eye(3), np.eye(2)).compute(), "3 and 2 wide"),
        (lambda: PairScore().update(np.eye(2), np.ones((3, 2))), "pairs"),
        (lambda: RecallAtK((0,)), "ranks from 1"),
        (lambda: RecallAtK().compute(), "nothing"),
        (lambda: RecallAtK().update(np.eye(2), np.eye(2), ["x"]), "1 labels"),
        (lambda: PairwiseDiversity("far"), "euclidean"),
        (lambda: PairwiseDiversity().update(np.ones((2, 1, 3))), "2 or more"),
        (lambda: Proportion().update([0.5]), "booleans"),
        (lambda: Bleu().update(["a"], [[]]), "at least one"),
        (lambda: RougeL().update("a", ["b"]), "single string"),
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
    assert Bleu().update(TEXTS, REFERENCES).compute().value == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 1
    assert Bleu().update(["red"], [["blue"]]).compute().value == 0
    assert Bleu().update([TEXTS[0]], [[TEXTS[0]]]).compute().value == pytest.approx(1)


def test_rouge_l_as_torchmetrics_has_it():
    expected = rouge_score(TEXTS, REFERENCES, accumulate="best", rouge_keys="rougeL")
    found = RougeL().update(TEXTS, REFERENCES).compute()
    assert found.value == pytest.approx(expected["rougeL_fmeasure"].item(), rel=1e-5)


def test_cider_d_by_hand():
    # two inputs; every n-gram of a reference occurs for one input: idf = log 2 for all
    same = CiderD().update(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]]).compute()
    assert same.value == pytest.approx(10)
    # "a b": cosine 2 / (sqrt 2 sqrt 4) of words, 1 / (sqrt 1 sqrt 3) of pairs, none longer
    half = CiderD().update(["a b", "x"], [["a b c d"], ["e f g h"]]).compute()
    penalty = math.exp(-(2**2) / 72)
    likeness = [2 / math.sqrt(2 * 4), 1 / math.sqrt(3), 0, 0]
    assert half.value == pytest.approx(10 * penalty * sum(likeness) / 4 / 2)
    # a repeated word is clipped to the reference's count, but lengthens the vector
    clipped = CiderD().update(["a a", "x"], [["a b"], ["y"]]).compute()
    assert clipped.value == pytest.approx(10 / 4 / 2 * 1 / (2 * math.sqrt(2)))
    # what every input's references hold says nothing
    assert CiderD().update(["a", "a"], [["a"], ["a"]]).compute().value == 0


def test_caption_statistics():
    found = CaptionStatistics().update(["a red a red star", "A red star!", "a red star"]).compute()
    assert found["length"].value == pytest.approx(11 / 3)
    assert found["repetition"].value == pytest.approx(1 / 3)
    assert found["distinct-1"].value == pytest.approx(3 / 11)
    assert found["distinct-2"].value == pytest.approx(3 / 8)  # "a red", "red a", "red star"
    assert found["distinct"].value == pytest.approx(2 / 3)
    assert CaptionStatistics().compute()["distinct"].value is None


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
    assert text_metrics.same_wording("On white, a STAR.", "on white a star")
    assert not text_metrics.same_wording("on white a star", "a star on white")
