"""The reconstruction loop of brain-decoding scripts is one call, and one command.

Those scripts predict, from scans, an image context and a text context of what somebody saw, and a
blurred picture to start from; they noise that picture to strength 0.75, and denoise it under both
contexts, mixed 0.4 to 0.6, at guidance 7.5, away from null contexts of their own: CLIP of a grey
picture, and of no text. Here the whole loop is written out around `vd.eps`, as they have it.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.cli import main
from analysis.modes import dual_guided
from analysis.results.outputs import read, read_record
from lib.checkpoints import load
from lib.fingerprints import tensor_digest
from lib.model import Context
from lib.noise import SampleNoise

ROOT = Path(__file__).resolve().parents[3]
PICTURES = [
    ROOT / "assets" / "pictures" / name
    for name in ("black-heart.png", "green-star-above-purple-square.png")
]
STEPS, SEED, FIDELITY, MIX, SCALE = 8, 20, 0.25, 0.4, 7.5
HOW = {"steps": STEPS, "fidelity": FIDELITY, "strength": MIX, "scale": SCALE, "null": "grey"}


def predicted(count, seed):
    """What a regression gave: roughly as large as CLIP's tokens, for a batch of 2."""
    return torch.randn(2, count, 128, generator=torch.Generator().manual_seed(seed)) * 0.09


@pytest.fixture(scope="module")
def mini():
    return load("vd-mini", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def contexts():
    return predicted(65, 1), predicted(32, 2)


@pytest.fixture(scope="module")
@torch.no_grad()
def by_hand(mini, contexts):
    """(2, 8, 8, 8) latents: the scripts' loop, written out."""
    image, text = Context("image", contexts[0]), Context("text", contexts[1])
    grey = mini.image_context(torch.full((2, 3, 64, 64), 0.5))
    empty = mini.text_context(["", ""])
    # the last int(S * strength) of S timesteps, noisiest last
    timesteps = [k * 1000 // STEPS + 1 for k in range(STEPS)][: int(STEPS * 0.75)]
    beta = torch.linspace(8.5e-4**0.5, 1.2e-2**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, dim=0).tolist()
    z = mini.encode_image([open_rgb(path) for path in PICTURES])
    noise = [
        torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(SEED + k)) for k in (0, 1)
    ]
    a = alpha_bar[timesteps[-1]]
    x = a**0.5 * z + (1 - a) ** 0.5 * torch.stack(noise)
    for i in reversed(range(len(timesteps))):
        t, a = timesteps[i], alpha_bar[timesteps[i]]
        a_next = alpha_bar[timesteps[i - 1]] if i else alpha_bar[0]
        eps = mini.eps(x, t, [(image, 1 - MIX), (text, MIX)])
        eps_null = mini.eps(x, t, [(grey, 1 - MIX), (empty, MIX)])
        eps = eps_null + SCALE * (eps - eps_null)
        x_0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_next**0.5 * x_0 + (1 - a_next) ** 0.5 * eps
    return x


def open_rgb(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def test_one_call(mini, contexts, by_hand):
    made = dual_guided(
        mini,
        image_context=contexts[0],
        text_context=contexts[1],
        start=PICTURES,
        seed=SEED,
        output="latents",
        progress=False,
        **HOW,
    )
    assert made.tensors.shape == (2, 8, 8, 8)
    assert (made.tensors - by_hand).abs().max() <= 1e-5
    for k, path in enumerate(PICTURES):
        record = made.record_of(k)
        expected = {**HOW, "seed": SEED + k, "sampler": "ddim", "scale_text": SCALE, "mode": "dual"}
        assert record.items() >= {**expected, "scale_image": SCALE}.items()
        assert record["start"]["file"] == path.name
        for kind, tokens in zip(("image", "text"), contexts, strict=True):
            digest = tensor_digest(tokens[k])
            assert record[f"{kind}_context"] == {"kind": kind, "sha256": digest}
        used = {"clip_text", "clip_vision", "image_encoder", "image_decoder"}
        assert used < set(record["model"]["weights"])


def test_one_command(tmp_path, capsys, contexts, by_hand):
    np.save(tmp_path / "image.npy", contexts[0].numpy())
    save_file({"context": contexts[1]}, tmp_path / "text.safetensors")
    command = [
        "dual",
        *("--image-context", tmp_path / "image.npy"),
        *("--text-context", tmp_path / "text.safetensors"),
        *("--start", *PICTURES, "--fidelity", FIDELITY, "--strength", MIX, "--scale", SCALE),
        *("--null", "grey", "--steps", STEPS, "--seed", SEED, "--as", "latents"),
        *("--device", "cpu", "--dtype", "float32", "--out", tmp_path, "--json", "--quiet"),
    ]
    assert main([str(word) for word in command]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    paths = [Path(result["path"]) for result in results]
    assert (read(paths).tensors - by_hand).abs().max() <= 1e-5
    records = [read_record(path) for path in paths]
    assert [record["seed"] for record in records] == [SEED, SEED + 1]
    assert [record["null"] for record in records] == ["grey", "grey"]
    assert [record["start"]["file"] for record in records] == [path.name for path in PICTURES]


def test_every_part_of_it_counts(mini, contexts):
    """Each option left out or changed gives something else, so none is only recorded."""
    given = {"image_context": contexts[0], "text_context": contexts[1], "start": PICTURES, **HOW}

    def made(**changed):
        how = {**given, "steps": 4, "seed": SEED, "output": "latents", "progress": False}
        return dual_guided(mini, **{**how, **changed}).tensors

    plain = made()
    for name, value in {
        "image_context": contexts[0].flip(0),
        "text_context": contexts[1].flip(0),
        "start": PICTURES[::-1],
        "fidelity": 0.5,
        "strength": 0.5,
        "scale": 3,
        "null": "zeros",
    }.items():
        assert (made(**{name: value}) - plain).abs().max() > 1e-3, name


def test_the_first_draw_is_the_generators():
    """`SampleNoise` is what the loop above draws by hand."""
    drawn = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(SEED))
    assert torch.equal(SampleNoise([SEED]).normal((8, 8, 8))[0], drawn)
