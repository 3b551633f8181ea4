"""Key maps against the released checkpoints' own key lists (tests/fixtures), on the meta device."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from lib.checkpoints import keymaps
from lib.components import structure
from lib.config import COMPONENTS, ModelSpec
from lib.specs import VD_FOUR_FLOW_V1_0, VD_MINI
from tests.released_config import read_released

DATA = Path(__file__).parents[2] / "fixtures"
SPEC = VD_FOUR_FLOW_V1_0
DIFFUSER = COMPONENTS[:5]


def read(name: str) -> dict:
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


@pytest.fixture(scope="module")
def modules() -> dict[str, torch.nn.Module]:
    return structure(SPEC)


@pytest.fixture(scope="module")
def official() -> dict[str, list[int]]:
    return read("official_keys.json.gz")


def test_every_official_key_is_consumed_once_or_known_optional(modules, official):
    assert len(official) == 3171
    used = []
    for component, module in modules.items():
        for name, tensor in module.state_dict().items():
            (key,) = keymaps.file_keys("official", SPEC, component, name)
            assert list(tensor.shape) == official[key], key
            assert keymaps.inverse("official", SPEC)[key] == (component, name)
            used.append(key)
    assert len(used) == len(set(used)) == 2556
    rest = set(official) - set(used)
    assert all(keymaps.is_optional("official", key) for key in rest)
    assert not any(keymaps.is_optional("official", key) for key in used)
    assert keymaps.detect(official) == ("official", "")


def test_legacy_names_follow_from_the_plan(modules):
    expected = read("legacy_to_official.json.gz")
    assert len(expected) == 1368
    derived = {}
    for component in DIFFUSER:
        for name in modules[component].state_dict():
            (old,) = keymaps.file_keys("legacy", SPEC, component, name)
            (new,) = keymaps.file_keys("official", SPEC, component, name)
            derived[old] = new
            assert keymaps.inverse("legacy", SPEC)[old] == (component, name)
    assert derived == expected
    assert keymaps.detect(expected) == ("legacy", "")


def other_spec() -> ModelSpec:
    values = json.loads((DATA / "other_config.json").read_text())
    return read_released(values)


@pytest.mark.parametrize("spec", [VD_MINI, other_spec()], ids=["vd-mini", "other"])
@pytest.mark.parametrize("layout", keymaps.LAYOUTS)
def test_maps_are_one_to_one_and_can_be_inverted(layout, spec):
    inverse, count = keymaps.inverse(layout, spec), 0
    for component, module in structure(spec).items():
        for name in module.state_dict():
            for key in keymaps.file_keys(layout, spec, component, name):
                assert inverse[key] == (component, name)
                assert not keymaps.is_optional(layout, key)
                count += 1
    assert count == len(inverse) > 0
    if layout not in ("image_unet", "text_unet"):  # these are told by their folder
        assert keymaps.detect(inverse) == (layout, "")
        wrapped = [f"module._orig_mod.{key}" for key in inverse]
        assert keymaps.detect(["step", *wrapped]) == (layout, "module._orig_mod.")


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("official", "posterior_mean_coef2"),
        ("official", "vae.text.decoder.transformer.h.11.attn.bias"),
        ("official", "vae.text.decoder.transformer.h.0.attn.masked_bias"),
        ("official", "ctx.image.model.vision_model.embeddings.position_ids"),
        ("official", "ctx.text.model.text_model.embeddings.position_ids"),
        ("official", "ctx.text.model.vision_model.pre_layrnorm.weight"),
        ("official", "ctx.image.model.text_projection.weight"),
        ("official", "ctx.image.model.logit_scale"),
        ("optimus-vae", "encoder.embeddings.position_ids"),
        ("optimus-vae", "decoder.transformer.h.3.attn.bias"),
        ("legacy", "optimus.decoder.transformer.h.3.attn.bias"),
        ("legacy", "clip.model.logit_scale"),
        ("text_unet", "time_embedding.linear_1.weight"),
        ("kl-f8", "loss.logvar"),
        ("kl-f8", "loss.discriminator.main.0.weight"),
        ("legacy", "model_ema.diffusion_modeltime_embed0weight"),
    ],
)
def test_known_optional_keys(layout, key):
    assert keymaps.is_optional(layout, key)


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("official", "diffuser.audio.data_blocks.0.0.weight"),
        ("official", "vae.image.discriminator.weight"),
        ("official", "nonsense"),
        ("legacy", "model.diffusion_model.unet_image.input_blocks.99.0.op.weight"),
        ("legacy", "diffuser.image.time_embed.0.weight"),
        ("kl-f8", "discriminator.main.0.weight"),
        ("image_unet", "add_embedding.linear_1.weight"),
    ],
)
def test_unknown_keys_have_no_owner(layout, key):
    assert key not in keymaps.inverse(layout, SPEC) and not keymaps.is_optional(layout, key)


def test_detect_refuses_what_it_does_not_know():
    assert keymaps.detect(["conv1.weight", "fc.bias"]) is None
    assert keymaps.detect([]) is None


def test_sizes_are_as_promised(modules):
    """The table of parameters that the released model is known by, in millions."""
    counts = {
        name: sum(p.numel() for p in module.parameters()) / 1e6 for name, module in modules.items()
    }
    expected = {
        "time_embed": 2.1,
        "image_data": 590.2,
        "text_data": 1439.6,
        "image_context": 267.2,
        "text_context": 267.2,
        "image_decoder": 49.5,
        "text_encoder": 109.5,
        "clip_text": 123.7,
        "clip_vision": 304.0,
    }
    assert {name: round(counts[name], 1) for name in expected} == expected
    assert round(counts["image_encoder"] + counts["image_decoder"], 1) == 83.7
    assert round(counts["clip_text"] + counts["clip_vision"], 1) == 427.6
    # as stored: the tied head twice, and twelve causal masks of 1024 x 1024
    head = SPEC.text_vae.gpt2_vocab * SPEC.text_vae.gpt2_hidden / 1e6
    assert round(counts["text_decoder"] + head + 12 * 1024**2 / 1e6, 1) == 183.3
    text_to_image = ("time_embed", "image_data", "text_context", "image_decoder", "clip_text")
    assert round(sum(counts[name] for name in text_to_image) / 1e3, 2) == 1.03
