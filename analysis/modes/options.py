"""Options: each declared once, with its default, its range, and what it does.

From a declaration follow the argument of the Python function and its `help()`, the check with its
sentence, the flag of the command and its line in `--help`, and what a record keeps of it.

`Settings` has what every mode takes. What one mode takes besides stands in that mode's signature,
as the default of a keyword (`analysis.modes.table.mode`):

    def edit(vd, images, source, target, *, feather=Option(0, Whole(0, 512), "..."), settings): ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lib.checks import number, whole_number
from lib.lazy import Lazy

tensors = Lazy("analysis.modes.tensors")


# ------------------------------------------------------------------ kinds of values


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
        """An int, or a list of two ints or more."""
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, (list, tuple, range)):
            return whole_number(name, value, 0, 2**63 - 1)
        seeds = [whole_number(name, v, 0, 2**63 - 1) for v in value]
        if not seeds:
            raise ValueError(f"{name} is an empty list: give one seed, or one a sample.")
        return seeds[0] if len(seeds) == 1 else seeds

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


# ------------------------------------------------------------------ options


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        default: where none is given; None is always allowed where it is the default.
        kind: what it takes.
        help: what it does, in a line.
        recorded: whether the records of results keep it.
        flags: its spellings in the shell; `--name-with-hyphens` if there are none.
        where: "image" or "text" for an option of what makes only those; "" for all.
        extra: further arguments of `argparse`.
    """

    default: Any
    kind: Kind
    help: str
    recorded: bool = True
    flags: tuple[str, ...] = ()
    where: str = ""

    def check(self, name: str, value: Any) -> Any:
        """The value as the mode gets it.

        Raises:
            ValueError: it is not allowed; the sentence says what is.
        """
        if value is self or (value is None and self.default is None):
            value = self.default
        return None if value is None else self.kind.check(name, value)

    def line(self) -> str:
        """Its help, with range and default."""
        range = self.kind.range()
        default = "" if self.default is None else f"default {_plain(self.default)}"
        about = "; ".join(part for part in (range, default) if part)
        return f"{self.help} ({about})" if about else self.help

    def add_to(self, parser: Any, name: str) -> None:
        """Its flag, in a parser."""
        flags = self.flags or (f"--{name.replace('_', '-')}",)
        parser.add_argument(
            *flags,
            dest=name,
            default=argparse.SUPPRESS,
            type=_reader(self),
            **({"action": "append"} if self.kind.nargs == "append" else {"nargs": self.kind.nargs}),
            metavar=self.kind.metavar,
            help=self.line().replace("%", "%%"),
        )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _reader(option: Option) -> Callable[[str], Any]:
    """For argparse: a word as a value, or its sentence."""
    several = isinstance(option.kind, Several)
    of = option.kind.of if several else option.kind

    def read(word: str) -> Any:
        try:
            value = of.read(word)
        except (ValueError, OverflowError):  # no number, or one with thousands of digits
            value = word
        try:
            of.check("", value)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{word!r} is not allowed: give {of.range()}"
            ) from None
        return value

    return read


