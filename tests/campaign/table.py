"""What came of the inputs, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

GOOD = ("ok", "sentence")
BAD = ("traceback", "hang", "loss", "leftover")
"""ok: done as asked; sentence: refused, one line that says what is wrong; traceback: anything else
that was raised, also the end of the process; hang: nothing in a minute; loss: what was there before
is gone, or what comes of a kill differs; leftover: temporary files that nobody will remove."""


@dataclass(frozen=True)
class Outcome:
    """Of one input: one of `GOOD` or `BAD`, what was said, and where the input is kept."""

    status: str
    said: str = ""
    kept: str = ""


@dataclass
class Table:
    """Outcomes by kind of input."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: Outcome) -> None:
        """Count one outcome; a bad one is kept with its words."""
        self.counts.setdefault(kind, Counter())[outcome.status] += 1
        if outcome.status in BAD:
            self.failures.append(f"{kind}: {outcome.status}: {outcome.said} [{outcome.kept}]")

    @property
    def bad(self) -> int:
        """How many outcomes are not good."""
        return sum(count[status] for count in self.counts.values() for status in BAD)

    def __str__(self) -> str:
        """As Markdown, with the sums below."""
        columns = ("tried", *GOOD, *BAD)
        total: Counter[str] = sum(self.counts.values(), Counter())
        lines = [f"| kind | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        for name, count in {**self.counts, "**all**": total}.items():
            numbers = [count.total(), *(count[status] for status in (*GOOD, *BAD))]
            lines.append(f"| {name} | {' | '.join(f'{n:,}' for n in numbers)} |")
        return "\n".join(lines)
