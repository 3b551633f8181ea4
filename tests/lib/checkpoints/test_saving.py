"""Saving: what is saved comes back, and nothing that goes wrong leaves a trace."""

import errno
import json
import os
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib import files
from lib.checkpoints import load, save, saving
from lib.checkpoints.inspecting import inspect
from lib.components import build
from lib.config import COMPONENTS
from lib.model import VersatileDiffusion
from lib.specs import VD_MINI
from tests.lib.small_model import SPEC, official, same, small_vd
from tests.lib.test_files import killed_at


@pytest.fixture(scope="module")
def vd() -> VersatileDiffusion:
    return small_vd()


def test_what_is_saved_comes_back(vd, tmp_path):
    save(vd, tmp_path / "m", dtype=torch.float32)
    again = load(tmp_path / "m", device="cpu")
    assert again.spec == vd.spec and same(again)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == sorted(
        ["config.json", *(f"{name}.safetensors" for name in COMPONENTS)]
    )
    decoder = load_file(tmp_path / "m" / "text_decoder.safetensors")
    assert "gpt2.lm_head.weight" not in decoder  # tied: stored once


def test_a_model_loaded_from_a_pickle_can_be_saved(tmp_path):
    torch.save(official(), tmp_path / "official.pth")
    save(load(tmp_path / "official.pth", spec=SPEC, device="cpu"), tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").available == COMPONENTS


def test_half_precision_is_the_default_and_halves_the_file(vd, tmp_path):
    save(vd, tmp_path, components=["image_decoder"])
    stored = load_file(tmp_path / "image_decoder.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load(tmp_path, components="image_decoder", device="cpu")
    assert again.dtype is torch.float32  # small models run in full precision
    a, b = (m.image_decoder.conv_in.weight for m in (again, vd))
    assert torch.allclose(a, b, atol=1e-3) and not torch.equal(a, b)


def test_saving_some_components_keeps_the_others(vd, tmp_path):
    save(vd, tmp_path, components=["time_embed", "image_data"])
    before = (tmp_path / "image_data.safetensors").stat().st_mtime_ns
    save(vd, tmp_path, components=["time_embed"])
    assert (tmp_path / "image_data.safetensors").stat().st_mtime_ns == before
    assert load(tmp_path, components=["image_data", "time_embed"], device="cpu").loaded
    with pytest.raises(ValueError, match=r"lacks text_data\.safetensors"):
        load(tmp_path, components="text_data")


DIVIDED = {"dtype": torch.float32, "max_file": 5_000_000}


def test_large_components_are_divided_as_other_libraries_do(vd, tmp_path):
    names = ("time_embed", "image_data", "text_data")
    save(vd, tmp_path, components=names, **DIVIDED)
    assert same(load(tmp_path, device="cpu"), names)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 8 and all(file.stat().st_size <= 5_000_000 for file in files)
    indices = {p.name.partition(".")[0]: json.loads(p.read_text()) for p in tmp_path.glob("*.i*")}
    assert set(indices) == {"image_data", "text_data"}  # the other one is small
    for name, index in indices.items():
        held = {file: load_file(tmp_path / file) for file in {*index["weight_map"].values()}}
        assert {key: file for file in held for key in held[file]} == index["weight_map"]
        own = {key: held[file][key] for key, file in index["weight_map"].items()}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in own.values())
        module = vd.component(name).state_dict()
        assert all(torch.equal(tensor, module[key]) for key, tensor in own.items())
    report = "\n".join(inspect(tmp_path).lines())
    assert "3 of 11 components" in report and "image_data-" in report
    for path in (*files, tmp_path / "image_data.safetensors.index.json"):
        with pytest.raises(ValueError, match="give the folder"):
            load(path)


def test_a_component_is_seen_whole_whichever_way_it_was_saved_before(vd, tmp_path, monkeypatch):
    """Files that an index names stay until another index has taken its place."""
    part = ["image_data"]
    save(vd, tmp_path, components=part, **DIVIDED)
    first = {path.name for path in tmp_path.iterdir()}
    other = VersatileDiffusion(SPEC, {"image_data": build(SPEC, "image_data")})
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(".index.json"):
            raise OSError(errno.EIO, "killed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        save(other, tmp_path, **DIVIDED)
    assert same(load(tmp_path, device="cpu"), part) and first < {p.name for p in tmp_path.iterdir()}
    monkeypatch.setattr(os, "replace", replace)
    save(other, tmp_path, **DIVIDED)
    assert not same(load(tmp_path, device="cpu"), part)
    save(vd, tmp_path, torch.float32, part)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "image_data.safetensors"}
    assert same(load(tmp_path, device="cpu"), part)


@pytest.mark.parametrize("before", ["whole", "divided"])
@pytest.mark.parametrize("after", ["whole", "divided"])
def test_a_kill_at_any_moment_leaves_the_old_weights_or_the_new(tmp_path, before, after):
    torch.manual_seed(0)
    old, new = ({"time_embed": build(SPEC, "time_embed")} for _ in range(2))
    largest = max(tensor.nbytes for tensor in new["time_embed"].state_dict().values())
    ways = {"whole": None, "divided": largest + 1000}  # two files

    def put(parts: dict[str, torch.nn.Module], way: str, folder: Path) -> None:
        torch.set_num_threads(1)  # others do not survive a fork
        save(VersatileDiffusion(SPEC, parts), folder, torch.float32, max_file=ways[way])

    def held(folder: Path) -> dict[str, torch.Tensor]:
        return load(folder, components="time_embed", device="cpu").time_embed.state_dict()

    def is_of(weights: dict[str, torch.Tensor], parts: dict[str, torch.nn.Module]) -> bool:
        wanted = parts["time_embed"].state_dict()
        return all(torch.equal(value, weights[key]) for key, value in wanted.items())

    put(new, after, tmp_path / "wanted")
    for operation in ("replace", "unlink"):
        seen = []
        for call in count():
            folder = tmp_path / f"{operation}-{call}"
            put(old, before, folder)
            killed = killed_at(operation, call, lambda f=folder: put(new, after, f))
            weights = held(folder)
            seen.append("old" if is_of(weights, old) else "new" if is_of(weights, new) else "mixed")
            files._sweep_once.cache_clear()
            put(new, after, folder)  # the same again, which sweeps
            assert is_of(held(folder), new)
            assert {p.name for p in folder.iterdir()} == {
                p.name for p in (tmp_path / "wanted").iterdir()
            }
            if not killed:
                break
        assert seen == sorted(seen, key=["old", "new"].index) and seen[-1] == "new"
        assert operation != "replace" or {*seen} == {"old", "new"}


def test_an_index_that_cannot_be_removed_is_no_success(vd, tmp_path, monkeypatch):
    """It would go on to name the old weights."""
    save(vd, tmp_path, components=["image_data"], **DIVIDED)
    unlink = Path.unlink

    def refuse(path, *args, **more):
        if path.name.endswith(".index.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, *args, **more)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError):
        save(vd, tmp_path, components=["image_data"])


def test_a_tensor_that_is_larger_than_a_file_may_be_is_named(vd, tmp_path, caplog):
    save(vd, tmp_path, torch.float32, ["image_data"], max_file=500_000)
    assert "image_data.data_blocks.9.in_layers.2.weight alone is more than 500000" in caplog.text
    assert same(load(tmp_path, device="cpu"), ["image_data"])


def test_saving_beside_components_of_another_model_is_refused(vd, tmp_path):
    save(vd, tmp_path, components=["image_data"])
    mini = VersatileDiffusion(VD_MINI, {"time_embed": build(VD_MINI, "time_embed")})
    with pytest.raises(ValueError, match="other sizes"):
        save(mini, tmp_path)
    assert load(tmp_path, components="image_data", device="cpu").spec == SPEC


def test_tokenizers_are_saved_with_the_model(vd, tmp_path):
    for name, text in (("clip/vocab.json", "{}"), ("gpt2/merges.txt", "#")):
        (tmp_path / "words" / name).parent.mkdir(parents=True)
        (tmp_path / "words" / name).write_text(text)
    words = type("Words", (), {"source": tmp_path / "words"})()
    with_words = VersatileDiffusion(SPEC, {"time_embed": vd.time_embed}, words)
    save(with_words, tmp_path / "m")
    assert (tmp_path / "m" / "tokenizers" / "clip" / "vocab.json").read_text() == "{}"
    assert load(tmp_path / "m", components="time_embed", device="cpu").tokenizers is not None


def test_weights_too_large_for_half_are_refused(vd, tmp_path):
    embed = build(SPEC, "time_embed")
    with torch.no_grad():
        embed[0].weight[3, 5] = 1e6
    one = VersatileDiffusion(SPEC, {"time_embed": embed})
    with pytest.raises(ValueError, match=r"time_embed\.0\.weight.*1e\+06"):
        save(one, tmp_path)
    assert not list(tmp_path.iterdir())
    save(one, tmp_path, dtype=torch.bfloat16)
    assert load(tmp_path, components="time_embed", device="cpu").time_embed[0].weight[3, 5] > 9e5


@pytest.mark.parametrize("break_at", ["write_tensors", "replace"])
def test_a_full_disk_leaves_everything_as_it_was(vd, tmp_path, monkeypatch, break_at):
    save(vd, tmp_path, components=["time_embed"])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fine = getattr(saving if break_at == "write_tensors" else os, break_at)
    calls = []

    def full(*arguments, **options):
        calls.append(arguments)
        if break_at == "write_tensors" and len(calls) == 1:
            return fine(*arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving if break_at == "write_tensors" else os, break_at, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(vd, tmp_path, dtype=torch.float32, components=["time_embed", "image_data"])
    assert str(tmp_path) in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_real_write_error_is_one_sentence(vd, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="Could not save to"):
            save(vd, tmp_path, components=["image_data"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_damaged_configuration_is_one_sentence(vd, tmp_path):
    save(vd, tmp_path, components=["time_embed"])
    config = tmp_path / "config.json"
    text = config.read_text()
    for broken in (text[: len(text) // 2], "[]", "{}", text.replace('"beta_end"', '"beta_stop"')):
        config.write_text(broken)
        with pytest.raises(ValueError, match=r"config\.json"):
            load(tmp_path, components="time_embed")


def test_one_file_of_a_folder_points_to_the_folder(vd, tmp_path):
    save(vd, tmp_path, components=["time_embed"])
    with pytest.raises(ValueError, match="give the folder"):
        load(tmp_path / "time_embed.safetensors")
