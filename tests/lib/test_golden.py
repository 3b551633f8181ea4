"""The comparison with the authors' numbers, and the tool that makes it (tests/golden.py)."""

import copy
import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.config import ModelSpec
from tests import golden
from tests.released_config import read_released

DATA = Path(__file__).parents[1] / "fixtures"
OTHER = DATA / "other_config.json"


def spec_of(path: Path) -> ModelSpec:
    return read_released(json.loads(path.read_text()))


# ---------------------------------------------------------------------- the given file


def test_the_authors_numbers_are_reproduced(capsys):
    assert golden.main([str(DATA / "golden.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(load_file(DATA / "golden.safetensors")) + 1
    assert lines[-1].startswith("largest relative error ")
    assert float(lines[-1].split()[3]) < golden.TOLERANCE


def test_the_checkpoint_is_the_authors_checkpoint():
    """Keys, shapes and values (by their sums) of the tiny model, derived from our structure."""
    reference = json.loads(gzip.decompress((DATA / "tiny_keys.json.gz").read_bytes()))
    tensors = golden.checkpoint(spec_of(golden.CONFIG))
    shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
    assert shapes == {key: shape for key, (shape, _) in reference.items()}
    carried = [key for key, tensor in tensors.items() if tensor.numel() and not tensor.any()]
    assert len(carried) == 12 + 3 + 2  # schedule, causal masks, logit scales
    for key in set(tensors) - set(carried):
        assert tensors[key].double().abs().sum().item() == pytest.approx(
            reference[key][1], rel=1e-4
        ), key


# ---------------------------------------------------------------------- another configuration


@pytest.fixture(scope="module")
def other_vd():
    return golden.load_recipe(spec_of(OTHER))


@pytest.fixture(scope="module")
def other_file(other_vd, tmp_path_factory) -> Path:
    """A golden file of the other configuration, its references made by our own code."""
    spec = other_vd.spec
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    entries = {
        "x_image": normal(2, 4, 8, 12),
        "x_text": normal(2, spec.unet.text_dim),
        "c_image": normal(2, 17, 48),
        "c_text": normal(2, 20, 48),
        "u_image": torch.zeros(2, 17, 48),
        "u_text": normal(2, 20, 48),
        "t": torch.tensor([1, 981]),
        "autokl.input": torch.rand(1, 3, 16, 24, generator=g),
        "optimus.bert_ids": torch.tensor([[5, 7, 9, 0], [5, 8, 9, 9]]),
        "optimus.gpt2_ids": torch.tensor([[201, 3, 4], [201, 9, 8]]),
        "optimus.gpt2_latent": normal(2, 40),
        "optimus.greedy": torch.zeros(2, 8, dtype=torch.long),
        "clip.ids": torch.tensor([[298, 4, 5, 299] + [299] * 16]),
        "clip.pixels": normal(1, 3, 28, 28),
        "clip.mask": torch.rand(1, 1, 28, 28, generator=g),
        "rank.input": normal(2, 64, 48),
    }
    names = [
        *(f"eps.{a}_from_{b}" for a in ("image", "text") for b in ("image", "text")),
        "eps.image_from_text+image.2_0.25",
        "eps.text_from_image+text.0.5_0.5",
        "eps.image_from_text+image.1.0_0.0",
        *(f"ddim7.{what}" for what in ("timesteps", "alphas", "alphas_prev")),
        "ddim3.image_from_image",
        "ddim2.text_from_text",
        "ddim2.image_from_text0.9+image0.1",
        *(f"autokl.{what}" for what in ("mean", "logvar", "decoded")),
        *(f"optimus.{what}" for what in ("mu", "logvar", "gpt2_logits", "greedy")),
        *(f"clip.{what}" for what in ("text_context", "image_context", "image_context_masked")),
        *(f"rank.{level}" for level in ("0.1", "0.5", "0.85")),
    ]
    computer = golden.Entries(other_vd, entries)
    entries |= {name: computer.compute(name).clone().contiguous() for name in names}
    path = tmp_path_factory.mktemp("golden") / "other.safetensors"
    save_file(entries, path)
    return path


def test_another_configuration_passes_its_own_file(other_file, capsys):
    assert golden.main([str(other_file), "--config", str(OTHER)]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_entries_mean_what_their_names_say(other_vd, other_file):
    """Weights, steps and levels come from the names: facts that hold whatever the weights."""
    e = load_file(other_file)
    assert torch.equal(e["eps.image_from_text+image.1.0_0.0"], e["eps.image_from_text"])
    assert e["ddim7.timesteps"].tolist() == [1, 143, 285, 427, 569, 711, 853, 995]
    assert len(e["ddim7.alphas"]) == len(e["ddim7.alphas_prev"]) == 8
    assert e["optimus.greedy"].shape == (2, 8)
    assert e["optimus.greedy"][:, 0].tolist() == [201, 201]
    assert torch.equal(e["rank.0.5"], e["rank.input"])
    assert not torch.allclose(e["rank.0.1"], e["rank.0.85"])
    # mixing is in the layers, so it is not a mix of outputs; but it is not either of them
    mixed = e["eps.image_from_text+image.2_0.25"]
    assert not torch.allclose(mixed, e["eps.image_from_text"], atol=1e-3)


def changed(path: Path, to: Path, **edits: torch.Tensor | None) -> Path:
    entries = load_file(path)
    for name, value in edits.items():
        name = name.replace("__", ".")
        if value is None:
            del entries[name]
        else:
            entries[name] = value
    save_file(entries, to)
    return to


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        ("eps.text_from_image", lambda x: x + 3e-4 * x.abs().max().clamp(min=1), "over 0.0001"),
        ("rank.0.85", lambda x: x + 5e-3 * x.abs().max().clamp(min=1), "over 0.002"),
        ("optimus.greedy", lambda x: x + (torch.arange(8) == 7), "over 0.0001"),
        ("ddim7.timesteps", lambda x: x[:-1], "over 0.0001"),
        ("clip.image_context", lambda x: x * float("nan"), "over 0.0001"),
    ],
)
def test_a_wrong_entry_fails(other_vd, other_file, name, edit, told):
    entries = load_file(other_file)
    entries[name] = edit(entries[name])
    lines, passed = golden.compare(entries, other_vd)
    assert not passed
    assert next(line for line in lines if "FAILED" in line and told in line).startswith(name)


def test_an_entry_that_only_rounding_moved_is_settled_in_float64(other_vd, other_file, monkeypatch):
    given = {n: x for n, x in load_file(other_file).items() if golden.INPUTS.fullmatch(n)}
    exact = golden.Entries(copy.deepcopy(other_vd).double(), given)
    name = "eps.text_from_image"
    given[name] = exact.compute(name)
    monkeypatch.setattr(golden, "TOLERANCE", 1e-10)
    lines, passed = golden.compare(given, other_vd)
    assert passed
    assert any(line.startswith(name) and "in float64" in line for line in lines)


def test_an_unknown_entry_fails_by_name(other_file, tmp_path, capsys):
    path = changed(other_file, tmp_path / "g.safetensors", eps__audio_from_text=torch.zeros(1))
    assert golden.main([str(path), "--config", str(OTHER)]) == 1
    out = capsys.readouterr().out
    assert "eps.audio_from_text" in out and "not an entry that is known" in out


def test_a_missing_input_fails_by_name(other_vd, other_file):
    entries = load_file(other_file)
    del entries["u_text"]
    lines, passed = golden.compare(entries, other_vd)
    assert not passed
    assert any(line.startswith("ddim2.text_from_text") and "u_text" in line for line in lines)


def test_nothing_to_compare_is_a_failure(other_vd):
    assert not golden.compare({"t": torch.tensor([1])}, other_vd)[1]


def test_unreadable_arguments_are_one_sentence(tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    assert golden.main([str(tmp_path / "bad.safetensors")]) == 1
    assert "bad.safetensors" in capsys.readouterr().err
    (tmp_path / "c.json").write_text("{}")
    arguments = [str(DATA / "golden.safetensors"), "--config", str(tmp_path / "c.json")]
    assert golden.main(arguments) == 1
    assert "lacks image_unet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "size", "value", "told"),
    [
        ("bert", "num_attention_heads", 5, "hidden is 32, which cannot be split into 5 heads"),
        ("bert", "num_attention_heads", 0, "into 0 heads"),
        ("gpt2", "n_layer", "two", "n_layer"),
        ("autokl", "ch_mult", [], "IndexError"),
        ("autokl", "z_channels", -1, "negative dimension"),
        ("image_unet", "num_heads", 0, "0 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(tmp_path, capsys, part, size, value, told):
    config = json.loads(OTHER.read_text())
    config[part][size] = value
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(config))
    assert golden.main([str(DATA / "golden.safetensors"), "--config", str(path)]) == 1
    out, err = capsys.readouterr()
    assert told in err and str(path) in err
    assert (out, len(err.splitlines())) == ("", 1)
