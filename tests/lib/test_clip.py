"""CLIP contexts against transformers' whole CLIP model, and masks against what they must mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from lib.clip import ClipText, ClipVision, preprocess_images
from lib.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from lib.specs import VD_FOUR_FLOW_V1_0

CFG = ClipConfig(
    projection=20,
    resize=48,
    text=ClipTextConfig(
        hidden=16, intermediate=32, layers=2, heads=2, vocab=60, positions=12, bos=50, eos=51
    ),
    vision=ClipVisionConfig(
        hidden=24, intermediate=48, layers=2, heads=3, image_size=32, patch_size=8
    ),
)


@pytest.fixture(scope="module")
def whole() -> CLIPModel:
    """transformers' own model of these sizes, with weights that matter."""
    text, vision = CFG.text, CFG.vision
    config = CLIPConfig(
        projection_dim=CFG.projection,
        text_config={
            "hidden_size": text.hidden,
            "intermediate_size": text.intermediate,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "vocab_size": text.vocab,
            "max_position_embeddings": text.positions,
            "projection_dim": CFG.projection,
            "bos_token_id": text.bos,
            "eos_token_id": text.eos,
        },
        vision_config={
            "hidden_size": vision.hidden,
            "intermediate_size": vision.intermediate,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "projection_dim": CFG.projection,
        },
    )
    model = CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def part(whole: CLIPModel, module: nn.Module) -> nn.Module:
    names = module.state_dict()
    module.load_state_dict({k: v for k, v in whole.state_dict().items() if k in names})
    return module.eval()


@pytest.fixture(scope="module")
def text(whole: CLIPModel) -> ClipText:
    return part(whole, ClipText(CFG))


@pytest.fixture(scope="module")
def vision(whole: CLIPModel) -> ClipVision:
    return part(whole, ClipVision(CFG))


def ids() -> Tensor:
    """Texts of 3, 0 and 10 tokens between start (50) and end (51); padding repeats the end."""
    rows = [[50, 7, 59, 9], [50], [50, *range(2, 12)]]
    return torch.tensor([row + [51] * (12 - len(row)) for row in rows])


def pictures(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_text_against_transformers(whole, text):
    output = whole.text_model(input_ids=ids())
    tokens = whole.text_projection(output.last_hidden_state)
    pooled = whole.text_projection(output.pooler_output)
    context = text(ids())
    assert context.shape == (3, 12, 20)
    torch.testing.assert_close(context, tokens / pooled.norm(dim=-1)[:, None, None])
    torch.testing.assert_close(text.features(ids()), F.normalize(pooled, dim=-1))


def test_text_features_are_the_contexts_token_at_the_end(text):
    context, features = text(ids()), text.features(ids())
    for row, end in enumerate((4, 1, 11)):
        torch.testing.assert_close(context[row, end], features[row])
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))


