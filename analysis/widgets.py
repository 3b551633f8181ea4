"""A form in a notebook: what to ask, of which mode, with which settings; and what comes out.

Every result is saved like any other. Where no form can be shown (outside of a notebook, or without
ipywidgets), `playground` is a plain call with the values that it was given.

>>> playground(vd, "t2i", "a large red circle on a white background")
>>> playground(vd, "dual", "a striped picture", "assets/pictures/black-heart.png", strength=0.6)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.modes import MODES
from analysis.results import OUT, Result, save

if TYPE_CHECKING:
    from lib.model import VersatileDiffusion

PLAYED = tuple(
    name
    for name, mode in MODES.items()
    if sorted(taken.kind for taken in mode.inputs.values())
    in (["image"], ["image", "text"], ["text"])
)
"""Modes in the form: those that take a prompt, a picture, or both."""
SLIDERS = {"scale": (0, 15), "strength": (0, 1), "focus": (0, 1), "fidelity": (0, 1)}
"""Setting -> from where to where it can be moved."""


def play(
    vd: VersatileDiffusion,
    mode: str,
    prompt: str = "",
    picture: str | Path | None = None,
    *,
    out: str | Path = OUT,
    **settings: Any,
) -> Result:
    """Make and save one result; what a mode has no use for is left out.

    Args:
        vd: the model.
        mode: one of `PLAYED`.
        prompt, picture: what the mode is asked with; the one that it does not take may be empty,
            and is what fidelity starts from where the mode makes such.
        out: folder of results.
        settings: seed, scale, strength, focus, fidelity, steps, ... as the mode takes them; "focus"
            is the level of the mode of that name.

    Raises:
        ValueError: another mode, or what the mode says about its inputs.
    """
    if mode not in PLAYED:
        raise ValueError(f"The mode is {mode!r}: choose from {', '.join(PLAYED)}.")
    asked = MODES[mode]
    inputs = {
        name: prompt if taken.kind == "text" else picture for name, taken in asked.inputs.items()
    }
    used = {name: value for name, value in settings.items() if name in taken_by(mode)}
    start = picture if asked.makes == "image" else prompt
    if (
        used.get("fidelity")
        and start
        and asked.makes not in {i.kind for i in asked.inputs.values()}
    ):
        used.setdefault("start", start)
    if mode == "focus" and "focus" in used:
        used["levels"] = used.pop("focus")
    result = asked.function(vd, **inputs, **used, progress=False)
    save(result, out)
    return result


def taken_by(mode: str) -> set[str]:
    """Names of the settings that a mode takes."""
    return {*MODES[mode].options} | ({"focus"} if mode == "focus" else set())


def playground(
    vd: VersatileDiffusion,
    mode: str = "t2i",
    prompt: str = "",
    picture: str | Path | None = None,
    *,
    pictures: Sequence[str | Path] = (),
    out: str | Path = OUT,
    **settings: Any,
) -> Result | None:
    """Make one result, and show a form above it that makes others.

    Args:
        vd, mode, prompt, picture, out, settings: as `play`; what the form starts with.
        pictures: paths that the form offers besides; any other may be typed.

    Returns:
        None in a notebook with ipywidgets, where form and result are shown; else the result.

    Raises:
        ValueError: as `play`.
    """
    result = play(vd, mode, prompt, picture, out=out, **settings)
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return result
    try:
        import ipywidgets
    except ImportError:
        return result
    values = {"scale": vd.spec.scale_text, "strength": 0.5, "focus": 0.5, "fidelity": 0.0}
    values |= {"seed": result.seeds[0], **settings}
    wide = {"layout": ipywidgets.Layout(width="46em"), "style": {"description_width": "6em"}}
    style = {"style": wide["style"]}
    paths = [str(path) for path in dict.fromkeys([picture, *pictures]) if path]
    fields = {
        "mode": ipywidgets.Dropdown(options=PLAYED, value=mode, description="mode", **style),
        "prompt": ipywidgets.Text(prompt, description="prompt", **wide),
        "picture": ipywidgets.Combobox(
            value=str(picture or ""), options=paths, description="picture", **wide
        ),
        "seed": ipywidgets.IntText(values["seed"], description="seed", **style),
    }
    for name, (low, high) in SLIDERS.items():
        fields[name] = ipywidgets.FloatSlider(
            values[name], min=low, max=high, step=0.05, description=name, **style
        )
    button = ipywidgets.Button(description="Make and save", button_style="primary")
    said = ipywidgets.HTML()

    def offer(change: Any = None) -> None:
        """Only what the mode takes can be set."""
        kinds = {taken.kind for taken in MODES[fields["mode"].value].inputs.values()}
        fields["prompt"].disabled, fields["picture"].disabled = (
            kind not in kinds for kind in ("text", "image")
        )
        for name in SLIDERS:
            fields[name].disabled = name not in taken_by(fields["mode"].value)

    def make(clicked: Any) -> None:
        asked = {name: field.value for name, field in fields.items()}
        button.disabled, said.value = True, "..."
        try:
            shown.update(play(vd, out=out, **settings | asked))
            said.value = f"saved in {escape(str(Path(out, asked['mode'])))}"
        except (ValueError, OSError, FloatingPointError) as error:
            said.value = escape(str(error))
        finally:
            button.disabled = False

    offer()
    fields["mode"].observe(offer, "value")
    button.on_click(make)
    shell.display.display(ipywidgets.VBox([*fields.values(), ipywidgets.HBox([button, said])]))
    shown = shell.display.display(result, display_id=True)
    return None
