"""Every mode gives what it gave before the options and jobs became one list and one builder.

`tests/fixtures/modes_before.safetensors` was written by the code as it was then, on vd-mini with 4
steps: latents of every mode, texts, seeds, and what was slid; pictures of the colour match in 8
bit. It is never written again: where a change of results is wanted, its case goes. Twice the
weights changed: cases in which vd-mini writes texts or looks at pictures were written by later
code, with which the old weights still gave the old ones.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from analysis import modes
from analysis.modes.decoding import decoded
from lib.checkpoints import load
from lib.model import Context

ROOT = Path(__file__).resolve().parents[3]
A = str(ROOT / "assets/pictures/black-heart.png")
B = str(ROOT / "assets/pictures/green-star-above-purple-square.png")
T = "a large red circle above a small blue square on a white background"
U = "a large blue star with dots on cream"
UPPER = (torch.arange(64)[:, None] < 32).float().expand(64, 64)


def tokens(count, seed):
    return torch.randn(2, count, 128, generator=torch.Generator().manual_seed(seed)) * 0.09


IMAGES, TEXTS = Context("image", tokens(65, 1)), Context("text", tokens(32, 2))
LATENTS = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(3))
HEART = "a dotted picture of a large {} heart on a cream background"

CASES = {
    "t2i": ("text_to_image", [[T, U]], {"n": 2}),
    "t2i_options": (
        "text_to_image",
        [T],
        {
            "negative_prompt": "a ring",
            "sampler": "dpmpp_2m",
            "scale": 3.0,
            "interval": (200, 900),
        },
    ),
    "t2i_eta_official": ("text_to_image", [T], {"n": 2, "eta": 0.5, "noise": "official"}),
    "t2i_heun": ("text_to_image", [T], {"sampler": "heun"}),
    "t2i_context_latents": ("text_to_image", [None], {"context": TEXTS, "latents": LATENTS}),
    "i2i": ("image_variation", [[A, B]], {"n": 2}),
    "i2i_fidelity": ("image_variation", [A], {"fidelity": 0.4, "n": 2}),
    "i2i_negative": ("image_variation", [A], {"negative_prompt": "a heart"}),
    "i2i_context": ("image_variation", [None], {"context": IMAGES}),
    "i2t": ("image_to_text", [[A, B]], {"n": 2}),
    "i2t_warm": ("image_to_text", [A], {"n": 2, "temperature": 0.8}),
    "t2t": ("text_variation", [[T, U]], {"n": 2}),
    "t2t_fidelity": ("text_variation", [T], {"fidelity": 0.5}),
    "dual": ("dual_guided", [A, T], {"strength": [0, 0.3, 1], "n": 2}),
    "dual_contexts": ("dual_guided", [IMAGES, TEXTS], {"strength": 0.4, "scale": 7.5}),
    "describe": ("describe", [A, T], {"strength": [0.5, 1], "n": 2}),
    "blend": ("blend", [[A, B]], {"n": 2}),
    "blend_text": (
        "blend",
        [[A, B], U],
        {"weights": [1, 0.5], "focus": [0.3, 0.8], "strength": 0.3},
    ),
    "blend_mask": ("blend", [[A, B]], {"masks": [None, UPPER]}),
    "focus": ("focus", [[A, B]], {"n": 2}),
    "focus_first_release": ("focus", [A], {"levels": [-2, 0, 1], "scheme": "first_release"}),
    "focus_fidelity": ("focus", [A], {"levels": [0, 1], "fidelity": 0.4}),
    "interpolate": ("interpolate", [T, U], {"frames": 3}),
    "interpolate_pictures": (
        "interpolate",
        [Path(A), Path(B)],
        {"frames": 3, "method": "lerp", "makes": "text"},
    ),
    "interpolate_noise": ("interpolate", [T], {"frames": 3, "n": 2}),
    "edit": ("edit", [A, HEART.format("black"), HEART.format("red")], {}),
    "edit_mask": (
        "edit",
        [A, "", "a red heart"],
        {"mask": UPPER, "feather": 1, "fidelity": 0.2, "scale": 2.0},
    ),
    "latent_edit": ("latent_edit", [A, "black", "red"], {"n": 2, "tries": 0}),
}
PICTURES = {
    "i2i_color": {"color_match": 0.3},
    "i2i_histogram": {"color_match": 0.0, "color_method": "histogram"},
    "i2i_fidelity_1": {"fidelity": 1.0},
}
HOW = {"steps": 4, "progress": False}


@pytest.fixture(scope="module")
def mini():
    torch.set_num_threads(1)
    vd = load("vd-mini", device="cpu", dtype=torch.float32)
    vd.shortcuts = False  # guidance amplifies that one batch sums in another order
    return vd


@pytest.fixture(scope="module")
def before():
    path = ROOT / "tests/fixtures/modes_before.safetensors"
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_halves_in_one_batch_differ_by_rounding(mini, before, monkeypatch):
    monkeypatch.setattr(mini, "shortcuts", True)
    for name in ("dual_contexts", "t2i_options", "i2t"):
        mode, inputs, options = CASES[name]
        made = getattr(modes, mode)(mini, *inputs, **HOW, **options, seed=20, output="latents")
        assert (made.tensors - before[1][name]).abs().max() < 1e-3


def test_no_case_is_left_out(before):
    assert set(before[1]) == {*CASES, *PICTURES}


@pytest.mark.parametrize("name", list(CASES))
def test_latents_texts_and_seeds(mini, before, name):
    metadata, tensors = before
    mode, inputs, options = CASES[name]
    how = {**HOW, **options, **({} if mode == "edit" else {"seed": 20})}
    made = getattr(modes, mode)(mini, *inputs, **how, output="latents")
    assert made.seeds == json.loads(metadata[f"{name}.seeds"])
    assert made.tensors.shape == tensors[name].shape
    assert (made.tensors - tensors[name]).abs().max() <= 1e-5
    records = [made.record_of(k) for k in range(len(made))]
    strip = records[0].get("strip")
    slid = [record.get(strip) for record in records] if strip else None
    assert slid == json.loads(metadata[f"{name}.strip"])
    if f"{name}.texts" in metadata:
        texts = decoded(mini, made).texts
        assert texts == json.loads(metadata[f"{name}.texts"])
    if f"{name}.found" in metadata:
        noted = json.loads(metadata[f"{name}.found"])
        for record, expected in zip(records, noted, strict=True):
            error = expected.pop("inversion_error", 0)
            assert record["found"].pop("inversion_error", 0) == pytest.approx(error, abs=2e-6)
            assert record["found"] == expected


@pytest.mark.parametrize("name", list(PICTURES))
def test_pictures_of_eight_bits(mini, before, name):
    made = modes.image_variation(mini, A, seed=20, output="tensor", **HOW, **PICTURES[name])
    pixels = (made.tensors * 255).round().int()
    assert (pixels - before[1][name].int()).abs().max() <= 1
