"""The applications as commands: their arguments, and the jobs those ask for.

Nothing here imports torch before a job is asked for, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.arguments import (
    color_arguments,
    context_argument,
    number,
    temperature_argument,
)

if TYPE_CHECKING:
    from analysis.modes.applications import Options
    from analysis.modes.sampling import Job
    from analysis.modes.series import Series
    from lib.model import VersatileDiffusion


@dataclass(frozen=True)
class Application:
    """An application as a command.

    Attributes:
        what: what it makes, in a line.
        example: a command's arguments.
        arguments: adds its own arguments to a parser.
        needs: arguments -> the flows and the further components to load.
        job: model, arguments and options -> what to make.
        makes: arguments -> "image" or "text".
    """

    what: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    needs: Callable[[argparse.Namespace], tuple[Sequence[str], Sequence[str]]]
    job: Callable[[VersatileDiffusion, argparse.Namespace, Options], Job | Series]
    makes: Callable[[argparse.Namespace], str] = lambda args: "image"


def options_of(args: argparse.Namespace, makes: str = "image") -> Options:
    """The options that all applications have in common; `makes` says what latents are of."""
    from analysis.modes.applications import Options
    from analysis.modes.given_tensors import read_latents

    return Options(
        n=args.n,
        seed=args.seed,
        steps=args.steps,
        scale=args.scale,
        negative_prompt=args.negative,
        sampler=args.sampler,
        eta=args.eta,
        interval=None if args.interval is None else tuple(args.interval),
        temperature=getattr(args, "temperature", None),
        latents=None if args.latents is None else read_latents(args.latents, makes),
        noise=args.noise,
        output=args.output,
        batch_size=args.batch,
    )


def open_files(args: argparse.Namespace) -> None:
    """Put in the place of all paths that a command names what lies there, before a model is loaded.

    Pictures and masks become `Picture`s, contexts `Context`s.

    Raises:
        ValueError: a file that is missing, damaged, or not what it should be; or both or neither of
            things of which one is needed.
    """
    from analysis.modes.given_tensors import read_context
    from data.pictures import Picture, picture_files, pictures

    named = vars(args)
    if named.get("inputs"):
        args.inputs = pictures(picture_files(args.inputs))
    if named.get("mask"):
        args.mask = Picture.of(args.mask)
    if named.get("masks"):
        args.masks = [None if path == "-" else Picture.of(path) for path in args.masks]
    if named.get("pictures"):
        args.first, args.second = (
            None if path is None else Picture.of(path) for path in (args.first, args.second)
        )
    if "image_context" in named:
        for kind, option, name in (("image", "inputs", "pictures"), ("text", "text", "--text")):
            given, files = named[option], named[f"{kind}_context"]
            if (given in (None, [])) == (files is None):
                told = "Neither of" if files is None else "Both"
                raise ValueError(
                    f"{told} {name} and --{kind}-context were given: give one of them."
                )
            if files is not None:
                setattr(args, option, read_context(files, kind))


def _paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="PATH", help="pictures, or folders of them")


def _fidelity(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--fidelity", type=number(float, 0, 1), default=0.0, metavar="F", help=f"0...1: {what}"
    )


def _scales(parser: argparse.ArgumentParser) -> None:
    for kind in ("text", "image"):
        parser.add_argument(
            f"--scale-{kind}",
            type=number(float, 0),
            metavar="S",
            help=f"guidance of the {kind} (default: the model's)",
        )


# ---------------------------------------------------------------------- dual, describe


def _dual_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="*", metavar="PATH", help="pictures, or folders of them")
    add("--text", help="that goes with the pictures; empty for none")
    context_argument(parser, "--image-context", "pictures")
    context_argument(parser, "--text-context", "a text")
    add(
        "--strength",
        type=number(float, 0, 1),
        nargs="+",
        default=[0.5],
        metavar="S",
        help="of the text, 0 (pictures only) to 1 (text only); several make a strip",
    )
    _scales(parser)


def _describe_arguments(parser: argparse.ArgumentParser) -> None:
    _dual_arguments(parser)
    temperature_argument(parser)


def _dual_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Series:
    from analysis.modes.mix import dual_job

    scales = args.scale_text, args.scale_image
    return dual_job(vd, args.command, args.inputs, args.text, args.strength, *scales, options)


# ---------------------------------------------------------------------- focus


def _focus_arguments(parser: argparse.ArgumentParser) -> None:
    _paths(parser)
    add = parser.add_argument
    add(
        "--level",
        type=number(float, -2, 2),
        nargs="+",
        default=[0.0, 0.25, 0.5, 0.75, 1.0],
        metavar="L",
        help="0 (content) to 1 (style), 0.5 is neutral; several make a strip (default: five)",
    )
    add(
        "--first-release",
        action="store_true",
        help="levels are those of the first release, -2 (content) to 2 (style), 0 is neutral",
    )
    _fidelity(parser, "how late to start from the input, as in i2i")
    color_arguments(parser)


def _focus_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Job:
    from analysis.modes.variation import focus_job

    scheme = "first_release" if args.first_release else "focus"
    color = args.color_match, args.color_method
    return focus_job(vd, args.inputs, args.level, scheme, args.fidelity, options, *color)


# ---------------------------------------------------------------------- blend


def _blend_arguments(parser: argparse.ArgumentParser) -> None:
    _paths(parser)
    add = parser.add_argument
    add("--weights", type=number(float, 0), nargs="+", metavar="W", help="one a picture (or all)")
    add(
        "--focus",
        type=number(float, 0, 1),
        nargs="+",
        default=[0.5],
        metavar="L",
        help="level of each (or all), 0 (content) to 1 (style); default: 0.5, neutral",
    )
    add(
        "--masks",
        nargs="+",
        metavar="PATH",
        help="one a picture, white is kept; - for a picture without mask",
    )
    add("--text", default="", help="mixed in")
    add("--strength", type=number(float, 0, 1), default=0.5, metavar="S", help="of the text, 0...1")
    _scales(parser)


def _blend_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Job:
    from analysis.modes.mix import blend_job

    scales = args.scale_text, args.scale_image
    mix = args.weights, args.focus, args.masks, args.strength
    return blend_job(vd, args.inputs, args.text, *mix, scales, options)


# ---------------------------------------------------------------------- interpolate


def _interpolate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("first", metavar="FROM", help="a text, or a picture with --pictures")
    add("second", nargs="?", metavar="TO", help="the same; without it, noise goes to the next seed")
    add("--pictures", action="store_true", help="FROM and TO are picture files")
    add("--frames", type=number(int, 2), default=9, help="default: %(default)s")
    add("--method", choices=("slerp", "lerp"), default="slerp", help="default: %(default)s")
    add("--makes", choices=("image", "text"), default="image", help="default: %(default)s")
    temperature_argument(parser)
    add("--film", choices=("gif", "mp4"), help="save the pictures as a film in DIR/films, too")


def _interpolate_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Job:
    from analysis.modes.interpolate import interpolate_job
    from analysis.results.films import check_film

    if args.film and args.makes == "text":
        raise ValueError("--film is for pictures: leave it out, or choose --makes image.")
    if args.film:
        check_film(args.film)
    how = args.frames, args.method, args.makes
    return interpolate_job(vd, args.first, args.second, *how, options)


def _interpolate_needs(args: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
    from analysis.modes.interpolate import kind_of

    # both are looked at: a text that is a picture's file is refused before a model is loaded
    kinds = [kind_of(end) for end in (args.first, args.second) if end is not None]
    return [f"{kinds[0][0]}2{args.makes[0]}"], ()


# ---------------------------------------------------------------------- edits


def _edit_arguments(parser: argparse.ArgumentParser) -> None:
    _paths(parser)
    add = parser.add_argument
    add("--source", default="", metavar="TEXT", help="what the pictures show (default: unsaid)")
    add("--target", required=True, metavar="TEXT", help="what they shall show")
    add("--mask", metavar="PATH", help="a picture, white where to edit")
    add(
        "--feather",
        type=number(int, 0),
        default=0,
        metavar="K",
        help="latents over which the mask's edge is blended (default: 0)",
    )
    add(
        "--iterations",
        type=number(int, 1),
        default=4,
        help="predictions a step of the inversion (default: %(default)s)",
    )
    _fidelity(parser, "0 inverts all the way to noise, more changes less")
    parser.add_argument_group(
        "guidance", "without --scale, edit takes 1, not the model's default: more leads too far"
    )


def _edit_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Job:
    from analysis.modes.edit import edit_job

    return edit_job(
        vd,
        args.inputs,
        args.source,
        args.target,
        args.mask,
        args.feather,
        args.fidelity,
        args.iterations,
        options,
    )


def _latent_edit_arguments(parser: argparse.ArgumentParser) -> None:
    _paths(parser)
    add = parser.add_argument
    add("--remove", default="", metavar="TEXT", help="what to take out")
    add("--add", default="", metavar="TEXT", help="what to put in")
    add(
        "--strength", type=number(float, 0, 1), default=0.67, metavar="S", help="of the text, 0...1"
    )
    add(
        "--rank",
        type=number(int, 1),
        help="components of the picture that are kept (default: the model's: 10, vd-mini 1)",
    )
    _scales(parser)


def _latent_edit_job(vd: VersatileDiffusion, args: argparse.Namespace, options: Options) -> Job:
    from analysis.modes.edit import latent_edit_job

    scales = args.scale_text, args.scale_image
    return latent_edit_job(
        vd, args.inputs, args.remove, args.add, args.strength, args.rank, scales, options
    )


APPLICATIONS = {
    "dual": Application(
        "pictures from pictures and a text together",
        'dual photo.png --text "a striped picture" --strength 0 0.3 0.6 1 --seed 20 --sheet',
        _dual_arguments,
        lambda args: (["t2i", "i2i"], ()),
        _dual_job,
    ),
    "describe": Application(
        "texts from pictures and a text together",
        'describe photo.png --text "a small green star" --strength 0.5 --seed 20',
        _describe_arguments,
        lambda args: (["t2t", "i2t"], ()),
        _dual_job,
        lambda args: "text",
    ),
    "focus": Application(
        "variations of pictures that keep their content, or their style",
        "focus photo.png --level 0 0.25 0.5 0.75 1 --seed 20 --sheet",
        _focus_arguments,
        lambda args: (["i2i"], ["image_encoder"] if args.fidelity else ()),
        _focus_job,
    ),
    "blend": Application(
        "pictures from several pictures at once",
        'blend a.png b.png --weights 1 0.5 --masks - mask.png --text "a ring" --n 4 --seed 20',
        _blend_arguments,
        lambda args: (["i2i", "t2i"] if args.text.strip() else ["i2i"], ()),
        _blend_job,
    ),
    "interpolate": Application(
        "films from one text or picture to another, or from one noise to another",
        'interpolate "a small red circle" "a large blue star" --frames 9 --seed 20 --film gif',
        _interpolate_arguments,
        _interpolate_needs,
        _interpolate_job,
        lambda args: args.makes,
    ),
    "latent-edit": Application(
        "pictures with something taken out of what they say, and something put in",
        "latent-edit photo.png --remove red --add blue --n 4 --seed 20",
        _latent_edit_arguments,
        lambda args: (["i2t", "t2i", "i2i"], ["text_encoder"]),
        _latent_edit_job,
    ),
    "edit": Application(
        "pictures changed in what two texts tell apart",
        'edit photo.png --source "a red circle on white" --target "a blue circle on white"',
        _edit_arguments,
        lambda args: (["t2i"], ["image_encoder"]),
        _edit_job,
    ),
}