def test_the_end_is_the_first_end_token_even_where_its_id_is_2(whole):
    """transformers pools at the largest id if the configuration says that texts end with 2."""
    cfg = replace(CFG, text=replace(CFG.text, bos=1, eos=2))
    text = part(whole, ClipText(cfg))
    row = torch.tensor([[1, 40, 50, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
    torch.testing.assert_close(text.features(row), text(row)[:, 3])


def test_text_without_an_end_is_refused(text):
    with pytest.raises(ValueError, match="end-of-text"):
        text(torch.full((2, 12), 7))


def test_vision_against_transformers(whole, vision):
    hidden = whole.vision_model(pictures()).last_hidden_state
    tokens = whole.visual_projection(whole.vision_model.post_layernorm(hidden))
    context = vision(pictures())
    assert context.shape == (2, 17, 20)
    torch.testing.assert_close(context, tokens / tokens[:, :1].norm(dim=-1, keepdim=True))
    features = whole.get_image_features(pictures()).pooler_output
    torch.testing.assert_close(vision.features(pictures()), F.normalize(features, dim=-1))
    torch.testing.assert_close(vision.features(pictures()), context[:, 0])


def test_a_mask_of_ones_changes_nothing(vision):
    mask = torch.ones(2, 1, 5, 9)
    torch.testing.assert_close(vision(pictures(), mask), vision(pictures()))


def test_a_removed_patch_cannot_be_seen(vision):
    mask = torch.ones(2, 1, 32, 32)
    mask[:, :, 8:16, 16:24] = 0
    other = pictures()
    other[:, :, 8:16, 16:24] += 5
    masked = vision(pictures(), mask)
    torch.testing.assert_close(vision(other, mask), masked)
    assert (vision(other) - vision(pictures())).abs().max() > 0.01
    assert masked[:, 1 + 4 + 2].abs().max() == 0  # second row, third column
    torch.testing.assert_close(masked[:, 0].norm(dim=-1), torch.full((2,), 15 / 16))


def test_mask_by_hand(whole, vision):
    mask = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    weights = vision.token_weights(mask, 2)
    model = whole.vision_model
    hidden = model.encoder(model.pre_layrnorm(model.embeddings(pictures()) * weights))
    tokens = whole.visual_projection(model.post_layernorm(hidden.last_hidden_state))
    expected = tokens / tokens[:, :1].norm(dim=-1, keepdim=True) * weights
    torch.testing.assert_close(vision(pictures(), mask), expected)


def test_token_weights_are_means(vision):
    mask = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    weights = vision.token_weights(mask, 2)
    assert weights.shape == (2, 17, 1)
    torch.testing.assert_close(weights[:, 0, 0], mask.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(weights[:, 1 + 4 + 3, 0], mask[:, 0, 8:16, 24:].mean(dim=(1, 2)))


def test_a_mask_of_any_size_is_resized(vision):
    halves = torch.tensor([[1.0, 0.0]])[None, None]  # left 1, right 0, on 1 x 2 pixels
    weights = vision.token_weights(halves, 3)[:, 1:, 0].reshape(3, 4, 4)
    # bilinear from centres at 1/4 and 3/4 of the width: flat outside, linear between
    torch.testing.assert_close(weights[2, 0], torch.tensor([1.0, 0.75, 0.25, 0.0]))
    torch.testing.assert_close(weights[0], weights[0, :1].expand(4, 4))


@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        (torch.zeros(2, 3, 30, 32), None, "preprocess_images"),
        (torch.zeros(3, 32, 32), None, "preprocess_images"),
        (torch.zeros(2, 3, 32, 32), torch.ones(2, 32, 32), "The mask has shape"),
        (torch.zeros(2, 3, 32, 32), torch.ones(3, 1, 32, 32), "The mask has shape"),
        (torch.zeros(2, 3, 32, 32), torch.full((2, 1, 8, 8), 255.0), "outside of"),
        (torch.zeros(2, 3, 32, 32), torch.full((2, 1, 8, 8), torch.nan), "outside of"),
    ],
)
def test_vision_errors(vision, pixels, mask, message):
    with pytest.raises(ValueError, match=message):
        vision(pixels, mask)


def test_fresh_towers_are_as_transformers_starts_them(whole):
    """Deviations of all matrices, within what chance makes of a few hundred numbers."""
    fresh = CLIPModel(whole.config).state_dict()
    for kind in (ClipText, ClipVision):
        for name, parameter in kind(CFG).named_parameters():
            here, there = parameter.std(correction=0), fresh[name].std(correction=0)
            assert here.isclose(there, rtol=0.4), name


def test_meta_build_then_load(text, vision):
    with torch.device("meta"):
        both = nn.ModuleDict({"t": ClipText(CFG), "v": ClipVision(CFG)}).eval()
    state = {f"t.{key}": value for key, value in text.state_dict().items()}
    state |= {f"v.{key}": value for key, value in vision.state_dict().items()}
    both.load_state_dict(state, assign=True)
    torch.testing.assert_close(both["t"](ids()), text(ids()))
    torch.testing.assert_close(both["v"](pictures()), vision(pictures()))


def test_released_sizes_and_names():
    with torch.device("meta"):
        parts = [kind(VD_FOUR_FLOW_V1_0.clip) for kind in (ClipText, ClipVision)]
    for module, millions in zip(parts, (123.7, 304.0), strict=True):
        assert round(sum(p.numel() for p in module.parameters()) / 1e6, 1) == millions
    roots = {key.split(".")[0] for module in parts for key in module.state_dict()}
    assert roots == {"text_model", "text_projection", "vision_model", "visual_projection"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    mask = torch.ones(2, 1, 32, 32)
    mask[:, :, :9] = 0
    assert ClipText(CFG).to(dtype)(ids()).dtype == dtype
    assert ClipVision(CFG).to(dtype)(pictures(), mask).dtype == dtype


def noise_picture(width: int, height: int) -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_preprocessing_against_transformers():
    """After the squeeze to 48x48, what CLIP's own image processor does."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    picture = noise_picture(70, 41)
    squeezed = picture.resize((48, 48), Image.Resampling.BICUBIC)
    expected = processor(squeezed, return_tensors="pt")["pixel_values"]
    # The processor may resample with torch instead of PIL: one grey level apart at most.
    level = 1 / 255 / 0.26
    found = preprocess_images([picture], CFG)
    assert found.shape == (1, 3, 32, 32)
    assert (found - expected).abs().max() <= 1.01 * level


def test_equal_sizes_are_not_resampled():
    cfg = replace(CFG, resize=32)
    picture = noise_picture(32, 32)
    pixels = preprocess_images([picture], cfg)[0]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    expected = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels * std + mean, expected)


def test_tensors_and_pictures_take_one_path():
    picture = noise_picture(50, 50)
    tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    assert torch.equal(preprocess_images(tensor, CFG), preprocess_images([picture], CFG))


def test_pictures_of_several_sizes_make_one_batch():
    assert preprocess_images([noise_picture(9, 70), noise_picture(48, 48)], CFG).shape[0] == 2


def test_no_pictures():
    for nothing in ([], torch.zeros(0, 3, 8, 8)):
        with pytest.raises(ValueError, match="at least one"):
            preprocess_images(nothing, CFG)
