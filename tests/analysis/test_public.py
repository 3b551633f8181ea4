"""The names that `analysis` offers, what `show` shows, and the form."""

import base64
import io
import re
import subprocess
import sys
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle
from PIL import Image

import analysis
from analysis.results import Result
from analysis.results.result import Sheet, show
from analysis.widgets import PLAYED, play, playground
from tests.conftest import drawing

FLOWS = ["text_to_image", "image_variation", "image_to_text", "text_variation"]
MIXES = ["dual_guided", "describe", "focus", "blend", "interpolate"]
MODES = [*FLOWS, *MIXES, "edit", "latent_edit", "encode"]


def test_every_name_resolves_and_is_listed_once():
    assert len(set(analysis.__all__)) == len(analysis.__all__)
    assert set(analysis.__all__) == set(analysis._ROOM_OF) <= set(dir(analysis))
    for name in analysis.__all__:
        value = getattr(analysis, name)
        assert isinstance(value, ModuleType) == (name in ("plots", "walkthrough")), name
        if not isinstance(value, (ModuleType, dict)):
            assert value.__name__ == name
    with pytest.raises(AttributeError, match="no 'nothing': choose from load"):
        _ = analysis.nothing


def test_modes_are_functions_also_where_a_module_has_their_name():
    import analysis.modes.edit
    import analysis.modes.focus

    for name in MODES:
        assert getattr(analysis, name).mode.function is getattr(analysis, name)


def test_importing_costs_nothing_until_a_name_is_used():
    code = (
        "import sys, analysis; from analysis import text_to_image, save, show; "
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def result(count=2, colors=("red", "blue")):
    samples = [{"seed": k, "prompt": "two & one"} for k in range(count)]
    images = [Image.new("RGB", (8, 8), colors[k]) for k in range(count)]
    return Result("t2i", {"mode": "t2i", "samples": samples}, images)


def shown_picture(html):
    alt, kind, data = re.fullmatch(
        r'<img alt="(.*)" src="data:image/(.*);base64,(.*)">', html
    ).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return alt, kind, picture.convert("RGB")


def test_show_outside_of_a_notebook_returns_what_it_would_show():
    made = result()
    assert show(made) is made
    labelled = show({"first": made[0], "<b>": made[1].images[0]}, columns=2, caption="two of them")
    alt, kind, picture = shown_picture(labelled._repr_html_())
    assert (alt, kind) == ("two of them: first; &lt;b&gt;", "png")
    assert picture.tobytes() == labelled.image.tobytes()
    assert show(made, columns=1).image.size == made.sheet(1).size
    assert show(made.images[0]).alt == "1 pictures"
    table = show([{"text": "a <ring>", "score": 0.123456}], caption="best")
    assert table._repr_html_() == (
        "<table><caption>best</caption><tr><th>text</th><th>score</th></tr>"
        '<tr><td style="text-align:left">a &lt;ring&gt;</td><td>0.1235</td></tr></table>'
    )
    assert str(table) == "best\na <ring>  0.123456"
    with pytest.raises(ValueError, match="no picture"):
        show([])


def test_what_a_palette_would_spoil_is_shown_as_jpeg():
    noisy = drawing(1, (64, 64))
    _, kind, picture = shown_picture(Sheet(noisy, "noise")._repr_html_())
    assert kind == "jpeg" and picture.size == noisy.size


@pytest.fixture
def notebook(monkeypatch):
    """What is displayed while a shell seems to run."""
    shown = []

    def display(what, display_id=None):
        shown.append(what)
        return Handle()

    class Handle(DisplayHandle):
        def update(self, what):
            shown.append(what)

    monkeypatch.setattr("IPython.get_ipython", lambda: InteractiveShell)
    monkeypatch.setattr("IPython.display.display", display)
    return shown


def test_show_in_a_notebook_displays(notebook):
    made = result()
    assert show(made) is None and notebook == [made]


INPUTS = {"prompt": "a large red circle"}


def test_play_makes_and_saves_what_the_mode_makes(vd, picture_files, tmp_path):
    common = {"seed": 3, "steps": 2, "scale": 2.0, "strength": 0.25, "focus": 0.8, "fidelity": 0.5}
    for mode in PLAYED:
        made = play(vd, mode, **INPUTS, picture=picture_files[0], out=tmp_path, **common)
        record = made.record_of(0)
        assert (record["mode"], record["seed"], record["fidelity"]) == (mode, 3, 0.5)
        assert record.get("strength", 0.25) == 0.25
        assert len(list((tmp_path / mode).glob("*.json"))) == 1
        assert record.get("blended", [{"focus": 0.8}])[0]["focus"] == 0.8
    expected = analysis.focus(
        vd, picture_files[0], levels=0.8, seed=3, steps=2, scale=2.0, fidelity=0.5, progress=False
    )
    again = play(vd, "focus", picture=picture_files[0], out=tmp_path, **common)
    assert again.images[0].tobytes() == expected.images[0].tobytes()
    with pytest.raises(ValueError, match="choose from t2i"):
        play(vd, "films")


def test_playground_is_a_plain_call_where_no_form_is_shown(vd, tmp_path, notebook, monkeypatch):
    how = {"seed": 3, "steps": 2, "out": tmp_path}
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    made = playground(vd, "t2i", **INPUTS, **how)
    assert notebook == [] and len(made) == 1
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    assert len(playground(vd, "t2t", **INPUTS, **how)) == 1


def test_playground_makes_what_its_form_asks_for(vd, picture_files, tmp_path, notebook):
    assert playground(vd, "t2i", **INPUTS, seed=3, steps=2, out=tmp_path) is None
    form, first = notebook
    *fields, (button, said) = (*form.children[:-1], form.children[-1].children)
    fields = {field.description: field for field in fields}
    assert first.seeds == [3] and fields["seed"].value == 3
    assert fields["strength"].disabled and not fields["fidelity"].disabled
    fields["mode"].value, fields["seed"].value = "describe", 5
    assert not fields["strength"].disabled and not fields["picture"].disabled
    button.click()
    assert "picture" in said.value and len(notebook) == 2  # there is none yet
    fields["picture"].value = str(picture_files[0])
    button.click()
    assert notebook[-1].mode == "describe" and notebook[-1].seeds == [5] and "saved" in said.value
    assert len(list((tmp_path / "describe").glob("*.txt"))) == 1
    assert not button.disabled
