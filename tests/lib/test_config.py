"""Sizes: what is refused, and that nothing is which the networks would take."""

import json
from itertools import product

import pytest

from lib.config import ModelSpec, UNetConfig
from lib.specs import VD_EMOJI, VD_FOUR_FLOW_V1_0, VD_MINI
from lib.unet import ContextColumn, plan

SIZES = {"model_channels": 2, "channel_mult": (3, 4, 8), "norm_groups": 2, "context_dim": 6}


def config(heads: int, levels: tuple[bool, ...], blocks: tuple[int, ...] = (1, 1, 1)) -> UNetConfig:
    return UNetConfig(
        **SIZES,
        context_levels=levels,
        num_res_blocks=blocks,
        image_heads=heads,
        text_heads=heads,
    )


@pytest.mark.parametrize("levels", list(product([True, False], repeat=3)))
@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_heads_divide_the_widths_of_context_layers_only(levels, blocks):
    """Widths are 6, 8, 16, and 2 before the first block."""
    widths = {s.width_in for s in plan(config(1, levels, blocks)) if s.op == "context"}
    for heads in (2, 3, 4, 6, 8, 16):
        if all(width % heads == 0 for width in widths):
            ContextColumn("image", config(heads, levels, blocks))
        else:
            with pytest.raises(ValueError, match=f"into {heads} heads: choose .* the middle"):
                config(heads, levels, blocks)


@pytest.mark.parametrize("kind", ["image_heads", "text_heads"])
def test_there_is_a_head(kind):
    with pytest.raises(ValueError, match="into 0 heads"):
        UNetConfig(**{kind: 0})


@pytest.mark.parametrize("spec", [VD_FOUR_FLOW_V1_0, VD_MINI, VD_EMOJI], ids=lambda s: s.name)
def test_a_spec_survives_json(spec):
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def changed(path: str, value: object) -> dict:
    values = json.loads(json.dumps(VD_MINI.to_dict()))
    *way, last = path.split(".")
    place = values
    for part in way:
        place = place[part]
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("clip.text.layers", 10**9, "1000000000: .* less than or equal to 256"),
        ("num_timesteps", 10**9, "1000000000: .* less than or equal to"),
        ("unet", None, "None: .* an object"),
        ("unet.norm_groups", 0, "0: .* greater than or equal to 1"),
        ("unet.model_channels", "64", "'64': .* valid integer"),
        ("unet.model_channels", 64.0, r"64\.0: .* valid integer"),
        ("unet.model_channels", True, "True: .* valid integer"),
        ("unet.channel_mult", 2, "2: .* valid array"),
        ("unet.channel_mult", [1, "a", 2], "'a': .* valid integer"),
        ("unet.channel_mult", [1] * 9, "at most 8"),
        ("unet.channel_mult", [], "at least 1"),
        ("unet.context_levels", [1, 1, 0], "1: .* valid boolean"),
        ("image_vae.scale", float("nan"), "nan: .* finite"),
        ("scale_text", 10**400, "finite"),
        ("clip.text.act", "relu7", "'relu7': .* 'quick_gelu' or 'gelu'"),
        ("name", 5, "5: .* valid string"),
        ("engine", 5, "5: unexpected"),
    ],
)
def test_a_value_that_no_field_can_have_is_named(path, value, message):
    with pytest.raises(ValueError, match=rf"^spec\.{path}(\.\d)? is .*{message}") as caught:
        ModelSpec.from_dict(changed(path, value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("image_vae.ch", 6, r"^spec\.image_vae: Width 6 cannot be split into 4 GroupNorm groups"),
        ("clip.text.heads", 7, r"^spec\.clip\.text: .* cannot be split into 7 heads"),
        ("clip.vision.heads", 7, r"^spec\.clip\.vision: .* cannot be split into 7 heads"),
        ("clip.vision.patch_size", 65, "no larger than the picture"),
        ("text_vae.gpt2_heads", 7, r"^spec\.text_vae: .* cannot be split into 7 heads"),
        ("text_vae.max_output", 64, "max_output 64, .* give at most 62 and 63"),
        ("image_size", 65, "height is 65, .* multiple of 32"),
        ("unet.text_dim", 12, "^spec: .* make the two equal"),
    ],
)
def test_values_that_do_not_go_together_are_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec.from_dict(changed(path, value))


def test_a_missing_field_is_named():
    values = VD_MINI.to_dict()
    del values["name"]
    with pytest.raises(ValueError, match=r"spec\.name .* field required"):
        ModelSpec.from_dict(values)
