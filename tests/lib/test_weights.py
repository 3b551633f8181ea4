"""Loading and saving: every layout, lazily and strictly; every damage in one sentence."""

import errno
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import hub, keymaps, sources, weights
from lib.config import COMPONENTS, VD_FOUR_FLOW_V1_0, VD_MINI, ModelSpec
from lib.model import Context, VersatileDiffusion
from lib.tensor_files import TensorFile, open_tensors
from lib.weights import build, choose_device, choose_dtype, load, save
from tests import golden

DATA = Path(__file__).parents[1] / "data"
SPEC = ModelSpec.from_released(json.loads((DATA / "other_config.json").read_text()), "other")
BARE = {
    "kl-f8": ("image_encoder", "image_decoder"),
    "optimus-vae": ("text_encoder", "text_decoder"),
    "clip": ("clip_text", "clip_vision"),
}


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return golden.checkpoint(SPEC)


@pytest.fixture(scope="module")
def file(official, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "official.safetensors"
    save_file(official, path)
    return path


@pytest.fixture(scope="module")
def vd(file) -> VersatileDiffusion:
    return load(file, spec=SPEC, device="cpu")


def in_layout(vd: VersatileDiffusion, layout: str, only=COMPONENTS) -> dict[str, torch.Tensor]:
    """A model's weights under a layout's keys (the preferred spelling)."""
    return {
        keys[0]: tensor.clone()
        for component in only
        for name, tensor in vd.component(component).state_dict().items()
        if (keys := keymaps.file_keys(layout, vd.spec, component, name))
    }


def same(a: VersatileDiffusion, b: VersatileDiffusion, names=COMPONENTS) -> bool:
    pairs = ((a.component(n).state_dict(), b.component(n).state_dict()) for n in names)
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def edited(tensors: dict, path: Path, drop=(), **add: torch.Tensor) -> Path:
    kept = {k: v for k, v in tensors.items() if k not in drop}
    save_file(kept | add, path)
    return path


# ---------------------------------------------------------------------- what load returns


def test_a_loaded_model_is_complete_frozen_and_in_evaluation_mode(vd, official):
    assert vd.loaded == COMPONENTS
    assert not vd.training and not any(p.requires_grad for p in vd.parameters())
    assert {p.device.type for p in vd.parameters()} == {"cpu"}
    assert vd.dtype is torch.float32
    key = "diffuser.image.data_blocks.1.0.in_layers.2.weight"
    own = vd.image_data.get_parameter("data_blocks.1.in_layers.2.weight")
    assert torch.equal(own, official[key])


def test_buffers_that_no_file_holds_have_their_values(vd):
    ids = torch.arange(SPEC.text_vae.bert_positions)
    assert torch.equal(vd.text_encoder.bert.embeddings.position_ids[0], ids)
    assert not any(b.is_meta for b in vd.buffers())


def test_tied_head_is_one_parameter(vd):
    assert vd.text_decoder.gpt2.lm_head.weight is vd.text_decoder.gpt2.transformer.wte.weight


def test_dtype_is_as_asked_and_runs(file):
    half = load(file, components="image_decoder", spec=SPEC, device="cpu", dtype=torch.bfloat16)
    assert half.dtype is torch.bfloat16
    assert half.decode_image(torch.zeros(1, 4, 4, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("flow", "data", "context", "tower"),
    [
        ("t2i", "image", "text", "clip_text"),
        ("i2i", "image", "image", "clip_vision"),
        ("i2t", "text", "image", "clip_vision"),
        ("t2t", "text", "text", "clip_text"),
    ],
)
def test_a_flow_loads_and_reads_its_parts_only(file, monkeypatch, flow, data, context, tower):
    read = []
    get = TensorFile.__getitem__
    monkeypatch.setattr(TensorFile, "__getitem__", lambda f, k: (read.append(k), get(f, k))[1])
    some = load(file, flows=flow, encoders=False, spec=SPEC, device="cpu")
    parts = {"time_embed", f"{data}_data", f"{context}_context", f"{data}_decoder", tower}
    assert set(some.loaded) == parts
    assert {keymaps.owner("official", SPEC, key) for key in read} == parts
    assert len(read) == len(set(read))
    with_encoder = load(file, flows=[flow], spec=SPEC, device="cpu")
    assert set(with_encoder.loaded) == parts | {f"{data}_encoder"}


def test_what_was_not_loaded_is_named_when_it_is_needed(file):
    some = load(file, components=["time_embed", "image_data"], spec=SPEC, device="cpu")
    context = Context("text", torch.zeros(1, 3, 48))
    with pytest.raises(ValueError, match="text_context"):
        some.eps(torch.zeros(1, 4, 8, 8), 1, [(context, 1.0)])


@pytest.mark.parametrize("wrong", [{"flows": "t2x"}, {"components": ["image_data", "audio"]}])
def test_unknown_flows_and_components(file, wrong):
    with pytest.raises(ValueError, match=r"t2x|audio"):
        load(file, spec=SPEC, **wrong)


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize("form", ["zip", "before 2020", "wrapped"])
def test_pickles_of_every_form(vd, official, tmp_path, form):
    path = tmp_path / "official.pth"
    values = {"state_dict": official, "step": 7} if form == "wrapped" else official
    torch.save(values, path, _use_new_zipfile_serialization=form != "before 2020")
    assert same(load(path, spec=SPEC, device="cpu"), vd)


def test_legacy_layout(vd, tmp_path):
    old = in_layout(vd, "legacy")
    assert {key.split(".")[0] for key in old} == {"model", "autokl", "optimus", "clip"}
    old |= {"betas": torch.zeros(1000), "clip.model.logit_scale": torch.zeros(())}
    torch.save(old, tmp_path / "old.pth")
    assert same(load(tmp_path / "old.pth", spec=SPEC, device="cpu"), vd)


def test_bare_files(vd, tmp_path):
    for layout, parts in BARE.items():
        path = tmp_path / f"{layout}.pth"
        torch.save(in_layout(vd, layout), path)
        alone = load(path, spec=SPEC, device="cpu")
        assert set(alone.loaded) == set(parts)
        assert same(alone, vd, parts)
        with pytest.raises(ValueError, match="image_data"):
            load(path, components="image_data", spec=SPEC)


def test_a_diffuser_alone_finds_the_rest_beside_it(vd, official, tmp_path):
    diffuser = {k: v for k, v in official.items() if k.startswith("diffuser.")}
    torch.save(diffuser, tmp_path / "vd-four-flow-v1-0.pth")
    with pytest.raises(ValueError, match=r"image_encoder: put kl-f8\.pth"):
        load(tmp_path, spec=SPEC)
    torch.save(in_layout(vd, "kl-f8"), tmp_path / "kl-f8.pth")
    with pytest.raises(ValueError, match=r"text_decoder: put optimus-vae\.pth"):
        load(tmp_path, components="text_decoder", spec=SPEC)
    torch.save(in_layout(vd, "optimus-vae"), tmp_path / "optimus-vae.pth")
    with pytest.raises(ValueError, match=r"clip_text: put clip-vit-large-patch14"):
        load(tmp_path, flows="t2i", spec=SPEC)
    (tmp_path / "clip-vit-large-patch14").mkdir()
    clip = in_layout(vd, "clip") | {"logit_scale": torch.ones(())}
    clip["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(clip, tmp_path / "clip-vit-large-patch14" / "model.safetensors")
    assert same(load(tmp_path, spec=SPEC, device="cpu"), vd)
    assert same(load(tmp_path / "vd-four-flow-v1-0.pth", spec=SPEC, device="cpu"), vd)


def test_known_optional_keys_are_never_an_error(official, vd, tmp_path):
    more = {
        "ctx.text.model.text_model.embeddings.position_ids": torch.arange(20)[None],
        "ctx.image.model.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "vae.text.encoder.embeddings.position_ids": torch.arange(40)[None],
        "vae.text.decoder.transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    }
    path = edited(official, tmp_path / "more.safetensors", **more)
    assert same(load(path, spec=SPEC, device="cpu"), vd)
    without = [k for k in official if keymaps.owner("official", SPEC, k) == keymaps.OPTIONAL]
    without += ["vae.text.decoder.lm_head.weight"]
    path = edited(official, tmp_path / "less.safetensors", drop=without)
    assert same(load(path, spec=SPEC, device="cpu"), vd)


# ---------------------------------------------------------------------- strictness

KEY = "diffuser.text.data_blocks.1.0.in_layers.0.weight"


def test_a_missing_key_is_named(official, tmp_path):
    path = edited(official, tmp_path / "x.safetensors", drop=[KEY])
    with pytest.raises(ValueError, match=rf"text_data.*1 missing: {KEY}"):
        load(path, spec=SPEC)
    load(path, flows="t2i", spec=SPEC)  # not a part of this flow


def test_a_left_over_key_of_a_component_is_named(official, tmp_path):
    path = edited(official, tmp_path / "x.safetensors", **{KEY + "_v": torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"1 left over: {KEY}_v"):
        load(path, spec=SPEC)


def test_many_problems_are_counted_not_listed(official, tmp_path):
    drop = [k for k in official if k.startswith("diffuser.image.context_blocks.0.")]
    path = edited(official, tmp_path / "x.safetensors", drop=drop)
    with pytest.raises(ValueError, match=rf"{len(drop)} missing: .* and {len(drop) - 4} more"):
        load(path, spec=SPEC)


def test_a_key_of_unknown_prefix_is_refused(official, tmp_path):
    path = edited(official, tmp_path / "x.safetensors", **{"diffuser.audio.w": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"1 keys that belong to no component.*diffuser\.audio\.w"):
        load(path, flows="t2i", spec=SPEC)


def test_a_wrong_shape_is_named(official, tmp_path):
    path = edited(official, tmp_path / "x.safetensors", **{KEY: torch.zeros(7)})
    with pytest.raises(ValueError, match=rf"wrong shape: {KEY} is \(7,\) instead of \(128,\)"):
        load(path, spec=SPEC)


def test_a_file_of_another_size_is_refused(file):
    with pytest.raises(ValueError, match=r"vd-mini.*missing|belong to no component of vd-mini"):
        load(file, components="image_data", spec=VD_MINI)


def test_an_untied_head_is_refused(official, tmp_path):
    head = "vae.text.decoder.lm_head.weight"
    path = edited(official, tmp_path / "x.safetensors", **{head: official[head] + 1})
    with pytest.raises(ValueError, match=r"x\.safetensors.*lm_head"):
        load(path, spec=SPEC)


# ---------------------------------------------------------------------- damage


def test_damaged_files_are_one_sentence(file, official, tmp_path):
    whole = file.read_bytes()
    torch.save({k: v for k, v in official.items() if "data_blocks" in k}, tmp_path / "whole.pth")
    pickled = (tmp_path / "whole.pth").read_bytes()
    cases = {
        "cut.safetensors": whole[: len(whole) // 2],
        "head.safetensors": whole[:6],
        "text.safetensors": b"<html>not found</html>",
        "empty.safetensors": b"",
        "cut.pth": pickled[: len(pickled) // 2],
        "text.pth": b"<html>not found</html>",
        "empty.pth": b"",
        "numbers.pth": pickle.dumps([1, 2], protocol=2),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            load(tmp_path / name, spec=SPEC)
        assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"diffuser.image.x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth holds more than tensors"):
        load(tmp_path / "bomb.pth", spec=SPEC)
    assert not (tmp_path / "harm").exists()


def test_a_zip_that_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"z\.pth is damaged"):
        open_tensors(tmp_path / "z.pth")


def test_a_git_lfs_pointer_says_so(tmp_path):
    (tmp_path / "p.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        open_tensors(tmp_path / "p.pth")


def test_files_that_are_not_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is not a file of weights"):
        load(tmp_path / "notes.txt")
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint of Versatile Diffusion.*conv"):
        load(tmp_path / "other.safetensors")
    torch.save({"diffuser.image.x": 3}, tmp_path / "n.pth")
    with pytest.raises(ValueError, match="tensors by name"):
        load(tmp_path / "n.pth")


def test_names_and_folders_that_are_no_model(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no-such-model"):
        load("no-such-model")
    with pytest.raises(ValueError, match="not a model folder"):
        load(tmp_path)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    with pytest.raises(ValueError, match="vd-mini are not in"):
        load("vd-mini")


# ---------------------------------------------------------------------- the hub


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_connection(repo, path):
        raise LocalEntryNotFoundError(f"{repo}/{path}: no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_connection)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("image_decoder", "kl-f8.pth"),
        ("text_decoder", "optimus-vae.pth"),
        ("clip_text", "clip-vit-large-patch14/model.safetensors"),
        ("time_embed", "vd-four-flow-v1-0-fp16.pth"),
    ],
)
def test_offline_says_which_file_and_where_to_put_it(offline, component, name):
    with pytest.raises(OSError, match=r"huggingface\.co") as caught:
        load("vd-four-flow-v1-0", components=component, device="cpu")
    assert name in str(caught.value) and str(offline / name) in str(caught.value)


def test_the_other_repository_is_tried_when_one_lacks_the_file(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def only_the_second(repo, path):
        asked.append(repo)
        if len(asked) == 1:
            raise EntryNotFoundError("no such file")
        return str(tmp_path / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", only_the_second)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    assert hub.fetch("kl-f8.pth") == tmp_path / "pretrained_pth" / "kl-f8.pth"
    assert len(set(asked)) == 2


def test_files_put_there_by_hand_are_used(vd, offline, monkeypatch):
    """The released name with files in pretrained/; the released sizes replaced by small ones."""
    monkeypatch.setattr(sources, "VD_FOUR_FLOW_V1_0", replace(SPEC, name="vd-four-flow-v1-0"))
    torch.save(in_layout(vd, "kl-f8"), offline / "kl-f8.pth")
    assert load("vd-four-flow-v1-0", components="image_decoder", device="cpu").loaded
    (offline / "clip-vit-large-patch14").mkdir()
    save_file(in_layout(vd, "clip"), offline / "clip-vit-large-patch14" / "model.safetensors")
    torch.save(in_layout(vd, "legacy", COMPONENTS[:5]), offline / hub.MAIN_FILES[2])
    some = load("vd-four-flow-v1-0", flows="t2i", device="cpu")
    assert same(some, vd, some.loaded) and "image_encoder" in some.loaded


# ---------------------------------------------------------------------- save


def test_what_is_saved_comes_back(vd, tmp_path):
    save(vd, tmp_path / "m", dtype=torch.float32)
    again = load(tmp_path / "m", device="cpu")
    assert again.spec == vd.spec and same(again, vd)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == sorted(
        ["config.json", *(f"{name}.safetensors" for name in COMPONENTS)]
    )
    decoder = load_file(tmp_path / "m" / "text_decoder.safetensors")
    assert "gpt2.lm_head.weight" not in decoder  # tied: stored once


def test_a_model_loaded_from_a_pickle_can_be_saved(official, tmp_path):
    torch.save(official, tmp_path / "official.pth")
    save(load(tmp_path / "official.pth", spec=SPEC, device="cpu"), tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").loaded == COMPONENTS


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


@pytest.mark.parametrize("break_at", ["save_file", "replace"])
def test_a_full_disk_leaves_everything_as_it_was(vd, tmp_path, monkeypatch, break_at):
    save(vd, tmp_path, components=["time_embed"])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fine = getattr(weights if break_at == "save_file" else os, break_at)
    calls = []

    def full(*arguments, **options):
        calls.append(arguments)
        if break_at == "save_file" and len(calls) == 1:
            return fine(*arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights if break_at == "save_file" else os, break_at, full)
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


# ---------------------------------------------------------------------- device and precision


def test_precision_follows_size_and_hardware(monkeypatch):
    small, big = weights.BIG, weights.BIG + 1
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(weights, "cpu_has_bfloat16", lambda: True)
    assert choose_dtype(cpu, small) is torch.float32
    assert choose_dtype(cpu, big) is torch.bfloat16
    assert choose_dtype(cuda, big) is choose_dtype(torch.device("mps"), big) is torch.float16
    assert choose_dtype(cuda, small) is torch.float32
    monkeypatch.setattr(weights, "cpu_has_bfloat16", lambda: False)
    assert choose_dtype(cpu, big) is torch.float32


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="no cuda"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="abacus"):
        choose_device("abacus")
    assert VD_FOUR_FLOW_V1_0.name in str(load.__doc__)
