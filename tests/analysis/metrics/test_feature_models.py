"""Networks that compare, loaded from files of random weights in the layouts of the real ones."""

import json
from urllib.error import URLError

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.models import Inception_V3_Weights, inception_v3
from torchvision.models import inception as blocks
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model, dynamic_module_utils

from analysis.metrics import inception
from analysis.metrics.feature_models import DEFAULT, load_features, shortened
from tests.conftest import drawing

NAME = "ViT-tiny-for-tests"
TINY = {
    "embed_dim": 8,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 16,
        "head_width": 8,
        "patch_size": 16,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


def pictures(side: int, count: int = 3) -> list:
    return [drawing(seed, (side, side)).convert("RGB") for seed in range(count)]


def normalised(images, mean, std) -> torch.Tensor:
    """(B, 3, H, W) of pictures that need no resize."""
    pixels = np.stack([np.asarray(image, dtype=np.float64) / 255 for image in images])
    return torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)


def close(a, b) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------ open_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(NAME).eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    local = folder / "local"
    local.mkdir()
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": HALF, "std": HALF}}
    (local / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), local / "open_clip_model.safetensors")
    return folder, model


def test_a_clip_from_a_file(clip):
    folder, model = clip
    found = load_features(f"open_clip:{NAME}/{folder / 'weights.pt'}")
    images = pictures(32)
    with torch.no_grad():
        wanted = model.encode_image(normalised(images, CLIP_MEAN, CLIP_STD))
        said = model.encode_text(open_clip.get_tokenizer(NAME)(["a red circle", "blue"]))
    assert close(found.images(images), wanted)
    assert close(found.texts(["a red circle", "blue"]), said)
    assert found.images([drawing(5, (90, 40))]).shape == (1, 8)
    long = " ".join(["word"] * 100)
    assert close(found.texts([long]), found.texts([f"{long} and more"])), "only its end is lost"
    assert found.name == f"OpenCLIP {NAME}/weights.pt" and str(folder) not in found.name
    assert "size=32" in found.resize and "Normalize" in found.resize
    assert len(found.weights) == 12


def test_a_clip_from_a_folder_with_its_own_preprocessing(clip):
    folder, model = clip
    found = load_features(f"open_clip:local-dir:{folder / 'local'}")
    with torch.no_grad():
        wanted = model.encode_image(normalised(pictures(32), HALF, HALF))
    assert close(found.images(pictures(32)), wanted)
    assert found.weights == load_features(f"open_clip:{NAME}/{folder / 'weights.pt'}").weights


