"""diffusers, both ways: their modules load what is written here, ours what they write; one picture.

Their pipelines are put together from their modules, since their own `from_pretrained` no longer
knows Versatile Diffusion. Latents, null and scheduler are the same, everything is float32.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.deprecated.versatile_diffusion import (
    pipeline_versatile_diffusion_image_variation as variation,
)
from diffusers.pipelines.deprecated.versatile_diffusion import (
    pipeline_versatile_diffusion_text_to_image as from_text,
)
from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import (
    UNetFlatConditionModel,
)
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from lib.checkpoints import load, save
from lib.checkpoints.converting import TEXT_TO_IMAGE, convert
from lib.checkpoints.diffusers_folder import OWN_SPEC, configurations, read_spec
from lib.components import build
from lib.config import COMPONENTS, ModelSpec
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import ddim
from lib.specs import VD_EMOJI, VD_FOUR_FLOW_V1_0, VD_MINI
from tests.conftest import drawing, random_weights

PROMPTS = ["a large red circle", "a tiny striped star on gray"]
SCALE, STEPS = 3.0, 4
NEAR = 1e-3
THEIRS = {
    "image_unet": UNet2DConditionModel,
    "text_unet": UNetFlatConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModelWithProjection,
    "image_encoder": CLIPVisionModelWithProjection,
    "scheduler": DDIMScheduler,
    "tokenizer": CLIPTokenizer,
}


@pytest.fixture(scope="module")
def vd(vd) -> VersatileDiffusion:
    """The tiny model, but with as many positions in text features as diffusers has."""
    spec = replace(vd.spec, unet=replace(vd.spec.unet, second_dim=4))
    generator = torch.Generator().manual_seed(4)
    modules = {name: build(spec, name) for name in COMPONENTS}
    for module in modules.values():
        random_weights(module, generator)
    return VersatileDiffusion(spec, modules, vd.tokenizers).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(vd, tmp_path_factory) -> Path:
    """The model as a diffusers folder."""
    base = tmp_path_factory.mktemp("both-ways")
    save(vd, base / "own", torch.float32)
    convert(base / "own", base / "theirs", "diffusers", text_to_image=True, progress=False)
    return base / "theirs"


def parts(folder: Path, *names: str) -> dict:
    return {name: THEIRS[name].from_pretrained(folder / name) for name in names}


def processor(folder: Path) -> dict:
    return {
        "image_feature_extractor": CLIPImageProcessor.from_pretrained(
            folder / "image_feature_extractor"
        )
    }


def pictures() -> list[Image.Image]:
    return [drawing(seed, (16, 16)) for seed in (5, 6)]


def ours(vd: VersatileDiffusion, context: Context, null: Context) -> tuple[torch.Tensor, ...]:
    """Initial latents and our pictures."""
    x = SampleNoise([1, 2]).normal(vd.latent_shape("image"))
    eps = vd.guided([(context, 1.0)], "image", SCALE, [null])
    *_, last = ddim(eps, x, vd.schedule, vd.schedule.timesteps(STEPS))
    return x, vd.decode_image(last.x)


def run(pipeline, latents: torch.Tensor, *inputs, **more) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    how = {"latents": latents, "guidance_scale": SCALE, "num_inference_steps": STEPS}
    return pipeline(*inputs, height=16, width=16, output_type="pt", **how, **more).images


def same_pictures(a: torch.Tensor, b: torch.Tensor) -> bool:
    assert a.shape == b.shape and a.std() > 0.05
    return (a - b).abs().max().item() < NEAR


@pytest.mark.parametrize("way", ["two networks", "one network"])
def test_their_text_to_image_makes_our_picture(vd, folder, way):
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    if way == "two networks":
        unets = parts(folder, "image_unet", "text_unet")  # whose context layers they exchange
    else:
        unet = UNet2DConditionModel.from_pretrained(folder / TEXT_TO_IMAGE)
        unets = {"image_unet": unet, "text_unet": None}
    pipeline = from_text.VersatileDiffusionTextToImagePipeline(**parts(folder, *names), **unets)
    x, expected = ours(vd, vd.text_context(PROMPTS), vd.null_context("text", "image", 2))
    assert same_pictures(run(pipeline, x, PROMPTS), expected)


def test_their_image_variation_makes_our_picture(vd, folder):
    modules = parts(folder, "image_encoder", "image_unet", "vae", "scheduler")
    pipeline = variation.VersatileDiffusionImageVariationPipeline(**modules, **processor(folder))
    null = vd.null_context("image", "image", 2, null="black")
    x, expected = ours(vd, vd.image_context(pictures()), null)
    black = [Image.new("RGB", (16, 16))] * 2
    assert same_pictures(run(pipeline, x, pictures(), negative_prompt=black), expected)
    # their own null is a picture of 0.5 of 255: nearly black, not the zeros that are ours
    zeros = ours(vd, vd.image_context(pictures()), vd.null_context("image", "image", 2))[1]
    assert not same_pictures(run(pipeline, x, pictures()), zeros)


def test_what_was_written_for_them_is_read_back(vd, folder):
    again = load(folder, device="cpu")
    assert again.spec == vd.spec
    for name in COMPONENTS:
        a, b = again.component(name).state_dict(), vd.component(name).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    assert again.encode_text(PROMPTS).shape == (2, 8)  # all three vocabularies are there


@pytest.fixture(scope="module")
def saved(vd, tmp_path_factory) -> Path:
    """A folder that only their own modules wrote."""
    path = tmp_path_factory.mktemp("saved") / "vd"
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
    }
    flat = {k: [b.replace("2D", "Flat") for b in v] for k, v in blocks.items() if "types" in k}
    clip = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip |= {"hidden_size": 16, "projection_dim": 16}
    words = vd.tokenizers.clip
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    text = {"vocab_size": len(words), "max_position_embeddings": 32, "pad_token_id": 0}
    modules = {
        "image_unet": UNet2DConditionModel(sample_size=8, **blocks),
        "text_unet": UNetFlatConditionModel(
            in_channels=(8, 1, 1), out_channels=(8, 1, 1), **(blocks | flat)
        ),
        "vae": AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            scaling_factor=0.5,
            sample_size=16,
        ),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text, **ends, **clip)),
        "image_encoder": CLIPVisionModelWithProjection(
            CLIPVisionConfig(image_size=16, patch_size=8, **clip)
        ),
    }
    generator = torch.Generator().manual_seed(9)
    for name, module in modules.items():
        random_weights(module, generator)
        module.save_pretrained(path / name)
    scheduler = DDIMScheduler(
        beta_start=1e-3,
        beta_end=1.5e-2,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(path / "scheduler")
    words.save_pretrained(path / "tokenizer")
    side = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessor(**side).save_pretrained(path / "image_feature_extractor")
    index = {"_class_name": "VersatileDiffusionPipeline"}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def test_a_folder_of_theirs_needs_no_spec_and_makes_their_picture(saved):
    vd = load(saved, device="cpu")
    assert (vd.spec.image_vae.scale, vd.spec.beta_end, vd.spec.image_size) == (0.5, 1.5e-2, 16)
    modules = parts(saved, "image_encoder", "image_unet", "vae", "scheduler")
    pipeline = variation.VersatileDiffusionImageVariationPipeline(**modules, **processor(saved))
    null = vd.null_context("image", "image", 2, null="black")
    x, expected = ours(vd, vd.image_context(pictures()), null)
    black = [Image.new("RGB", (16, 16))] * 2
    assert same_pictures(run(pipeline, x, pictures(), negative_prompt=black), expected)

    modules = parts(saved, "text_encoder", "image_unet", "text_unet", "vae", "scheduler")
    words = CLIPTokenizer.from_pretrained(saved / "tokenizer", model_max_length=32)
    kind = from_text.VersatileDiffusionTextToImagePipeline
    x, expected = ours(vd, vd.text_context(PROMPTS), vd.null_context("text", "image", 2))
    assert same_pictures(run(kind(tokenizer=words, **modules), x, PROMPTS), expected)
    with pytest.raises(ValueError, match=r"text_decoder: put optimus-vae\.pth beside it"):
        vd.require("text_decoder")


# ---------------------------------------------------------------------- configurations


def test_sizes_come_from_their_configurations(vd, folder, tmp_path):
    for path in configurations(vd.spec):
        (tmp_path / path).parent.mkdir()
        shutil.copyfile(folder / path, tmp_path / path)
    vae = replace(vd.spec.text_vae, latent=8)
    read = read_spec(tmp_path)
    assert replace(read, text_vae=vae) == replace(
        vd.spec, name=tmp_path.name, steps=50, scale_text=7.5, scale_image=7.5
    )
    assert json.loads((folder / OWN_SPEC).read_text()) == json.loads(json.dumps(vd.spec.to_dict()))


@pytest.mark.parametrize("spec", [VD_FOUR_FLOW_V1_0, VD_MINI], ids=lambda spec: spec.name)
def test_sizes_written_are_the_sizes_read(spec: ModelSpec, tmp_path):
    for path, values in configurations(spec).items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(json.dumps(values))
    read = read_spec(tmp_path)
    assert (read.unet, read.image_vae, read.image_size) == (
        spec.unet,
        spec.image_vae,
        spec.image_size,
    )
    assert (read.clip, read.beta_start, read.beta_end) == (
        spec.clip,
        spec.beta_start,
        spec.beta_end,
    )


def test_ids_of_old_configurations_are_those_of_the_tokenizer(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "d", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "d" / OWN_SPEC).unlink()
    path = tmp_path / "d" / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    right = config["bos_token_id"], config["eos_token_id"]
    path.write_text(json.dumps(config | {"bos_token_id": 0, "eos_token_id": 2}))
    text = read_spec(tmp_path / "d").clip.text
    assert (text.bos, text.eos) == right


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("image_unet", {"cross_attention_dim": 10**12}, r"context_dim is 1000000000000: "),
        ("image_unet", {"block_out_channels": [16, 10**9]}, "multiple of|spec.unet"),
        ("image_unet", {"block_out_channels": "wide"}, "says block_out_channels wide"),
        ("image_unet", {"flip_sin_to_cos": False}, "says flip_sin_to_cos False, .* has True"),
        ("image_unet", {"class_embed_type": "timestep"}, "says class_embed_type timestep"),
        ("image_unet", {"attention_head_dim": [1, 2]}, r"image_heads is \[1, 2\]"),
        ("text_unet", {"norm_num_groups": 8}, "text_unet/config.json says norm_num_groups 8"),
        ("vae", {"latent_channels": 2**40}, r"spec\."),
        ("vae", {"use_quant_conv": False}, "says use_quant_conv False"),
        ("text_encoder", {"vocab_size": -1}, r"clip\.text\.vocab is -1"),
        ("scheduler", {"beta_schedule": "linear"}, "says beta_schedule linear"),
        ("scheduler", {"num_train_timesteps": 1e400}, "num_timesteps"),
    ],
)
def test_configurations_of_something_else_are_one_sentence(folder, tmp_path, path, change, message):
    shutil.copytree(folder, tmp_path / "d", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "d" / OWN_SPEC).unlink()
    (config,) = (tmp_path / "d" / path).glob("*config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_a_model_that_they_have_no_words_for_is_refused():
    with pytest.raises(ValueError, match=r"vd-emoji cannot be written .* a VAE that reads patches"):
        configurations(VD_EMOJI)
