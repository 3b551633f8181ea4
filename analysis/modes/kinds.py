"""Kinds of values that options take: how each is checked, read from the shell, and recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lib.checks import number, whole_number
from lib.lazy import Lazy

tensors = Lazy("analysis.modes.tensors")

LAST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What values an option takes; if nothing else is said, anything.

    Attributes:
        check: (name of the option, value) -> the value as the mode gets it; raises ValueError with
            one sentence if it is not allowed.
        read: one word of the shell -> a value.
        record: value -> plain JSON types, for the record of a result.
        range: what is allowed, for `help()` and `--help`; empty where the help says it.
        metavar: the value in `--help`.
        nargs: how many words of the shell are one value.
        each: where an option takes several values, the kind of each.
    """

    check: Callable[[str, Any], Any] = lambda name, value: value
    read: Callable[[str], Any] = str
    record: Callable[[Any], Any] = lambda value: value
    range: str = ""
    metavar: str | tuple[str, ...] | None = None
    nargs: str | int | None = None
    each: Kind | None = None


def whole(low: int = 1, high: int = 1000) -> Kind:
    """Whole numbers from `low` to `high`."""

    def check(name: str, value: Any) -> int:
        return whole_number(name, value, low, high)

    return Kind(check=check, read=int, range=f"{low} to {high}", metavar="N")


def real(low: float = 0.0, high: float = 1.0, metavar: str = "X") -> Kind:
    """Finite numbers from `low` to `high`."""

    def check(name: str, value: Any) -> float:
        return number(name, value, low, high)

    return Kind(check=check, read=float, range=f"{low:g} to {high:g}", metavar=metavar)


def choice(*words: str) -> Kind:
    """One of several words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{name} is {value!r}: choose {' or '.join(words)}.")
        return value

    return Kind(check=check, range=" or ".join(words), metavar="|".join(words))


def several(each: Kind) -> Kind:
    """One value of another kind, or a list of them; tensors and arrays are lists, too."""

    def check(name: str, value: Any) -> list[Any]:
        value = value.tolist() if hasattr(value, "tolist") else value
        single = isinstance(value, str) or not isinstance(value, Sequence)
        values = [each.check(name, v) for v in ([value] if single else value)]
        if not values:
            raise ValueError(f"{name} has 0 values: give at least one.")
        return values

    return Kind(
        check=check, read=each.read, range=each.range, metavar=each.metavar, nargs="+", each=each
    )


def interval() -> Kind:
    """Two timesteps, (low, high)."""
    each = real(0, 1000)

    def check(name: str, value: Any) -> tuple[float, float]:
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise ValueError(f"{name} is {value!r}: give two timesteps, (low, high), or None.")
        low, high = (each.check(name, timestep) for timestep in value)
        if low > high:
            raise ValueError(f"{name} is {value!r}: give the lower timestep first.")
        return low, high

    ends = {"metavar": ("LOW", "HIGH"), "nargs": 2}
    return Kind(check=check, read=each.read, record=list, range=each.range, each=each, **ends)


def seeds() -> Kind:
    """A seed, or a list of them: one for each sample of an input, or for each sample of all."""

    def check(name: str, value: Any) -> int | list[int]:
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, (list, tuple, range)):
            return whole_number(name, value, 0, LAST_SEED)
        if not value:
            raise ValueError(f"{name} is an empty list: give one seed, or one a sample.")
        return [whole_number(name, seed, 0, LAST_SEED) for seed in value]

    def read(word: str) -> int | list[int]:
        numbers = [int(part) for part in word.split(",")]
        return numbers[0] if len(numbers) == 1 else numbers

    return Kind(check=check, read=read, range="0 to 2**63 - 1", metavar="S")


def words() -> Kind:
    """A text, or a list of them, or a context; a blank text is None."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        return None if isinstance(value, str) and not value.strip() else value

    def record(value: Any) -> Any:
        return value if isinstance(value, (str, list)) else tensors.described(value)

    return Kind(check=check, record=record, metavar="TEXT", nargs="append")


def numbers(metavar: str = "FILE") -> Kind:
    """A tensor, an array, or files of them; `Source` and `build` check it against the model.

    Nothing is recorded of the option: each sample's own record has the digest of its part.
    """
    return Kind(record=lambda value: None, metavar=metavar, nargs="+")