def options_of(declared: type | Mapping[str, Any]) -> dict[str, Option]:
    """Name -> option, of a dataclass like `Settings` or of defaults of a function."""
    if isinstance(declared, type):
        declared = {f.name: f.default for f in fields(declared)}
    return {name: option for name, option in declared.items() if isinstance(option, Option)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every mode takes by keyword, checked."""

    n: int = Option(1, Whole(1, 100_000), "samples of each input", recorded=False)
    seed: int | list[int] | None = Option(
        None,
        Seeds(),
        "of the first sample, the next ones count on; or several (1,2,3), one a sample; None: drawn",
        recorded=False,
    )
    steps: int | None = Option(None, Whole(1, 999), "sampling steps; None: the model's")
    spacing: str = Option(
        "exact",
        Choice(words=("exact", "released")),
        "of the timesteps; released is the first release's, which takes more steps than asked for "
        "where 1000 is no multiple of them",
    )
    scale: float | None = Option(
        None, Real(0, 100), "guidance; 1 is the plain conditional model; None: the mode's"
    )
    negative_prompt: Any = Option(
        None,
        Words(),
        "what texts are guided away from, and pictures where no text conditions; one, or one an "
        "input",
        recorded=False,
        flags=("--negative", "--negative-prompt"),
    )
    null: Any = Option(
        None,
        Kind(metavar="zeros|black|grey|FILE"),
        "what pictures' contexts are guided away from: zeros, black, grey, a picture, or its "
        "context; None: the model's",
        recorded=False,
    )
    sampler: str = Option(
        "ddim",
        Choice(words=("ddim", "dpmpp_2m", "heun", "euler", "unipc")),
        "see lib.sampler",
    )
    eta: float = Option(0.0, Real(), "share of fresh noise a step; ddim only")
    interval: tuple[float, float] | None = Option(
        None, Interval(), "timesteps between which to guide; None: guide at every timestep"
    )
    fidelity: float = Option(
        0.0, Real(), "how late to start: 0 from noise alone, 1 returns what is started from"
    )
    start: Any = Option(
        None,
        Numbers(metavar="PATH"),
        "what to start from with fidelity: pictures (texts, where texts are made), or latents; "
        "None: the inputs",
        recorded=False,
    )
    latents: Any = Option(
        None,
        Numbers(),
        "initial noise instead of the seeds', one a sample: tensor, array, .safetensors, .npy",
        recorded=False,
    )
    noise: str = Option(
        "sample",
        Choice(words=("sample", "official")),
        "sample: a generator a sample; official: the released code's, one draw for the n samples "
        "of an input",
    )
    height: int | None = Option(
        None, Whole(8, 8192), "of pictures, in pixels; None: the model's", where="image"
    )
    width: int | None = Option(
        None, Whole(8, 8192), "of pictures, in pixels; None: the model's", where="image"
    )
    fit: str = Option(
        "squeeze",
        Choice(words=("squeeze", "crop", "pad")),
        "how pictures that are not square become so: squeezed (as the released code does), cropped "
        "or padded",
    )
    temperature: float | None = Option(
        None,
        Real(0, 100),
        "of decoding texts: 0 takes the most likely word; None: the model's",
        where="text",
        recorded=False,
    )
    output: str = Option(
        "pil",
        Choice(words=("pil", "tensor", "latents")),
        "pil: pictures and strings; tensor, latents: numbers",
        flags=("--as", "--output"),
    )
    batch_size: int | None = Option(
        None,
        Whole(1, 4096),
        "samples in memory at a time; None: by the model's size",
        recorded=False,
        flags=("--batch", "--batch-size"),
    )

    def __post_init__(self) -> None:
        for name, option in options_of(Settings).items():
            object.__setattr__(self, name, option.check(name, getattr(self, name)))

    def record(self, data: str) -> dict[str, Any]:
        """What a record keeps of them, as plain JSON types, for one kind of data."""
        return {
            name: None if getattr(self, name) is None else o.kind.record(getattr(self, name))
            for name, o in options_of(Settings).items()
            if o.recorded and o.where in ("", data)
        }


ELSEWHERE = {
    "guidance_scale": "scale",
    "cfg_scale": "scale",
    "unconditional_guidance_scale": "scale",
    "num_inference_steps": "steps",
    "ddim_steps": "steps",
    "generator": "seed",
    "num_images_per_prompt": "n",
    "num_samples": "n",
    "n_samples": "n",
    "ddim_eta": "eta",
    "strength_image": "fidelity",
    "text_to_image_strength": "strength",
    "prompt": "texts",
    "image": "images",
    "output_type": "output",
    "scheduler": "sampler",
}
"""Names that other programs have for an option -> ours."""


def known_only(what: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """TypeError that names options there are not, and those there are."""
    unknown = sorted(set(given) - set(allowed))
    if not unknown:
        return
    hints = [f"{name} is called {ELSEWHERE[name]} here" for name in unknown if name in ELSEWHERE]
    raise TypeError(
        f"{what} has no option {', '.join(unknown)}"
        + (f" ({'; '.join(hints)})" if hints else "")
        + f": choose from {', '.join(allowed)}."
    )
