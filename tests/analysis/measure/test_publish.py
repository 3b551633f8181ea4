"""A report's numbers in the README and the model card: where they land, and what is refused."""

import copy
import json
import re
import shutil

import pytest

from analysis.cli import main
from analysis.measure import model_card, publish, scene_inputs
from analysis.measure.protocol import PARTS
from analysis.measure.report import dumps as to_json_text
from analysis.measure.report import interval_text
from analysis.measure.scene_card import CARD
from analysis.measure.scenes import Scenes
from analysis.measure.suite import measure
from analysis.metrics.statistics import paired_difference, wilson
from lib.checkpoints import save
from lib.config import COMPONENTS, FLOWS
from lib.fingerprints import fingerprint
from lib.specs import VD_MINI
from tests.analysis.known_models import SMALL, FakeModel, Oracle, TellingJudge, tagged

STAGE = {
    "measured": {"exact_match": 0.954, "latent_std": 1.08851},
    "minutes": 90.0,
    "recipe": {"steps": 5000, "batch": 64, "lr": 6e-4},
}
README = """\
# Title

<!-- measured -->
old
<!-- /measured -->

Between.
<!-- trained -->
<!-- /trained -->
<!-- effects -->
<!-- /effects -->
"""


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The report of a model that does all that is asked."""
    monkeypatch.setattr(scene_inputs, "render", tagged)
    suite = Scenes(FakeModel(), SMALL, judge=TellingJudge(), modes=Oracle())
    made = measure(suite, tmp_path / "evaluation", progress=False, figures=False)
    path = tmp_path / "evaluation" / made["protocol"]["run"] / "report.json"
    return json.loads(path.read_text())


@pytest.fixture
def place(tmp_path, model_folder, vd, report):
    """Folders of a model and a judge, a README, and a report about that model."""
    model, judge = tmp_path / "model", tmp_path / "judge"
    shutil.copytree(model_folder, model)
    judge.mkdir()
    for folder, stages in ((judge, ("judge",)), (model, ("clip", "flows"))):
        (folder / "training.json").write_text(json.dumps(dict.fromkeys(stages, STAGE)))
    readme = tmp_path / "README.md"
    readme.write_text(README)
    weights = {name: fingerprint(vd.component(name)) for name in COMPONENTS}
    report["protocol"]["model"] |= {"name": "tiny", "weights": weights}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    return {"reports": [path], "model": model, "readme": readme, "judge": judge}


def test_numbers_land_where_they_belong(place, report, vd):
    written = publish.publish(**place)
    card, readme, kept = (path.read_text() for path in written)
    assert [p.name for p in written] == ["MODEL_CARD.md", "README.md", "evaluation.json"]
    assert json.loads(kept) == report
    assert readme.startswith("# Title\n\n<!-- measured -->\n`tiny` on scenes")
    assert "old" not in readme
    block = readme.partition("<!-- measured -->")[2].partition("<!-- /measured -->")[0]
    told = " ".join(block.replace("\u00a0", " ").split())
    for flow in ("text to image", "image variation", "image to text"):
        assert re.search(rf"{flow}, [\w ]+: \*\*[\d.]+ %\*\* \([\d.]+ - [\d.]+ %\)", told), flow
    assert "applications.json" not in card
    share = interval_text(wilson(SMALL.n, SMALL.n))
    for text in [card]:
        assert f"| text to image | every attribute right | 100.0 % | {share} | {SMALL.n} |" in text
        assert "| image VAE | reconstruction (PSNR) | 100.00 dB |" in text
        behind = "|  | a scene at all | 100.0 % |"  # the flow's headlines
        _, _, rest = text.partition(behind)
        assert rest.splitlines()[1].startswith("|  | exactly the scene, never-seen pairs | 100.0")
        assert "at least 100.0 % of each attribute" in " ".join(text.split())
        took, found = "5,000 x 64 | 90 |", "| exact match 0.954, latent std 1.089 |"
        stage = f"{took} 59 {found}"  # 5,000 x 64 / (90 x 60)
        # nobody noted how many samples a step of the flows had
        assert f"| judge | {stage}\n| clip | {stage}\n| flows | {took}  {found}\n" in text
        assert "Together 4.5 hours" in text
    count = sum(p.numel() for name in COMPONENTS for p in vd.component(name).parameters())
    assert f"| **all** | **{count:,}** |" in card
    assert "| color2 | 100.0 % | 100.0 % | 100.0 % | 100.0 % |" in card
    assert not re.search(r"\{|\}|None|nan", card)


def test_sizes_are_those_of_all_parts_of_a_component(vd, tmp_path):
    save(vd, tmp_path, max_file=20_000)
    files = list(tmp_path.glob("*.safetensors"))
    sizes = publish.sizes(tmp_path)
    assert len(files) > len(sizes) == len(COMPONENTS)
    for name, (parameters, _) in sizes.items():
        assert parameters == sum(p.numel() for p in vd.component(name).parameters())
    assert sum(size for _, size in sizes.values()) == sum(file.stat().st_size for file in files)


def test_publishing_again_changes_nothing(place):
    first = {path: path.read_text() for path in publish.publish(**place)}
    place["reports"] = []  # from what was kept
    assert {path: path.read_text() for path in publish.publish(**place)} == first


def test_the_command_names_what_is_not_default(report):
    assert model_card.command(report, VD_MINI) == (
        f"python -m analysis evaluate --model vd-mini --n {SMALL.n} --seed {SMALL.seed} "
        f"--caption-n {SMALL.caption_n}"
    )
    report["protocol"]["settings"] |= {"steps": 20, "scale_image": 4.5, "sweep_scale": [1.0, 2.5]}
    assert model_card.command(report, VD_MINI).endswith(
        "--steps 20 --scale-image 4.5 --sweep-scale 1,2.5 --caption-n 6"
    )
    report["protocol"]["settings"] |= {
        "steps": VD_MINI.steps,
        "scale_image": VD_MINI.scale_image,
        "sweep_scale": [],
        "sweep_steps": [20, 50],
        "sweep_sampler": ["ddim", "heun"],
        "sweep_fidelity": [0.0, 0.25],
        "caption_n": 30,
        "flows": [part for part in PARTS if part != "search"],
    }
    words = model_card.command(report, VD_MINI).split(" --seed 3 ")[1]
    assert words == (
        "--sweep-steps 20,50 --sweep-sampler ddim,heun --sweep-fidelity 0,0.25 --caption-n 30 "
        "--flows t2i,i2i,i2t,t2t,reconstruction,caption"
    )


NEWER = ("sweep_steps", "sweep_sampler", "sweep_fidelity", "search_n", "caption_n")


def test_reports_from_before_search_and_captions_are_still_published(place, report):
    for name in (*NEWER, "caption_candidates"):
        del report["protocol"]["settings"][name]
    report["protocol"]["settings"]["flows"] = [*FLOWS, "reconstruction"]
    for name in ("search", "caption"):
        del report["measures"][name]
    for flow in ("i2i", "i2t", "t2t"):
        del report["measures"][flow]["heldout"]
    place["reports"][0].write_text(json.dumps(report))
    card = publish.publish(**place)[0].read_text()
    for text in [card]:
        assert "visual search" not in text and "captions |" not in text
        assert text.count("| of never-seen colour-shape pairs |") == 1
        assert "the scene, never-seen pairs" not in text
        assert f"evaluate --model tiny --n {SMALL.n} --seed {SMALL.seed} " in text
        assert not re.search(r"--(sweep|search|caption|flows)", text)


def test_what_was_measured_besides_is_published(place, report):
    difference = paired_difference(3, 5, 200).to_dict()
    runs = {"heun, 20": {"all_minus_ddim_50": difference}, "ddim, 20": {}}
    report["measures"]["sweep_steps"] = {"t2i": runs}
    report["measures"]["caption"]["exact_scene"] = wilson(5, 6).to_dict()
    place["reports"][0].write_text(json.dumps(report))
    card = publish.publish(**place)[0].read_text()
    for text in [card]:
        line = "| fewer steps | 20 of heun minus 50 of ddim | -1.0 points | -4.1 to +2.1 points |"
        assert f"{line} 200 |" in text
        assert "dpmpp_2m" not in text
        assert "| visual search | a caption finds its picture first | 100.0 % |" in text
        assert "|  | a picture finds another of its scene | 100.0 % |" in text
        assert "| captions | exactly the scene, best of several | 83.3 % |" in text


@pytest.fixture
def applied(tmp_path, report):
    """The report of applications that do what they promise, but for one."""
    made = {
        "edit": {"the named one changes (interval at least 70 %)": {"pass": wilson(180, 200)}},
        "fidelity": {
            "distance falls (interval below 0)": {"pass": wilson(150, 200)},
            "in strict order (interval above 50 %)": {"fail": wilson(90, 200)},
        },
    }
    protocol = copy.deepcopy(report["protocol"]) | {"run": "applications_run"}
    protocol["settings"] |= {"suite": "applications", "n": 200}
    path = tmp_path / "applied.json"
    path.write_text(to_json_text({"protocol": protocol, "measures": {"criteria": made}}))
    return path


def test_effects_of_applications_are_published_and_kept(place, applied):
    given = place["reports"]
    written = publish.publish(**{**place, "reports": [*given, applied]})
    assert written[-1].name == "applications.json"
    assert json.loads(written[-1].read_text()) == json.loads(applied.read_text())
    card, readme = (path.read_text() for path in written[:2])
    for text in [card]:
        assert "2 of 3 hold" in " ".join(text.split())
        line = "the named one changes (interval at least 70 %) | 90.0 % | 85.1 - 93.4 % | 200 |"
        assert f"| edit | {line} pass |" in text
        assert "|  | in strict order (interval above 50 %) | 45.0 % | " in text
        assert "--suite applications --n 200 " in text
    again = publish.publish(**{**place, "reports": given})  # the other one stays as published
    assert [path.read_text() for path in again[:2]] == [card, readme]
    with pytest.raises(ValueError, match="second report of the suite 'applications'"):
        publish.publish(**{**place, "reports": [applied, applied]})


def test_reports_that_cannot_be_published_are_refused(place, applied):
    made = json.loads(applied.read_text())
    empty = made | {"measures": {}}
    other = copy.deepcopy(made)
    other["protocol"]["settings"]["suite"] = "folder"
    for changed, told in (
        (empty, "no criteria"),
        (other, "suite 'folder', which is not published"),
    ):
        applied.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=told):
            publish.publish(**{**place, "reports": [*place["reports"], applied]})
    assert place["readme"].read_text() == README


@pytest.mark.parametrize("path", [path for _, _, path in CARD.headlines] + [("judge",)])
def test_a_report_without_a_number_is_refused(place, report, path):
    less = copy.deepcopy(report)
    node = less["measures"]
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    place["reports"][0].write_text(json.dumps(less))
    before = place["readme"].read_text()
    with pytest.raises(ValueError, match=f"lacks {' / '.join(path)}.*leave --flows out"):
        publish.publish(**place)
    assert place["readme"].read_text() == before
    assert not (place["model"] / publish.kept_in("scenes")).exists()


def test_a_report_about_other_weights_is_refused(place, report):
    weights = report["protocol"]["model"]["weights"]
    weights["text_data"] = "0" * 12
    place["reports"][0].write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"not about the text_data in .*evaluate the model again"):
        publish.publish(**place)
    del weights["text_data"]
    place["reports"][0].write_text(json.dumps(report))
    with pytest.raises(ValueError, match="used no text_data"):
        publish.publish(**place)


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- a -->\n",
        "<!-- /a -->\n<!-- a -->\n",
        "<!-- a -->\n<!-- a -->\n<!-- /a -->\n",
        "<!-- a --> <!-- /a -->",
    ],
)
def test_a_block_has_one_place(text):
    with pytest.raises(ValueError, match="no one place for a: write <!-- a --> and <!-- /a -->"):
        publish.fill(text, {"a": "new"})


def test_a_block_is_replaced_literally():
    text = "x\n<!-- a -->\n<!-- /a -->\ny"
    assert publish.fill(text, {"a": r"\1 <b>"}) == "x\n<!-- a -->\n\\1 <b>\n<!-- /a -->\ny"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_the_command_line_says_what_is_wrong(place, capsys, content):
    path = place["reports"][0]
    path.unlink() if content is None else path.write_text(content)
    assert main(["publish", str(path), "--model", str(place["model"])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and str(path) in err and err.count("\n") == 1
