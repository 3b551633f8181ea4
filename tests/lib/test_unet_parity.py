"""Networks and sampler against diffusers' own, with the same weights.

A diffusers folder is made of small random models by diffusers itself, loaded by our loader, and the
outputs are compared: key maps, structure and arithmetic in one go.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models import Transformer2DModel
from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import (
    UNetFlatConditionModel,
)

from lib.checkpoints import load
from lib.config import ClipConfig, KLConfig, ModelSpec, OptimusConfig, UNetConfig
from lib.model import Context
from lib.noise import SampleNoise
from lib.sampler import ddim
from lib.schedule import NoiseSchedule
from lib.unet import ContextColumn, DataColumn, TimeEmbed, plan, run

SPEC = ModelSpec(
    name="small",
    unet=UNetConfig(
        text_dim=24,
        model_channels=32,
        channel_mult=(1, 2, 3),
        num_res_blocks=(2, 1, 1),
        context_levels=(True, False, True),
        image_heads=2,
        text_heads=4,
        context_dim=48,
    ),
    image_vae=KLConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1),
    text_vae=OptimusConfig(latent=24),
    clip=ClipConfig(projection=48),
)
DIFFUSION = ("time_embed", "image_data", "text_data", "image_context", "text_context")


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    scale = theirs.abs().max().clamp(min=1).item()
    return torch.allclose(ours, theirs, rtol=0, atol=2e-5 * scale)


def sizes(kind: str) -> dict:
    """Our UNet sizes in diffusers' words."""
    unet = SPEC.unet
    crosses = unet.context_levels
    end = "2D" if kind == "image" else "Flat"
    return {
        "in_channels": 4 if kind == "image" else [unet.text_dim, 1, 1],
        "out_channels": 4 if kind == "image" else [unet.text_dim, 1, 1],
        "block_out_channels": [unet.model_channels * m for m in unet.channel_mult],
        "layers_per_block": list(unet.num_res_blocks),
        "cross_attention_dim": unet.context_dim,
        # diffusers calls the number of heads by this name
        "attention_head_dim": unet.image_heads if kind == "image" else unet.text_heads,
        "down_block_types": [f"{'CrossAttn' * c}DownBlock{end}" for c in crosses],
        "up_block_types": [f"{'CrossAttn' * c}UpBlock{end}" for c in reversed(crosses)],
    }


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    image = UNet2DConditionModel(**sizes("image"))
    text = UNetFlatConditionModel(**sizes("text"))
    text.time_embedding.load_state_dict(image.time_embedding.state_dict())
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 64, 64],
        layers_per_block=1,
        latent_channels=4,
    )
    return {"image_unet": image.eval(), "text_unet": text.eval(), "vae": vae.eval()}


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("diffusers")
    for name, model in theirs.items():
        model.save_pretrained(path / name)
    (path / "model_index.json").write_text(
        json.dumps({"_class_name": "VersatileDiffusionPipeline"})
    )
    return path


@pytest.fixture(scope="module")
def vd(folder):
    parts = (*DIFFUSION, "image_encoder", "image_decoder")
    return load(folder, components=parts, spec=SPEC, device="cpu")


def swapped(theirs: dict[str, torch.nn.Module]) -> list[tuple[str, int]]:
    """Exchange the context layers of diffusers' two UNets in place (the released pipelines do)."""
    image, text = theirs["image_unet"], theirs["text_unet"]
    places = [n for n, m in image.named_modules() if isinstance(m, Transformer2DModel)]
    for name in places:
        parent, index = name.rsplit(".", 1)
        a, b = image.get_submodule(parent), text.get_submodule(parent)
        a[int(index)], b[int(index)] = b[int(index)], a[int(index)]
    return places


@pytest.mark.filterwarnings("ignore:`scale` is deprecated:FutureWarning")
@pytest.mark.parametrize("context", ["image", "text"])
@pytest.mark.parametrize("data", ["image", "text"])
@torch.no_grad()
def test_four_flows(vd, theirs, data, context):
    g = torch.Generator().manual_seed(1)
    x = torch.randn((2, 4, 8, 12) if data == "image" else (2, 24), generator=g)
    tokens = torch.randn(2, 7, 48, generator=g)
    t = torch.tensor([1, 873])
    if data != context:
        assert len(swapped(theirs)) == len(vd.image_context_column.context_blocks)
    try:
        shaped = x if data == "image" else x[:, :, None, None]
        expected = theirs[f"{data}_unet"](shaped, t, tokens).sample.reshape(x.shape)
    finally:
        if data != context:  # back again
            swapped(theirs)
    assert expected.std() > 0.05  # not the zeros of a fresh output layer
    assert close(vd.eps(x, t, [(Context(context, tokens), 1.0)]), expected)


