"""A Versatile Diffusion of a few thousand random weights, saved and loaded like any other."""

import math
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib.checkpoints import load, save
from lib.components import build
from lib.config import (
    COMPONENTS,
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    KLConfig,
    ModelSpec,
    OptimusConfig,
    UNetConfig,
)
from lib.model import VersatileDiffusion
from lib.tokenizers import load_tokenizers
from training.tokenizers import train_tokenizers

CAPTIONS = [
    "a large red circle above a small blue square on a white background",
    "a tiny striped star left of a big green heart on gray",
    "on a cyan background, a little pink ring in dotted style",
]

GAINS = {"attn2": 6, "position_embedding": 0.1, "conv_out": 0.3}
"""So that contexts matter, texts differ in more than length, and pixels are seldom clipped."""


def tiny_spec(sizes: dict[str, int]) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        image_size=16,
        steps=4,
        scale_text=2.0,
        scale_image=1.5,
        unet=UNetConfig(
            text_dim=8,
            model_channels=16,
            channel_mult=(1, 2),
            num_res_blocks=(1, 1),
            context_levels=(True, False),
            second_dim=2,
            image_heads=2,
            text_heads=2,
            context_dim=16,
            norm_groups=4,
        ),
        image_vae=KLConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4, scale=1.0),
        text_vae=OptimusConfig(
            latent=8,
            hidden=16,
            intermediate=32,
            layers=1,
            heads=2,
            bert_vocab=sizes["bert_vocab"],
            bert_positions=64,
            gpt2_hidden=16,
            gpt2_layers=1,
            gpt2_heads=2,
            gpt2_vocab=sizes["gpt2_vocab"],
            gpt2_positions=32,
            max_input=32,
            max_output=24,
        ),
        clip=ClipConfig(
            projection=16,
            resize=16,
            text=ClipTextConfig(
                hidden=16,
                intermediate=32,
                layers=1,
                heads=2,
                vocab=sizes["clip.vocab"],
                positions=32,
                bos=sizes["clip.bos"],
                eos=sizes["clip.eos"],
            ),
            vision=ClipVisionConfig(
                hidden=16, intermediate=32, layers=1, heads=2, image_size=16, patch_size=8
            ),
        ),
    )


def random_weights(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Large enough for every input to matter in the output."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                values *= 1.5 / math.sqrt(math.prod(parameter.shape[1:]))
            elif name.endswith("weight"):  # of a norm
                values = 1 + 0.2 * values
            for part, gain in GAINS.items():
                values *= gain if part in name else 1
            parameter.copy_(values)


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Ctrl-C works, also where a shell that starts tests in the background had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def save_tiny(folder: Path, scratch: Path) -> None:
    """Save the model in a folder, with word pieces made in another."""
    sizes = train_tokenizers(CAPTIONS, scratch, max_merges=60)
    spec = tiny_spec(sizes.sizes())
    generator = torch.Generator().manual_seed(0)
    modules = {name: build(spec, name) for name in COMPONENTS}
    for module in modules.values():
        random_weights(module, generator)
    words = load_tokenizers(sizes.source, spec)
    save(VersatileDiffusion(spec, modules, words), folder, torch.float32)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of the saved model, for --model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny(folder, tmp_path_factory.mktemp("words"))
    return folder


@pytest.fixture(scope="session")
def vd(model_folder):
    return load(model_folder, device="cpu", dtype=torch.float32)


def drawing(seed: int, size: tuple[int, int] = (20, 14)) -> Image.Image:
    """A picture of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture
def picture_files(tmp_path):
    """Two picture files in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate(("b.png", "a.png")):
        drawing(seed).save(folder / name)
    return [folder / "a.png", folder / "b.png"]
