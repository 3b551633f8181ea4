"""`python -m training` as a whole, on a folder of nine pictures."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lib.checkpoints import load
from lib.specs import VD_MINI
from tests.training.tiny_stages import worldly, write_folder
from training import recipes
from training.__main__ import main
from training.export import current_spec, settle
from training.folders import folder
from training.stage import Recipe
from training.stages import complete

TINY = {
    "autoencoder": (Recipe(steps=1, batch=1, lr=1e-3), Recipe(1, 1, 1e-9, warmup=0)),
    "clip": (Recipe(steps=2, batch=3, lr=1e-3),),
    "optimus": (Recipe(steps=2, batch=3, lr=1e-3),),
    "flows": (Recipe(steps=2, batch=3, lr=1e-3),),
}


@pytest.fixture
def quick(vd, tmp_path, monkeypatch):
    """The whole command on a folder of nine pictures and the tiny model: (arguments, out)."""
    path = write_folder(tmp_path / "pictures")
    samples = folder(path, 64)[0]
    spec, _ = worldly(vd, samples, tmp_path / "sizes")
    monkeypatch.setattr("training.datasets.VD_EMOJI", replace(spec, name="own"))
    monkeypatch.setattr("training.vocabulary.CORPUS", 50)
    monkeypatch.setitem(recipes.PRESETS, "small", recipes.Preset(TINY))
    out = tmp_path / "model"
    return ["--data", str(path), "--runs", str(tmp_path / "runs"), "--out", str(out)], out


def test_a_folder_of_captioned_pictures_becomes_a_model(quick, capsys):
    arguments, out = quick
    order = ("optimus", "autoencoder", "clip", "flows")
    for stage in order:
        assert main([stage, *arguments]) == 0, capsys.readouterr().err
    known = json.loads((out / "training.json").read_text())
    assert [name for name in known if "," not in name] == list(order)
    assert {name: entry["recipe"]["steps"] for name, entry in known.items()} == {
        "optimus": 2,
        "autoencoder, run 1": 1,
        "autoencoder": 1,
        "clip": 2,
        "flows": 2,
    }
    # finished: nothing is trained again, and nothing is refused
    weights = {path: path.read_bytes() for path in out.glob("*.safetensors")}
    assert len(weights) == 11
    for stage in order:
        assert main([stage, *arguments]) == 0, capsys.readouterr().err
    assert weights == {path: path.read_bytes() for path in out.glob("*.safetensors")}
    assert json.loads((out / "training.json").read_text()) == known
    # both latent scales were settled, by stages that did not know of each other
    spec = current_spec(out, None)
    assert spec.image_vae.scale != 1 and spec.text_vae.scale != 1


def test_a_stage_of_two_runs_goes_on_from_its_own_weights(quick, tmp_path):
    arguments, _ = quick
    assert main(["autoencoder", *arguments]) == 0
    first, second = (
        torch.load(folder / "autoencoder" / "checkpoint.pt", weights_only=True)
        for folder in (tmp_path / "runs", tmp_path / "runs" / "run-2")
    )
    name = "image_decoder.conv_in.weight"
    # a rate of nothing: what the second run holds is what the first one exported, in half precision
    averaged = first["ema"][list(first["modules"]).index(name)]
    assert torch.allclose(second["modules"][name], averaged.half().float(), atol=1e-6)
    seeds = [state["fingerprint"]["seed"] for state in (first, second)]
    assert seeds[0] != seeds[1]  # or the second would be shown the first one's samples once more


def test_training_begins_from_a_model_with_its_sizes_and_its_tokenizers(quick, tmp_path, capsys):
    arguments, out = quick
    assert main(["autoencoder", *arguments]) == 0
    other = tmp_path / "other"
    again = [*arguments[:2], "--runs", str(tmp_path / "more"), "--out", str(other)]
    assert main(["autoencoder", *again, "--init", str(out)]) == 0, capsys.readouterr().err
    for path in sorted((out / "tokenizers").rglob("*.*")):
        assert (other / path.relative_to(out)).read_bytes() == path.read_bytes()
    a, b = (json.loads((f / "config.json").read_text()) for f in (out, other))
    for config in (a, b):
        config["image_vae"].pop("scale")
    assert a == b


def test_finished_weights_lie_in_files_of_the_size_that_is_asked_for(quick, monkeypatch):
    arguments, out = quick
    monkeypatch.setattr("training.__main__._megabytes", lambda text: int(text) * 5_000)
    assert main(["autoencoder", *arguments, "--max-file", "2"]) == 0
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 4 and all(file.stat().st_size <= 10_000 for file in files)
    state = torch.load(out.parent / "runs/run-2/autoencoder/checkpoint.pt", weights_only=True)
    vd = load(out, device="cpu")
    for (name, _), value in zip(state["modules"].items(), state["ema"], strict=True):
        component, _, inner = name.partition(".")
        stored = vd.component(component).state_dict()[inner]
        assert torch.equal(stored, value.half().float())
    complete(out, str(out), 1)  # nothing is lacking
    assert sorted(out.glob("*.safetensors")) == files


def test_a_model_makes_pictures_of_the_side_that_it_was_trained_on(quick, tmp_path, capsys):
    arguments, out = quick
    assert main(["autoencoder", *arguments, "--side", "32"]) == 0
    assert current_spec(out, None).image_size == 32
    assert main(["autoencoder", *arguments]) == 0  # that of the folder, from now on
    assert main(["autoencoder", *arguments, "--side", "64"]) == 2
    assert "is a model of pictures of 32 pixels a side, these have 64" in capsys.readouterr().err
    more = [*arguments[:2], "--runs", str(tmp_path / "more"), "--out", str(tmp_path / "larger")]
    assert main(["autoencoder", *more, "--init", str(out), "--side", "64"]) == 0
    assert current_spec(tmp_path / "larger", None).image_size == 64
    assert main(["autoencoder", *more, "--side", "63"]) == 2
    assert "63, which own cannot make" in capsys.readouterr().err


@pytest.mark.parametrize("held", [None, b"no checkpoint"])
def test_a_checkpoint_that_is_none_is_one_sentence(quick, tmp_path, capsys, held):
    arguments, _ = quick
    path = tmp_path / "first.pt"
    if held:
        path.write_bytes(held)
    assert main(["optimus", *arguments, "--init", str(path)]) == 2
    assert f"error: {path} is no checkpoint of a run here" in capsys.readouterr().err


def test_flows_go_on_from_a_model_into_one_with_all_that_they_need(quick, tmp_path, capsys):
    arguments, out = quick
    for stage in ("autoencoder", "clip", "optimus", "flows"):
        assert main([stage, *arguments]) == 0, capsys.readouterr().err
    other = tmp_path / "other"
    again = [*arguments[:2], "--runs", str(tmp_path / "more"), "--out", str(other)]
    more = ["--init", str(out), "--flows", "t2i", "--freeze", "text_context"]
    assert main(["flows", *again, *more]) == 0, capsys.readouterr().err
    names = {path.name for path in out.glob("*.safetensors")}
    untouched = {"text_data.safetensors", "image_context.safetensors"}  # of flows not trained
    assert {path.name for path in other.glob("*.safetensors")} == names - untouched
    for name in ("image_encoder", "clip_text", "text_decoder", "text_context"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in (out, other))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (out / "config.json").read_bytes() == (other / "config.json").read_bytes()


def test_a_folder_of_other_sizes_takes_no_encoders(model_folder, tmp_path):
    settle(tmp_path / "model", VD_MINI)
    with pytest.raises(ValueError, match=r"a model of other sizes than .* give another --out"):
        complete(tmp_path / "model", str(model_folder))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


def test_tokenizers_appear_whole_or_not_at_all(quick, monkeypatch):
    arguments, out = quick

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.tokenizers._write_gpt2", stopped)
        assert main(["optimus", *arguments]) == 130
    assert not (out / "tokenizers").exists()
    assert main(["optimus", *arguments]) == 0
