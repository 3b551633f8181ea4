"""Measures of written captions, by themselves and beside references.

Words are lower-cased runs of letters and digits everywhere, so that punctuation neither helps nor
hurts. BLEU and ROUGE-L agree with torchmetrics on such text (tested).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from analysis.metrics.statistics import Estimate, mean, number, share

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-cased words of a text, without punctuation."""
    return _WORD.findall(text.lower())


def same_wording(a: str, b: str) -> bool:
    """Whether two texts have the same words in the same order."""
    return words(a) == words(b)


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def repeats(text: str, longest: int = 4) -> bool:
    """Whether a run of 1 ... `longest` words is repeated immediately ("a red a red circle")."""
    tokens = words(text)
    return any(
        tokens[i : i + n] == tokens[i + n : i + 2 * n]
        for n in range(1, longest + 1)
        for i in range(len(tokens) - 2 * n + 1)
    )


def caption_statistics(texts: Sequence[str]) -> dict[str, Estimate]:
    """What captions look like by themselves.

    - length: mean number of words;
    - repetition: share of captions that `repeats` finds;
    - distinct-n: number of different n-grams over number of n-grams, of all captions together
      (Li et al. 2016; it falls with the number of captions: compare at equal n only);
    - distinct: number of different captions over number of captions.

    Args:
        texts: captions; of none, all values are None.
    """
    tokens = [words(text) for text in texts]
    result = {
        "length": mean([len(row) for row in tokens], "words"),
        "repetition": share(repeats(text) for text in texts),
    }
    for n in (1, 2):
        result[f"distinct-{n}"] = _variety(
            Counter(gram for row in tokens for gram in ngrams(row, n).elements())
        )
    return result | {"distinct": _variety(Counter(map(tuple, tokens)))}


def _variety(counts: Counter) -> Estimate:
    total = sum(counts.values())
    return number(len(counts) / total if total else None, total)


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], order: int = 4) -> Estimate:
    """Corpus BLEU: brevity penalty x geometric mean of clipped n-gram precisions, n = 1 ... order.

    Without smoothing: 0 if some order has no match at all. The reference length is that of the
    closest reference, the first of equally close ones.

    Args:
        texts: what was written.
        references: for each text, what it might have been.
        order: of the longest n-grams.

    Returns:
        BLEU in [0, 1]; of no texts, None.

    Raises:
        ValueError: not one non-empty list of references a text.

    Source: Papineni et al. 2002.
    """
    pairs = _pairs(texts, references)
    if not pairs:
        return number(None, 0)
    matched, total = np.zeros(order), np.zeros(order)
    for text, refs in pairs:
        for n in range(1, order + 1):
            counts, best = ngrams(text, n), Counter()
            for ref in refs:
                best |= ngrams(ref, n)
            matched[n - 1] += sum((counts & best).values())
            total[n - 1] += sum(counts.values())
    if not matched.all():
        return number(0.0, len(pairs))
    written = sum(len(text) for text, _ in pairs)
    wanted = sum(min(map(len, refs), key=lambda k: abs(k - len(text))) for text, refs in pairs)
    penalty = min(0.0, 1 - wanted / written)
    return number(math.exp(penalty + np.log(matched / total).mean()), len(pairs))


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Estimate:
    """Mean over texts of the best reference's F1 of the longest common subsequence, in [0, 1].

        F1 = 2 P R / (P + R),   P = lcs / |text|,   R = lcs / |reference|

    Args:
        texts, references: as `bleu` takes them.

    Raises:
        ValueError: as `bleu`.

    Source: Lin 2004.
    """
    return mean(
        [
            max(2 * _lcs(text, ref) / max(len(text) + len(ref), 1) for ref in refs)
            for text, refs in _pairs(texts, references)
        ]
    )


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if x == y else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def cider_d(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    order: int = 4,
    sigma: float = 6.0,
) -> Estimate:
    """CIDEr-D, 0 ... 10: 10 x mean over n = 1 ... 4 and references of the clipped tf-idf cosine.

        sim_n(c, r) = exp(-(|c| - |r|)^2 / 2 sigma^2)  min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|)

    g = count x log(number of inputs / number of inputs whose references hold the n-gram), |c| the
    number of words.

    Args:
        texts, references: as `bleu` takes them.
        order: of the longest n-grams.
        sigma: how much lengths may differ, in words.

    Raises:
        ValueError: as `bleu`; or fewer than two inputs, of which every n-gram weighs log 1 = 0.

    Source: Vedantam, Zitnick and Parikh 2015.
    """
    pairs = _pairs(texts, references)
    if len(pairs) < 2:
        raise ValueError(
            f"CIDEr-D of {len(pairs)} texts is not defined: it weighs words by how few of the "
            "inputs have them; give 2 samples or more."
        )
    scores = []
    for n in range(1, order + 1):
        grams = [(ngrams(text, n), [ngrams(ref, n) for ref in refs]) for text, refs in pairs]
        holds = Counter(gram for _, refs in grams for gram in set().union(*refs))

        def weighed(counts: Counter, holds: Counter = holds) -> dict[tuple[str, ...], float]:
            return {g: c * math.log(len(pairs) / max(holds[g], 1)) for g, c in counts.items()}

        for (text, refs), (counts, others) in zip(pairs, grams, strict=True):
            a = weighed(counts)
            likeness = 0.0
            for ref, other in zip(refs, others, strict=True):
                b = weighed(other)
                norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
                shared = sum(min(v, b[g]) * b[g] for g, v in a.items() if g in b)
                penalty = math.exp(-((len(text) - len(ref)) ** 2) / (2 * sigma**2))
                likeness += penalty * shared / norms if norms else 0.0
            scores.append(10 * likeness / len(refs))
    # every order has equally many scores: their overall mean is the mean of their means
    return number(float(np.mean(scores)), len(pairs))


def _pairs(
    texts: Sequence[str], references: Sequence[Sequence[str]]
) -> list[tuple[list[str], list[list[str]]]]:
    """Texts and references as words.

    Raises:
        ValueError: not one non-empty list of references a text.
    """
    if isinstance(texts, str) or any(isinstance(refs, str) for refs in references):
        raise ValueError("a single string was given; give a list of texts and lists of references.")
    if len(texts) != len(references) or not all(references):
        raise ValueError(
            f"{len(texts)} texts, {len(references)} lists of references: give each text one list "
            "with at least one reference."
        )
    return [(words(t), [words(r) for r in refs]) for t, refs in zip(texts, references, strict=True)]
