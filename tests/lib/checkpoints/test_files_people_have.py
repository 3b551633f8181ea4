"""Checkpoints as people have them: wrapped, divided, in halves; and what is refused by its name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib.checkpoints import load
from lib.checkpoints.tensor_files import open_tensors
from lib.config import COMPONENTS
from tests.lib.small_model import SPEC, edited, in_layout, official, same

KL = ("image_encoder", "image_decoder")
BIAS = "diffuser.image.time_embed.0.bias"
FOLDERS = {
    "image_unet": ("time_embed", "image_data", "image_context"),
    "text_unet": ("text_data", "text_context"),
    "vae": KL,
}


@pytest.mark.parametrize("layout", ["official", "legacy"])
@pytest.mark.parametrize("wrapper", ["module.", "model.", "net.", "ema_model.module._orig_mod."])
def test_wrappers_of_training_are_taken_off(tmp_path, layout, wrapper):
    values = official() if layout == "official" else in_layout(layout)
    values = {wrapper + key: value for key, value in values.items()}
    torch.save({"model": values, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "x.pth")
    assert same(load(tmp_path / "x.pth", spec=SPEC, device="cpu"))


@pytest.mark.parametrize(
    "around",
    [
        lambda values: {"state_dict": values, "pytorch-lightning_version": "2.1", "epoch": 3},
        lambda values: {"ema": {"shadow": 1}, "model": {"module": values}},
        lambda values: {"ema_state_dict": values, "decay": 0.999},
        lambda values: {"params_ema": values},
        lambda values: {"ema": values, "step": 7},
    ],
)
def test_what_training_puts_around_the_weights(tmp_path, around):
    values = {f"net.{key}": value for key, value in in_layout("kl-f8").items()}
    torch.save(around(values), tmp_path / "x.ckpt")
    opened = open_tensors(tmp_path / "x.ckpt")
    assert opened.shapes.keys() == values.keys()
    assert same(load(tmp_path / "x.ckpt", spec=SPEC, device="cpu"), KL)


def test_leftovers_of_training_are_left_alone(tmp_path):
    left = {
        "loss.logvar": torch.zeros(()),
        "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
    }
    torch.save({"state_dict": in_layout("kl-f8") | left}, tmp_path / "kl.ckpt")
    assert same(load(tmp_path / "kl.ckpt", spec=SPEC, device="cpu"), KL)
    torch.save(in_layout("legacy") | left, tmp_path / "old.pth")
    assert same(load(tmp_path / "old.pth", spec=SPEC, device="cpu"))


@pytest.mark.parametrize("name", ["kl-f8.PTH", "kl.pth.tar", "KL-F8.Ckpt", "kl.bin", "kl"])
def test_the_content_tells_the_format(tmp_path, name):
    torch.save(in_layout("kl-f8"), tmp_path / name)
    assert same(load(tmp_path / name, spec=SPEC, device="cpu"), KL)
    save_file(in_layout("kl-f8"), tmp_path / name)
    assert same(load(tmp_path / name, spec=SPEC, device="cpu"), KL)


@pytest.mark.parametrize("name", ["kl-f8.pt", "kl-f8.PTH", "kl-f8.safetensors"])
def test_a_file_beside_the_diffuser_may_be_spelt_otherwise(tmp_path, name):
    diffuser = {key: value for key, value in official().items() if key.startswith("diffuser.")}
    save_file(diffuser, tmp_path / "vd-four-flow-v1-0.safetensors")
    (save_file if "safe" in name else torch.save)(in_layout("kl-f8"), tmp_path / name)
    assert same(load(tmp_path, spec=SPEC, device="cpu"), (*FOLDERS["image_unet"], *KL))


# ---------------------------------------------------------------------- divided, and in halves


def divide(values: dict, folder: Path, form: str, parts: int = 3) -> list[Path]:
    paths = [folder / form.format(f"{i + 1:05}-of-{parts:05}") for i in range(parts)]
    for i, path in enumerate(paths):
        part = dict(list(values.items())[i::parts])
        (save_file if form.endswith("safetensors") else torch.save)(part, path)
    return paths


@pytest.mark.parametrize("form", ["vd-{}.safetensors", "vd.fp16-{}.safetensors", "vd-{}.bin"])
def test_a_divided_file_is_read_whole(tmp_path, form):
    paths = divide(official(), tmp_path, form)
    for path in paths:
        assert open_tensors(path).shapes.keys() == official().keys()
    assert same(load(paths[1], spec=SPEC, device="cpu"))
    paths[2].unlink()
    with pytest.raises(ValueError, match=f"There is no file .*{paths[2].name}"):
        load(paths[0], spec=SPEC)


def test_an_index_opens_the_files_it_lists(tmp_path):
    values = in_layout("kl-f8")
    halves = [dict(list(values.items())[i::2]) for i in (0, 1)]
    for name, half in zip(("one.safetensors", "two.safetensors"), halves, strict=True):
        save_file(half, tmp_path / name)
    where = dict.fromkeys(halves[0], "one.safetensors")
    where |= dict.fromkeys(halves[1], "two.safetensors")
    path = tmp_path / "kl.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same(load(path, spec=SPEC, device="cpu"), KL)
    for broken in ({"weight_map": {"a": "../x.safetensors"}}, {"weight_map": 3}, [], "{", {}):
        path.write_text(broken if isinstance(broken, str) else json.dumps(broken))
        with pytest.raises(ValueError, match=r"kl\.safetensors\.index\.json is no index"):
            open_tensors(path)


def test_parts_that_hold_the_same_tensor_are_refused(tmp_path):
    for i in (1, 2):
        save_file(in_layout("kl-f8"), tmp_path / f"kl-{i:05}-of-00002.safetensors")
    with pytest.raises(ValueError, match="hold tensors twice"):
        open_tensors(tmp_path / "kl-00001-of-00002.safetensors")


def diffusers_folder(path: Path, form: str, kind: str = "VersatileDiffusionPipeline") -> Path:
    for name, parts in FOLDERS.items():
        (path / name).mkdir(parents=True)
        values = in_layout(name, parts)
        if "{}" in form:
            divide(values, path / name, form)
            index = {"weight_map": dict.fromkeys(values, "...")}
            (path / name / "x.safetensors.index.json").write_text(json.dumps(index))
        else:
            (save_file if form.endswith("safetensors") else torch.save)(values, path / name / form)
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return path


@pytest.mark.parametrize(
    "form",
    [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.fp16.bin",
        "diffusion_pytorch_model-{}.safetensors",
        "diffusion_pytorch_model.fp16-{}.safetensors",
        "diffusion_pytorch_model-{}.fp16.bin",
    ],
)
def test_variants_in_a_diffusers_folder(tmp_path, form):
    folder = diffusers_folder(tmp_path / "d", form)
    assert same(load(folder, spec=SPEC, device="cpu"), sum(FOLDERS.values(), ()))


def test_full_precision_is_preferred(tmp_path):
    folder = diffusers_folder(tmp_path / "d", "diffusion_pytorch_model.safetensors")
    values = in_layout("vae", KL)
    for name in ("fp16.safetensors", "non_ema.safetensors", "bin"):
        path = folder / "vae" / f"diffusion_pytorch_model.{name}"
        (save_file if "safe" in name else torch.save)({k: v + 1 for k, v in values.items()}, path)
    assert same(load(folder, spec=SPEC, device="cpu"), KL)
    for path in (folder / "vae").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="vae holds no weights"):
        load(folder, spec=SPEC, components=KL)


@pytest.mark.parametrize("kind", ["TextToImage", "DualGuided"])
def test_a_pipeline_that_exchanges_layers_is_refused(tmp_path, kind):
    form = "diffusion_pytorch_model.safetensors"
    folder = diffusers_folder(tmp_path / "d", form, f"VersatileDiffusion{kind}Pipeline")
    with pytest.raises(
        ValueError, match=r"moves context layers.*Save a VersatileDiffusionPipeline"
    ):
        load(folder, spec=SPEC)


# ---------------------------------------------------------------------- what is not weights


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.tensor(float("nan")), "not finite in the file"),
        (torch.tensor(float("-inf")), "not finite in the file"),
        (torch.tensor(1e6), r"not finite in torch\.float16: take dtype float32"),
    ],
)
def test_weights_that_are_not_finite(tmp_path, broken, message):
    bias = official()[BIAS].clone()
    bias[1] = broken
    path = edited(tmp_path / "x.safetensors", **{BIAS: bias})
    with pytest.raises(ValueError, match=f"x.safetensors: {BIAS} holds numbers .* {message}"):
        load(path, spec=SPEC, device="cpu", dtype=torch.float16, components="time_embed")
    load(path, spec=SPEC, device="cpu", components="text_context")


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_kinds_of_numbers_that_are_no_weights(tmp_path, kind):
    path = tmp_path / "x.pth"
    torch.save(official() | {BIAS: torch.zeros_like(official()[BIAS]).to(kind)}, path)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"{BIAS} holds {name} numbers, .* get .* in float32"):
        load(path, spec=SPEC, device="cpu").require(*COMPONENTS)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_kinds_of_numbers_that_are_weights(tmp_path, kind):
    save_file(
        {key: value.to(kind) for key, value in official().items()}, tmp_path / "x.safetensors"
    )
    vd = load(tmp_path / "x.safetensors", spec=SPEC, device="cpu")
    assert vd.time_embed[0].weight.dtype is torch.float32
