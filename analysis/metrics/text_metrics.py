"""Measures of written captions, as accumulators (`analysis.metrics.accumulators`).

Words are lower-cased runs of letters and digits everywhere, so that punctuation neither helps nor
hurts. BLEU and ROUGE-L agree with torchmetrics on such text (tested).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from analysis.metrics.accumulators import Mean, Proportion
from analysis.metrics.statistics import Estimate, number

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


class CaptionStatistics:
    """What captions look like by themselves.

    - length: mean number of words;
    - repetition: share of captions that `repeats` finds;
    - distinct-n: number of different n-grams over number of n-grams, of all captions together
      (Li et al. 2016; it falls with the number of captions: compare at equal n only);
    - distinct: number of different captions over number of captions.
    """

    def __init__(self, orders: Sequence[int] = (1, 2)) -> None:
        self.length, self.repetition = Mean("words"), Proportion()
        self.seen: dict[int, Counter] = {n: Counter() for n in orders}
        self.wordings: Counter[tuple[str, ...]] = Counter()

    def update(self, texts: Iterable[str]) -> CaptionStatistics:
        """Take in captions."""
        for text in texts:
            tokens = words(text)
            self.length.update(float(len(tokens)))
            self.repetition.update(repeats(text))
            self.wordings[tuple(tokens)] += 1
            for n, counts in self.seen.items():
                counts.update(ngrams(tokens, n))
        return self

    def merge(self, other: CaptionStatistics) -> CaptionStatistics:
        """Take in another's captions."""
        self.length.merge(other.length)
        self.repetition.merge(other.repetition)
        self.wordings += other.wordings
        for n, counts in self.seen.items():
            counts.update(other.seen[n])
        return self

    def compute(self) -> dict[str, Estimate]:
        """Name -> number."""
        found = {"length": self.length.compute(), "repetition": self.repetition.compute()}
        for n, counts in self.seen.items():
            found[f"distinct-{n}"] = _variety(counts)
        return found | {"distinct": _variety(self.wordings)}


def _variety(counts: Counter) -> Estimate:
    total = sum(counts.values())
    return number(len(counts) / total if total else None, total)


class Bleu:
    """Corpus BLEU: brevity penalty x geometric mean of clipped n-gram precisions, n = 1 ... order.

    Without smoothing: 0 if some order has no match at all. The reference length is that of the
    closest reference, the first of equally close ones.

    Source: Papineni et al. 2002.
    """

    def __init__(self, order: int = 4) -> None:
        self.order = order
        self.matched, self.total = np.zeros(order, np.int64), np.zeros(order, np.int64)
        self.written = self.wanted = self.n = 0

    def update(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
        """Take in texts, and for each its references."""
        for text, refs in _pairs(texts, references):
            self.written += len(text)
            self.wanted += min((len(ref) for ref in refs), key=lambda k: abs(k - len(text)))
            for n in range(1, self.order + 1):
                counts, best = ngrams(text, n), Counter()
                for ref in refs:
                    best |= ngrams(ref, n)
                self.matched[n - 1] += sum((counts & best).values())
                self.total[n - 1] += sum(counts.values())
            self.n += 1
        return self

    def merge(self, other: Bleu) -> Bleu:
        """Take in another's counts."""
        self.matched += other.matched
        self.total += other.total
        self.written += other.written
        self.wanted += other.wanted
        self.n += other.n
        return self

    def compute(self) -> Estimate:
        """BLEU in [0, 1]."""
        if self.n == 0:
            return number(None, 0)
        if not self.matched.all():
            return number(0.0, self.n)
        penalty = min(0.0, 1 - self.wanted / self.written)
        return number(math.exp(penalty + np.log(self.matched / self.total).mean()), self.n)


class RougeL:
    """Mean over texts of the best reference's F1 of the longest common subsequence (Lin 2004)."""

    def __init__(self) -> None:
        self.mean = Mean()

    def update(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> RougeL:
        """Take in texts, and for each its references."""
        for text, refs in _pairs(texts, references):
            # F1 = 2 PR / (P + R) with P = lcs / |text|, R = lcs / |ref|
            scores = [2 * _lcs(text, ref) / max(len(text) + len(ref), 1) for ref in refs]
            self.mean.update(max(scores))
        return self

    def merge(self, other: RougeL) -> RougeL:
        """Take in another's texts."""
        self.mean.merge(other.mean)
        return self

    def compute(self) -> Estimate:
        """ROUGE-L in [0, 1]."""
        return self.mean.compute()


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


class CiderD:
    """CIDEr-D: 10 x mean over n = 1 ... 4 and references of the clipped tf-idf cosine of n-grams.

        sim_n(c, r) = exp(-(|c| - |r|)^2 / 2 sigma^2)  min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|)

    g = count x log(number of inputs / number of inputs whose references hold the n-gram), |c| the
    number of words, sigma = 6. Document frequencies need all inputs, so texts are kept. On a
    single input every frequency is 1 and the score 0.

    Source: Vedantam, Zitnick and Parikh 2015.
    """

    ORDER, SIGMA = 4, 6.0

    def __init__(self) -> None:
        self.pairs: list[tuple[list[str], list[list[str]]]] = []

    def update(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> CiderD:
        """Take in texts, and for each its references."""
        self.pairs += _pairs(texts, references)
        return self

    def merge(self, other: CiderD) -> CiderD:
        """Take in another's texts."""
        self.pairs += other.pairs
        return self

    def compute(self) -> Estimate:
        """Mean score, from 0 to 10."""
        mean = Mean()
        for n in range(1, self.ORDER + 1):
            holds = Counter(g for _, refs in self.pairs for g in set().union(*_grams(refs, n)))
            for text, refs in self.pairs:
                mean.update(10 * np.mean([self._likeness(text, ref, n, holds) for ref in refs]))
        # every order has equally many scores: their overall mean is the mean of their means
        value = mean.compute().value
        return number(value, len(self.pairs))

    def _likeness(self, text: list[str], ref: list[str], n: int, holds: Counter) -> float:
        a, b = (
            {g: c * math.log(len(self.pairs) / max(holds[g], 1)) for g, c in ngrams(t, n).items()}
            for t in (text, ref)
        )
        norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        if norms == 0:
            return 0.0
        shared = sum(min(v, b[g]) * b[g] for g, v in a.items() if g in b)
        return shared / norms * math.exp(-((len(text) - len(ref)) ** 2) / (2 * self.SIGMA**2))


def _grams(refs: Iterable[Sequence[str]], n: int) -> list[Counter]:
    return [ngrams(ref, n) for ref in refs]


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
