"""Options: each declared once, with its default, its range, and what it does.

From a declaration follow the argument of the Python function and its `help()`, the check with its
sentence, the flag of the command and its line in `--help`, and what a record keeps of it.

`Settings` has what every mode takes. What one mode takes besides stands in that mode's signature,
as the default of a keyword (`analysis.modes.table.mode`):

    def edit(vd, images, source, target, *, feather=Option(0, whole(0, 512), "..."), settings): ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from analysis.modes.kinds import Kind, choice, interval, numbers, real, seeds, whole, words

if TYPE_CHECKING:
    from lib.schedule import NoiseSchedule


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
        if value is self:
            value = self.default
        if value is None and self.default is None:
            return None
        return self.kind.check(name, value)

    def line(self) -> str:
        """Its help, with range and default."""
        range = self.kind.range
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
    of = option.kind.each or option.kind

    def read(word: str) -> Any:
        try:
            value = of.read(word)
        except (ValueError, OverflowError):  # no number, or one with thousands of digits
            value = word
        if not of.range:  # several words are one value, or it takes a model to check it
            return value
        try:
            of.check("", value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not allowed: give {of.range}") from None
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

    n: int = Option(1, whole(1, 100_000), "samples of each input", recorded=False)
    seed: int | list[int] | None = Option(
        None,
        seeds(),
        "of the first sample, the next count on; or several (1,2,3), one a sample; None draws",
        recorded=False,
    )
    steps: int | None = Option(None, whole(1, 999), "sampling steps; None: the model's")
    spacing: str = Option(
        "exact",
        choice("exact", "released"),
        "of the timesteps; released is the first release's, which takes more steps than asked for "
        "where 1000 is no multiple of them",
    )
    scale: float | None = Option(
        None, real(0, 100), "guidance; 1 is the plain conditional model; None: the mode's"
    )
    negative_prompt: Any = Option(
        None,
        words(),
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
        choice("ddim", "dpmpp_2m", "heun", "euler", "unipc"),
        "see lib.sampler",
    )
    eta: float = Option(0.0, real(), "share of fresh noise a step; ddim only")
    interval: tuple[float, float] | None = Option(
        None, interval(), "timesteps between which to guide; None: guide at every timestep"
    )
    fidelity: float = Option(
        0.0, real(), "how late to start: 0 from noise alone, 1 returns what is started from"
    )
    start: Any = Option(
        None,
        numbers("PATH"),
        "what to start from with fidelity: pictures (texts, where texts are made), or latents; "
        "None: the inputs",
        recorded=False,
    )
    latents: Any = Option(
        None,
        numbers(),
        "initial noise instead of the seeds', one a sample: tensor, array, .safetensors, .npy",
        recorded=False,
    )
    noise: str = Option(
        "sample",
        choice("sample", "official"),
        "sample: a generator a sample; official: the released code's, one draw for the n samples "
        "of an input",
    )
    height: int | None = Option(
        None, whole(8, 8192), "of pictures, in pixels; None: the model's", where="image"
    )
    width: int | None = Option(
        None, whole(8, 8192), "of pictures, in pixels; None: the model's", where="image"
    )
    fit: str = Option(
        "squeeze",
        choice("squeeze", "crop", "pad"),
        "how pictures that are not square become so: squeezed (as the released code does), cropped "
        "or padded",
    )
    temperature: float | None = Option(
        None,
        real(0, 100),
        "of decoding texts: 0 takes the most likely word; None: the model's",
        where="text",
        recorded=False,
    )
    output: str = Option(
        "pil",
        choice("pil", "tensor", "latents"),
        "pil: pictures and strings; tensor, latents: numbers",
        flags=("--as", "--output"),
    )
    batch_size: int | None = Option(
        None,
        whole(1, 4096),
        "samples in memory at a time; None: by the model's size",
        recorded=False,
        flags=("--batch", "--batch-size"),
    )

    def __post_init__(self) -> None:
        for name, option in options_of(Settings).items():
            object.__setattr__(self, name, option.check(name, getattr(self, name)))

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The timesteps that are visited: the first `int(S * (1 - fidelity))` of the subsequence.

        Raises:
            ValueError: steps out of the schedule's range.
        """
        timesteps = schedule.timesteps(self.steps, self.spacing)
        return timesteps[: int(len(timesteps) * (1 - self.fidelity))]

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
