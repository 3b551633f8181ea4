"""Loading: every layout, only what is asked for, strictly."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib import devices
from lib.checkpoints import keymaps, load, loading
from lib.checkpoints.tensor_files import TensorFile
from lib.config import COMPONENTS
from lib.devices import choose_device, choose_dtype
from lib.model import Context, VersatileDiffusion
from lib.specs import VD_MINI
from tests.lib.small_model import SPEC, edited, in_layout, official, same, small_vd

BARE = {
    "kl-f8": ("image_encoder", "image_decoder"),
    "optimus-vae": ("text_encoder", "text_decoder"),
    "clip": ("clip_text", "clip_vision"),
}
OWNERS = {key: owner for key, (owner, _) in keymaps.inverse("official", SPEC).items()}
KEY = "diffuser.text.data_blocks.1.0.in_layers.0.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "official.safetensors"
    save_file(official(), path)
    return path


@pytest.fixture(scope="module")
def vd() -> VersatileDiffusion:
    return small_vd()


# ---------------------------------------------------------------------- what load returns


def test_a_loaded_model_is_complete_frozen_and_in_evaluation_mode(vd):
    assert vd.loaded == vd.available == COMPONENTS
    assert not vd.training and not any(p.requires_grad for p in vd.parameters())
    assert {p.device.type for p in vd.parameters()} == {"cpu"}
    assert vd.dtype is torch.float32
    key = "diffuser.image.data_blocks.1.0.in_layers.2.weight"
    own = vd.image_data.get_parameter("data_blocks.1.in_layers.2.weight")
    assert torch.equal(own, official()[key])


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
    assert {OWNERS[key] for key in read} == parts
    assert len(read) == len(set(read))
    with_encoder = load(file, flows=[flow], spec=SPEC, device="cpu")
    assert set(with_encoder.loaded) == parts | {f"{data}_encoder"}


def test_components_are_read_when_first_required(file, monkeypatch):
    read = []
    get = TensorFile.__getitem__
    monkeypatch.setattr(TensorFile, "__getitem__", lambda f, k: (read.append(k), get(f, k))[1])
    lazy = load(file, spec=SPEC, device="cpu", dtype=torch.bfloat16)
    assert lazy.loaded == () and lazy.available == COMPONENTS and read == []
    assert (lazy.device, lazy.dtype) == (torch.device("cpu"), torch.bfloat16)
    context = Context("text", torch.zeros(1, 3, 48))
    lazy.eps(torch.zeros(1, 4, 8, 8), 1, [(context, 1.0)])
    assert lazy.loaded == ("time_embed", "image_data", "text_context")
    assert {OWNERS[key] for key in read} == set(lazy.loaded)
    assert len(read) == len(set(read))
    assert lazy.clip_text is lazy.component("clip_text")
    assert lazy.clip_text.text_projection.weight.dtype is torch.bfloat16
    assert not lazy.clip_text.training
    assert not any(p.requires_grad for p in lazy.parameters())
    lazy.float()
    assert lazy.image_context_column is lazy.component("image_context")
    assert {p.dtype for p in lazy.parameters()} == {torch.float32}  # what comes later, too


def test_a_component_that_threads_need_at_once_is_read_once(file, monkeypatch):
    filled = []
    fill = loading.fill
    monkeypatch.setattr(loading, "fill", lambda *a: (filled.append(a[1]), fill(*a))[1])
    lazy = load(file, spec=SPEC, device="cpu")
    with ThreadPoolExecutor(8) as threads:
        modules = set(threads.map(lazy.component, ["image_data"] * 16))
    assert len(modules) == 1 and filled == ["image_data"]


def test_a_model_that_only_has_a_dtype_moves(file):
    lazy = load(file, spec=SPEC, device="cpu").to(torch.float64)
    assert lazy.loaded == () and lazy.dtype is lazy.time_embed[0].weight.dtype is torch.float64


@pytest.mark.parametrize("wrong", [{"flows": "t2x"}, {"components": ["image_data", "audio"]}])
def test_unknown_flows_and_components(file, wrong):
    with pytest.raises(ValueError, match=r"t2x|audio"):
        load(file, spec=SPEC, **wrong)


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize("form", ["zip", "before 2020", "wrapped"])
def test_pickles_of_every_form(vd, tmp_path, form):
    path = tmp_path / "official.pth"
    values = {"state_dict": official(), "step": 7} if form == "wrapped" else official()
    torch.save(values, path, _use_new_zipfile_serialization=form != "before 2020")
    assert same(load(path, spec=SPEC, device="cpu"))


def test_legacy_layout(vd, tmp_path):
    old = in_layout("legacy")
    assert {key.split(".")[0] for key in old} == {"model", "autokl", "optimus", "clip"}
    old |= {"betas": torch.zeros(1000), "clip.model.logit_scale": torch.zeros(())}
    torch.save(old, tmp_path / "old.pth")
    assert same(load(tmp_path / "old.pth", spec=SPEC, device="cpu"))


def test_bare_files(vd, tmp_path):
    for layout, parts in BARE.items():
        path = tmp_path / f"{layout}.pth"
        torch.save(in_layout(layout), path)
        alone = load(path, spec=SPEC, device="cpu")
        assert set(alone.available) == set(parts)
        assert same(alone, parts)
        with pytest.raises(ValueError, match="image_data"):
            load(path, components="image_data", spec=SPEC)
        with pytest.raises(ValueError, match="does not hold the component time_embed"):
            alone.require("time_embed")


def test_a_diffuser_alone_finds_the_rest_beside_it(vd, tmp_path):
    diffuser = {k: v for k, v in official().items() if k.startswith("diffuser.")}
    torch.save(diffuser, tmp_path / "vd-four-flow-v1-0.pth")
    with pytest.raises(ValueError, match=r"image_encoder: put kl-f8\.pth"):
        load(tmp_path, components=COMPONENTS, spec=SPEC)
    torch.save(in_layout("kl-f8"), tmp_path / "kl-f8.pth")
    with pytest.raises(ValueError, match=r"text_decoder: put optimus-vae\.pth"):
        load(tmp_path, components="text_decoder", spec=SPEC)
    torch.save(in_layout("optimus-vae"), tmp_path / "optimus-vae.pth")
    with pytest.raises(ValueError, match=r"clip_text: put clip-vit-large-patch14"):
        load(tmp_path, flows="t2i", spec=SPEC)
    (tmp_path / "clip-vit-large-patch14").mkdir()
    clip = in_layout("clip") | {"logit_scale": torch.ones(())}
    clip["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(clip, tmp_path / "clip-vit-large-patch14" / "model.safetensors")
    assert same(load(tmp_path, spec=SPEC, device="cpu"))
    assert same(load(tmp_path / "vd-four-flow-v1-0.pth", spec=SPEC, device="cpu"))


def test_known_optional_keys_are_never_an_error(vd, tmp_path):
    more = {
        "ctx.text.model.text_model.embeddings.position_ids": torch.arange(20)[None],
        "ctx.image.model.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "vae.text.encoder.embeddings.position_ids": torch.arange(40)[None],
        "vae.text.decoder.transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    }
    path = edited(tmp_path / "more.safetensors", **more)
    assert same(load(path, spec=SPEC, device="cpu"))
    without = [k for k in official() if keymaps.is_optional("official", k)]
    without += ["vae.text.decoder.lm_head.weight"]
    path = edited(tmp_path / "less.safetensors", drop=without)
    assert same(load(path, spec=SPEC, device="cpu"))


# ---------------------------------------------------------------------- strictness


def test_a_missing_key_is_named(tmp_path):
    path = edited(tmp_path / "x.safetensors", drop=[KEY])
    with pytest.raises(ValueError, match=rf"text_data.*1 missing: {KEY}"):
        load(path, components=COMPONENTS, spec=SPEC)
    load(path, flows="t2i", spec=SPEC, device="cpu")  # not a part of this flow


def test_a_key_left_over_is_named(tmp_path):
    path = edited(tmp_path / "x.safetensors", **{KEY + "_v": torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"1 keys that belong to no component of other: {KEY}_v"):
        load(path, components=COMPONENTS, spec=SPEC)


def test_many_problems_are_counted_not_listed(tmp_path):
    drop = [k for k in official() if k.startswith("diffuser.image.context_blocks.0.")]
    path = edited(tmp_path / "x.safetensors", drop=drop)
    with pytest.raises(ValueError, match=rf"{len(drop)} missing: .* and {len(drop) - 4} more"):
        load(path, components=COMPONENTS, spec=SPEC)


def test_a_key_of_unknown_prefix_is_refused(tmp_path):
    path = edited(tmp_path / "x.safetensors", **{"diffuser.audio.w": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"1 keys that belong to no component.*diffuser\.audio\.w"):
        load(path, flows="t2i", spec=SPEC)


def test_a_wrong_shape_is_named(tmp_path):
    path = edited(tmp_path / "x.safetensors", **{KEY: torch.zeros(7)})
    with pytest.raises(ValueError, match=rf"wrong shape: {KEY} is \(7,\) instead of \(128,\)"):
        load(path, components=COMPONENTS, spec=SPEC)


def test_a_file_of_another_size_is_refused(file):
    with pytest.raises(ValueError, match=r"vd-mini.*missing|belong to no component of vd-mini"):
        load(file, components="image_data", spec=VD_MINI)


def test_an_untied_head_is_refused(tmp_path):
    head = "vae.text.decoder.lm_head.weight"
    path = edited(tmp_path / "x.safetensors", **{head: official()[head] + 1})
    with pytest.raises(ValueError, match=r"x\.safetensors.*lm_head"):
        load(path, components=COMPONENTS, spec=SPEC)


# ---------------------------------------------------------------------- device and precision


def test_precision_follows_size_and_hardware(monkeypatch):
    small, big = devices.BIG, devices.BIG + 1
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    assert choose_dtype(cpu, small) is torch.float32
    assert choose_dtype(cpu, big) is torch.bfloat16
    assert choose_dtype(cuda, big) is choose_dtype(torch.device("mps"), big) is torch.float16
    assert choose_dtype(cuda, small) is torch.float32
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    assert choose_dtype(cpu, big) is torch.float32


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="no cuda"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="abacus"):
        choose_device("abacus")


@pytest.mark.parametrize(
    "device", ["meta", "xpu", "hpu", "cuda:-1", "", ["cpu"], torch.device("xla")]
)
def test_other_kinds_of_device_are_refused(device):
    with pytest.raises(
        ValueError, match=r"^device is .*: choose cpu, cuda, cuda:1, \.\.\. or mps\.$"
    ):
        choose_device(device)


def test_the_index_of_a_device_is_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for good in ("cpu", "cuda", "cuda:0", torch.device("cuda:1"), "mps", "mps:0"):
        assert choose_device(good) == torch.device(good)
    assert choose_device() == torch.device("cuda")
    for bad in ("cuda:2", "cuda:99", "cpu:1", "mps:1", torch.device("cuda:7")):
        with pytest.raises(ValueError, match=rf"no {bad}: choose cpu, cuda:0, cuda:1, mps\.$"):
            choose_device(bad)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver that does not start
    assert choose_device() == torch.device("mps")
    with pytest.raises(ValueError, match=r"no cuda:0: choose cpu, mps\.$"):
        choose_device("cuda:0")