@torch.no_grad()
def test_image_vae(vd, theirs):
    g = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 16, 24, generator=g)
    expected = theirs["vae"].encode(2 * images - 1).latent_dist
    mean, logvar = vd.image_encoder(images)
    assert close(mean, expected.mean) and close(logvar, expected.logvar)
    z = torch.randn(2, 4, 4, 6, generator=g)
    assert close(vd.image_decoder(z), (theirs["vae"].decode(z).sample + 1) / 2)
    scaled = vd.decode_image(z * SPEC.image_vae.scale)
    assert close(scaled, (theirs["vae"].decode(z).sample / 2 + 0.5).clamp(0, 1))


def test_a_folder_without_the_text_vae_says_what_is_missing(folder):
    with pytest.raises(ValueError, match=r"text_(en|de)coder.*optimus-vae\.pth"):
        load(folder, flows="i2t", spec=SPEC, device="cpu")


def test_another_pipelines_folder_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="StableDiffusionPipeline"):
        load(tmp_path, components="image_data")


def test_a_fresh_context_layer_changes_nothing():
    """Output projections start at zero: mixing in an untrained column is the identity."""
    column = ContextColumn("text", SPEC.unet)
    h, tokens = torch.randn(2, 32, 4, 4), torch.randn(2, 5, 48)
    assert torch.equal(column(0, h, tokens), h)


@torch.no_grad()
def test_the_plan_accepts_any_depth():
    """Runs, keeps shapes and uses every block once, for depths and widths far from the release."""
    for mults, blocks, levels in (((1,), (1,), (True,)), ((1, 2, 2, 3, 4), (1, 2, 0, 1, 3), None)):
        levels = levels or (False, True, False, True, False)
        config = UNetConfig(
            text_dim=8,
            model_channels=8,
            channel_mult=mults,
            num_res_blocks=blocks,
            context_levels=levels,
            image_heads=2,
            text_heads=4,
            context_dim=6,
            second_dim=3,
            norm_groups=4,
        )
        steps = plan(config)
        emb = TimeEmbed(config)(torch.tensor([5.0]))
        for kind, shape in (("image", (1, 4, 16, 32)), ("text", (1, 8))):
            data, context = DataColumn(kind, config), ContextColumn(kind, config)
            called = []
            for i, block in enumerate(data.data_blocks):
                block.register_forward_hook(lambda *_, i=i, called=called: called.append(i))
            tokens = torch.randn(1, 3, 6)
            out = run(steps, data, [(context, tokens, 1.0)], torch.randn(shape), emb)
            assert out.shape == shape
            assert called == list(range(len(data.data_blocks)))
        used = [step.index for step in steps if step.op == "context"]
        assert used == list(range(len(context.context_blocks)))


# ---------------------------------------------------------------------- the sampler


def fake_eps(x: torch.Tensor, t: int) -> torch.Tensor:
    """Any smooth function of x and t will do."""
    return torch.sin(3 * x) * (0.2 + t / 1000)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("steps", [4, 50])
def test_ddim_against_diffusers(steps, eta):
    schedule = NoiseSchedule()
    scheduler = DDIMScheduler(
        beta_start=8.5e-4,
        beta_end=1.2e-2,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    timesteps = schedule.timesteps(steps)
    assert timesteps[::-1] == scheduler.timesteps.tolist()
    assert torch.allclose(schedule.alpha_bar, scheduler.alphas_cumprod.double(), atol=1e-6)

    x = SampleNoise([11, 12]).normal((4, 4))
    noise = SampleNoise([1, 2])
    ours = list(ddim(fake_eps, x, schedule, timesteps, eta, noise if eta else None))
    fresh = SampleNoise([1, 2])
    for step, t in zip(ours, scheduler.timesteps, strict=True):
        out = scheduler.step(
            fake_eps(x, int(t)),
            t,
            x,
            eta=eta,
            variance_noise=fresh.normal((4, 4)) if eta else None,
        )
        x = out.prev_sample
        assert step.t == int(t)
        assert torch.allclose(step.x, x, atol=2e-4)
        assert torch.allclose(step.x0, out.pred_original_sample, atol=2e-4)
