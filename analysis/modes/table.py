"""The table of modes: one function a mode, and everything that follows from its declaration.

    @mode("edit", makes="image", summary="pictures changed in what two texts tell apart", ...)
    def edit(vd, images=Input("image", "pictures"), ..., *, feather=Option(...), request) -> Job:
        \"\"\"Change what two texts tell apart in a picture, and keep the rest. ...\"\"\"

From it derive

    edit(vd, "a.png", source, target, seed=3)             what is called: a Result
    edit.job(vd, ...)                                      the same, to be made batch by batch
    edit.job(vd, ...).steps()                              the sampler's steps
    python -m analysis edit a.png --target "..."           the command, its flags and its --help
    MODES                                                  the gallery's and the README's lines
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from analysis.modes.options import Option, Settings, known_only, options_of
from lib.lazy import Lazy

if TYPE_CHECKING:
    from analysis.modes.job import Job
    from analysis.results.result import Result

jobs = Lazy("analysis.modes.build")


@dataclass(frozen=True)
class Input:
    """What a mode is given first: texts or pictures.

    Attributes:
        kind: "text" or "image"; "any" where either will do.
        help: in a line.
        many: whether there may be several.
        default: where none is given; `...` if one has to be.
        context: whether its precomputed context will do instead.
        flag: its spelling in the shell; None for words without a flag.
    """

    kind: str
    help: str
    many: bool = True
    default: Any = ...
    context: bool = True
    flag: str | None = None


@dataclass(frozen=True)
class Mode:
    """One mode.

    Attributes:
        name: of the command, and of the folder of results.
        function: that is called.
        makes: "image" or "text"; or the name of the option that says which.
        summary: what it makes, in a line.
        example: arguments of a command.
        inputs: name -> what it is given.
        own: name -> its own options.
        options: name -> all of its options.
    """

    name: str
    function: Callable[..., Result]
    makes: str
    summary: str
    example: str
    inputs: dict[str, Input]
    own: dict[str, Option]
    options: dict[str, Option]

    def data(self, options: dict[str, Any]) -> str:
        """ "image" or "text": what these options make."""
        if self.makes in self.own:
            return options.get(self.makes, self.own[self.makes].default)
        return self.makes


MODES: dict[str, Mode] = {}
"""Name -> mode, in the order of the README."""


def mode(
    name: str, *, makes: str, summary: str, example: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., Job]], Callable[..., Result]]:
    """Make a mode of a function that returns its `Job`, and enter it in the table.

    Args:
        name: of the command and the folder.
        makes: "image" or "text"; or the name of the option that says which.
        summary: what it makes, in a line.
        example: arguments of a command.
        without: settings of all modes that this one has no use for.
    """

    def declare(function: Callable[..., Job]) -> Callable[..., Result]:
        parameters = list(inspect.signature(function).parameters.values())
        inputs = {p.name: p.default for p in parameters if isinstance(p.default, Input)}
        own = options_of({p.name: p.default for p in parameters})
        shared = {
            key: option
            for key, option in options_of(Settings).items()
            if key not in (*without, *own) and (not option.where or _fits(option, makes, own))
        }
        options = {**own, **shared}

        def job(vd: Any, *given: Any, **named: Any) -> Job:
            """The samples of this mode, checked and not yet made; arguments as for the mode."""
            positional = dict(zip(inputs, given, strict=False))
            if len(given) > len(inputs) or set(positional) & set(named):
                raise TypeError(
                    f"{function.__name__} takes the model and {', '.join(inputs)} in this order, "
                    "everything else by name."
                )
            known_only(function.__name__, named, [*inputs, *options])
            what = {**positional, **{key: named.pop(key) for key in inputs if key in named}}
            for key, given_as in inputs.items():
                if key not in what and given_as.default is ...:
                    raise TypeError(f"{function.__name__} needs {key}: {given_as.help}.")
                what.setdefault(key, given_as.default)
            settings = Settings(**{key: named.pop(key) for key in shared if key in named})
            values = {key: o.check(key, named.get(key, o.default)) for key, o in own.items()}
            record = {
                key: None if values[key] is None else option.kind.record(values[key])
                for key, option in own.items()
                if option.recorded
            }
            request = jobs.Request(name, settings, record)
            return function(vd, **what, **values, request=request)

        @wraps(function)
        def run(vd: Any, *given: Any, progress: bool = True, **named: Any) -> Result:
            return job(vd, *given, **named).result(progress)

        job.__signature__ = _signature(parameters, options)
        run.__signature__ = _signature(parameters, {**options, "progress": _PROGRESS})
        run.__doc__ = _documented(function, inputs, options, makes)
        run.job = job
        run.mode = MODES[name] = Mode(name, run, makes, summary, example, inputs, own, options)
        return run

    return declare


_PROGRESS = Option(True, None, "show a bar")


def _fits(option: Option, makes: str, own: dict[str, Option]) -> bool:
    return option.where == makes or makes in own


def _signature(
    parameters: list[inspect.Parameter], options: dict[str, Option]
) -> inspect.Signature:
    first = [p for p in parameters if p.name not in options and p.name != "request"]
    first = [
        p.replace(
            default=inspect.Parameter.empty if p.default.default is ... else p.default.default
        )
        if isinstance(p.default, Input)
        else p
        for p in first
    ]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
        for name, option in options.items()
    ]
    return inspect.Signature([*first, *keywords])


def _documented(
    function: Callable[..., Job],
    inputs: dict[str, Input],
    options: dict[str, Option],
    makes: str,
) -> str:
    """The function's own words, then a line for each argument."""

    def line(name: str, text: str) -> str:
        return textwrap.fill(
            f"{name}: {text}.", 96, initial_indent="    ", subsequent_indent=" " * 8
        )

    arguments = [line(name, i.help) for name, i in inputs.items()]
    arguments += [line(name, o.line()) for name, o in options.items()]
    returns = {"image": "Pictures", "text": "Texts"}.get(makes, "Pictures or texts")
    return "\n".join(
        [
            inspect.cleandoc(function.__doc__ or ""),
            "",
            "Args:",
            "    vd: the model.",
            *arguments,
            "    progress: show a bar.",
            "",
            "Returns:",
            f"    {returns}, with a record each (`analysis.results.outputs.Result`).",
            "",
            "Raises:",
            "    TypeError: an option that there is not.",
            "    ValueError: bad input, before any compute.",
        ]
    )