def test_other_weights_have_another_fingerprint(clip, tmp_path):
    folder, model = clip
    state = {name: value * 1.1 for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    found = [load_features(f"open_clip:{NAME}/{at / 'weights.pt'}") for at in (folder, tmp_path)]
    assert found[0].weights != found[1].weights and found[0].name == found[1].name


def test_the_default_is_another_clip_than_the_one_of_the_released_model():
    name, tag = DEFAULT.removeprefix("open_clip:").split("/")
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    assert name != "ViT-L-14" and tag != "openai"


# ------------------------------------------------------------------ Inception


@pytest.fixture(scope="module")
def stock():
    torch.manual_seed(0)
    model = inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    return model


def pooled(model, images, mean, std) -> torch.Tensor:
    """Input of the classifier, caught on its way."""
    caught = []
    hook = model.fc.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        model(normalised(images, mean, std))
    hook.remove()
    return caught[0]


def test_inception_is_torchvisions(stock, tmp_path, monkeypatch):
    images = pictures(299, 2)
    wanted = pooled(stock, images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.save(stock.state_dict(), tmp_path / "inception.pth")
    found = load_features(f"inception:{tmp_path / 'inception.pth'}")
    assert torch.allclose(found.images(images), wanted, atol=1e-3 * wanted.std().item())
    assert wanted.shape == (2, 2048) and found.texts is None
    assert found.name == "Inception v3, torchvision's ImageNet"
    downloads = []

    def download(weights, **how):
        downloads.append((weights.name, how["check_hash"]))
        return stock.state_dict()

    monkeypatch.setattr(Inception_V3_Weights, "get_state_dict", download)
    assert load_features("inception").weights == found.weights
    assert downloads == [("IMAGENET1K_V1", True)]


def test_weights_of_the_original_fid_are_recognised(stock, tmp_path):
    state = {k: v for k, v in stock.state_dict().items() if not k.startswith("AuxLogits")}
    state = {k: v for k, v in state.items() if not k.endswith("batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "pt_inception.pth")
    model, kind = inception.load_inception(str(tmp_path / "pt_inception.pth"))
    assert kind == "ported from the original FID"
    assert [model.Mixed_7b.is_last, model.Mixed_7c.is_last] == [False, True]
    assert {type(m) for m in (model.Mixed_5b, model.Mixed_5c, model.Mixed_5d)} == {
        inception.PortedA
    }
    assert {type(getattr(model, f"Mixed_6{x}")) for x in "bcde"} == {inception.PortedC}
    assert inception.inception_pool(model, [drawing(0, (50, 30))]).shape == (1, 2048)


def windows(x: torch.Tensor, border: float) -> torch.Tensor:
    """(B, C, 9, H, W): what a 3 x 3 window sees."""
    h, w = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1), value=border)
    return torch.stack([padded[..., i : i + h, j : j + w] for i in range(3) for j in range(3)], 2)


@pytest.mark.parametrize(
    "ported, stock_block, options, largest",
    [
        (inception.PortedA, blocks.InceptionA, {"in_channels": 6, "pool_features": 4}, False),
        (inception.PortedC, blocks.InceptionC, {"in_channels": 6, "channels_7x7": 4}, False),
        (inception.PortedE, blocks.InceptionE, {"in_channels": 6}, False),
        (inception.PortedE, blocks.InceptionE, {"in_channels": 2048}, True),
    ],
)
def test_the_ports_blocks_pool_otherwise(ported, stock_block, options, largest):
    torch.manual_seed(1)
    block, other = ported(**options).eval(), stock_block(**options).eval()
    other.load_state_dict(block.state_dict())
    x = torch.randn(1, options["in_channels"], 5, 5)
    seen = windows(x, -torch.inf if largest else torch.nan)
    with torch.no_grad():
        wanted = block.branch_pool(seen.amax(2) if largest else seen.nanmean(2))
        made, plain = block(x), other(x)
    n = wanted.shape[1]
    assert close(made[:, -n:], wanted) and close(made[:, :-n], plain[:, :-n])
    assert not close(made[:, -n:], plain[:, -n:])


# ------------------------------------------------------------------ DINOv2


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino") / "dinov2-tiny"
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    square = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=square).save_pretrained(folder)
    return folder, model


def test_dinov2_from_a_folder(dino):
    folder, model = dino
    found = load_features(f"dinov2:{folder}")
    with torch.no_grad():
        wanted = model(normalised(pictures(28), CLIP_MEAN, CLIP_STD)).pooler_output
    assert close(found.images(pictures(28)), wanted) and found.texts is None
    assert found.name == "DINOv2 dinov2-tiny" and "28" in found.resize


def test_dinov2_without_all_of_its_weights_is_refused(dino, tmp_path):
    folder, _ = dino
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks layernorm.weight"):
        load_features(f"dinov2:{tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="it is a bert"):
        load_features(f"dinov2:{tmp_path}")


def test_code_that_a_model_folder_brings_is_never_run(dino, tmp_path):
    folder, _ = dino
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    for model_type in ("dinov2", "mine"):
        config |= {"model_type": model_type, "auto_map": {"AutoModel": "own.Mine"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="auto_map, which would run code") as error:
            load_features(f"dinov2:{tmp_path}")
        assert "\n" not in str(error.value)


def test_code_that_a_part_of_a_network_brings_is_never_run_or_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked"))
    text, local = tmp_path / "text", tmp_path / "local"
    text.mkdir(), local.mkdir()
    (text / "own.py").write_text("raise SystemExit('this ran')\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.C"}}
    (text / "config.json").write_text(json.dumps(own))
    parts = {"hf_model_name": str(text), "hf_tokenizer_name": str(text)}
    config = {"model_cfg": {**TINY, "text_cfg": parts}, "preprocess_cfg": {"size": 32}}
    (local / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        load_features(f"open_clip:local-dir:{local}")
    assert "\n" not in str(error.value) and "run code that its folder" in str(error.value)
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0  # for the rest of the program, as it was


# ------------------------------------------------------------------ texts, and errors


def test_a_text_is_shortened_until_it_is_taken():
    def at_most_ten(text):
        if len(text.split()) > 10:
            raise ValueError
        return len(text.split())

    assert shortened("a  b", at_most_ten) == ("a  b", 2)
    text, count = shortened(" ".join(map(str, range(13))), at_most_ten)
    assert count == 9 and text == "0 1 2 3 4 5 6 7 8"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("clip", "choose own, open_clip:NAME"),
        ("own", "choose own"),
        ("open_clip", "choose own"),
        ("dinov2", "choose own"),
        ("open_clip:ViT-Z-9/openai", "has no 'ViT-Z-9'"),
        ("open_clip:ViT-B-32/magic", "tag or file of weights: .*datacomp_xl_s13b_b90k"),
        ("open_clip:ViT-B-32", "tag or file of weights"),
        ("open_clip:ViT-B-32//nowhere/x.pt", "no file of weights"),
        ("open_clip:local-dir:/nowhere", "cannot be loaded"),
        ("inception:/nowhere/x.pth", "There is no file"),
        ("dinov2:/nowhere", "cannot be loaded"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(spec, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=message) as error:
        load_features(spec)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(clip, stock, tmp_path, monkeypatch):
    _, model = clip
    state = dict(model.state_dict())
    del state["text_projection"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_features(f"open_clip:{NAME}/{tmp_path / 'less.pt'}")
    with pytest.raises(ValueError, match="0 classes"):
        load_features(f"inception:{tmp_path / 'less.pt'}")
    state = {"fc.bias": torch.zeros(1000), "fc.weight": torch.zeros(1000, 2048)}
    torch.save(state, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="not Inception v3"):
        load_features(f"inception:{tmp_path / 'none.pt'}")

    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(Inception_V3_Weights, "get_state_dict", no_network)
    with pytest.raises(ValueError, match=r"no route to host.*without a network"):
        load_features("inception")
