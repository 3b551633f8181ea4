"""Kinds of values that options take: how each is checked, read from the shell, and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.checks import number, whole_number
from lib.lazy import Lazy

tensors = Lazy("analysis.modes.tensors")


@dataclass(frozen=True)
class Kind:
    """What values an option takes; this one takes anything.

    Attributes:
        metavar: the value in `--help`.
        nargs: how many words of the shell are one value.
    """

    metavar: str | None = field(default=None, kw_only=True)
    nargs: str | int | None = field(default=None, kw_only=True)

    def check(self, name: str, value: Any) -> Any:
        """The value as the mode gets it; ValueError with a sentence if it is not allowed."""
        return value

    def read(self, word: str) -> Any:
        """One word of the shell as a value."""
        return word

    def record(self, value: Any) -> Any:
        """The value as plain JSON types, for the record of a result."""
        return value

    def range(self) -> str:
        """What is allowed, for `help()` and `--help`; empty where the help says it."""
        return ""


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers from `low` to `high`."""

    low: int = 1
    high: int = 1000
    metavar: str | None = field(default="N", kw_only=True)

    def check(self, name: str, value: Any) -> int:
        """An int."""
        return whole_number(name, value, self.low, self.high)

    def read(self, word: str) -> int:
        """Digits."""
        return int(word)

    def range(self) -> str:
        """The two bounds."""
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Real(Kind):
    """Finite numbers from `low` to `high`."""

    low: float = 0.0
    high: float = 1.0
    metavar: str | None = field(default="X", kw_only=True)

    def check(self, name: str, value: Any) -> float:
        """A float."""
        return number(name, value, self.low, self.high)

    def read(self, word: str) -> float:
        """A decimal number."""
        return float(word)

    def range(self) -> str:
        """The two bounds."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "metavar", "|".join(self.words))

    def check(self, name: str, value: Any) -> str:
        """The word."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{name} is {value!r}: choose {' or '.join(self.words)}.")
        return value

    def range(self) -> str:
        """All of them."""
        return " or ".join(self.words)


@dataclass(frozen=True)
class Several(Kind):
    """One value of another kind, or a list of them: as many as `length`, if that is given."""

    of: Kind = Kind()
    length: int | None = None
    nargs: str | int | None = field(default="+", kw_only=True)

    def check(self, name: str, value: Any) -> list[Any]:
        """A list; tensors and arrays are lists, too."""
        value = value.tolist() if hasattr(value, "tolist") else value
        single = isinstance(value, str) or not isinstance(value, Sequence)
        values = [self.of.check(name, v) for v in ([value] if single else value)]
        if not values or (self.length and len(values) != self.length):
            raise ValueError(
                f"{name} has {len(values)} values: give {self.length or 'at least one'}."
            )
        return values

    def read(self, word: str) -> Any:
        """One of the values."""
        return self.of.read(word)

    def range(self) -> str:
        """Of each value."""
        return self.of.range()


@dataclass(frozen=True)
class Interval(Several):
    """Two timesteps, the lower one first."""

    of: Kind = Real(0, 1000)
    length: int | None = 2
    nargs: str | int | None = field(default=2, kw_only=True)
    metavar: str | tuple[str, ...] | None = field(default=("LOW", "HIGH"), kw_only=True)

    def check(self, name: str, value: Any) -> tuple[float, float]:
        """(low, high)."""
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise ValueError(f"{name} is {value!r}: give two timesteps, (low, high), or None.")
        low, high = super().check(name, value)
        if low > high:
            raise ValueError(f"{name} is {value!r}: give the lower timestep first.")
        return low, high

    def record(self, value: Any) -> list[float]:
        """As a list."""
        return list(value)


@dataclass(frozen=True)
class Seeds(Kind):
    """A seed, or a list of them: one for each sample of an input, or for each sample of all."""

    metavar: str | None = field(default="S", kw_only=True)

    def check(self, name: str, value: Any) -> int | list[int]:
        """An int, or a list of ints."""
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, (list, tuple, range)):
            return whole_number(name, value, 0, 2**63 - 1)
        seeds = [whole_number(name, v, 0, 2**63 - 1) for v in value]
        if not seeds:
            raise ValueError(f"{name} is an empty list: give one seed, or one a sample.")
        return seeds

    def read(self, word: str) -> int | list[int]:
        """Digits, or several numbers with commas between them."""
        numbers = [int(part) for part in word.split(",")]
        return numbers[0] if len(numbers) == 1 else numbers

    def range(self) -> str:
        """From 0 on."""
        return "0 to 2**63 - 1"


@dataclass(frozen=True)
class Words(Kind):
    """A text, or a list of them; blank ones are none."""

    metavar: str | None = field(default="TEXT", kw_only=True)
    nargs: str | int | None = field(default="append", kw_only=True)

    def check(self, name: str, value: Any) -> Any:
        """Contexts and lists as they are; None instead of a blank text."""
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        return None if isinstance(value, str) and not value.strip() else value

    def record(self, value: Any) -> Any:
        """Texts as they are; of a context, its digest."""
        return value if isinstance(value, (str, list)) else tensors.described(value)


@dataclass(frozen=True)
class Numbers(Kind):
    """A tensor, an array, or files of them; `Source` and `build` check it against the model."""

    metavar: str | None = field(default="FILE", kw_only=True)
    nargs: str | int | None = field(default="+", kw_only=True)

    def record(self, value: Any) -> Any:
        """Nothing: each sample's own record has the digest of its part."""
        return None
