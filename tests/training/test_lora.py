"""Adapters: little is trained, and merged they are what they were beside the weights."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from lib.blocks import Convolution
from lib.checkpoints import load, save
from lib.checkpoints.lora import CONFIG, WEIGHTS, merge_lora
from lib.config import FLOWS
from lib.contexts import Context
from lib.fingerprints import fingerprint
from lib.model import VersatileDiffusion
from tests.training.tiny_flows import flows_stage
from training.flows import FlowOptions
from training.loop import train

CROSS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A stage with trained adapters of rank 2, and their folder."""
    out = tmp_path_factory.mktemp("adapters")
    stage = flows_stage(model_folder, out / "lora", options=lora(), lr=0.05, ema=0.0)
    train(stage, out / "runs")
    stage.vd.double()
    return stage, out / "lora"


def base_of(model) -> VersatileDiffusion:
    """In double precision: this model is made so that small changes matter."""
    return load(model, device="cpu", dtype=torch.float64)


def lora(layers: str = "cross") -> FlowOptions:
    return FlowOptions(share=dict.fromkeys(FLOWS, 1.0), lora=2, lora_layers=layers)


def noise_of(vd) -> torch.Tensor:
    """The noise that the four flows predict, in a row."""
    generator = torch.Generator().manual_seed(0)
    lengths = {"image": vd.spec.clip.vision.tokens, "text": vd.spec.clip.text.positions}
    out = []
    for data, kind in FLOWS.values():
        x = torch.randn((3, *vd.spec.latent_shape(data)), generator=generator).double()
        tokens = torch.randn((3, lengths[kind], vd.spec.clip.projection), generator=generator)
        with torch.no_grad():
            eps = vd.eps(x, torch.tensor([10, 500, 900]), [(Context(kind, tokens), 1.0)])
        out.append(eps.flatten())
    return torch.cat(out)


def test_merged_adapters_are_what_they_were_beside_the_weights(trained, model_folder):
    stage, folder = trained
    base = base_of(model_folder)
    before, beside = noise_of(base), noise_of(stage.vd.eval())
    assert merge_lora(base, folder) is base
    assert torch.allclose(noise_of(base), beside, atol=1e-5)
    assert (beside - before).abs().max() > 0.05
    merge_lora(base, folder / WEIGHTS, weight=-1.0)
    assert torch.allclose(noise_of(base), before, atol=1e-5)
    half = noise_of(merge_lora(base, folder, weight=0.5))
    assert not torch.allclose(half, before, atol=1e-2)


def test_the_base_stays_as_it_is_and_only_adapters_are_kept(trained, model_folder):
    stage, folder = trained
    base = base_of(model_folder)
    for name, module in stage.modules.items():
        own = dict(base.component(name).state_dict())
        for key, value in module.state_dict().items():
            if ".lora_" not in key:
                assert torch.equal(value, own[key.replace(".base_layer", "")]), key
    learned = [n for n, p in stage.modules.named_parameters() if p.requires_grad]
    assert learned and all(".lora_" in name for name in learned)
    assert {n.split(".transformer_blocks.0.")[1].split(".lora")[0] for n in learned} == set(CROSS)
    state = torch.load(folder.parent / "runs/flows/checkpoint.pt", weights_only=True)
    assert set(state["modules"]) == set(learned)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS, "training.json"]


def test_peft_adapts_our_convolutions_too():
    """Nobody here trains them, but peft makes layers of their type for whoever does."""
    plain = torch.nn.Sequential(Convolution(4, 6, 3, stride=2, padding=1), Convolution(6, 4, 1))
    x = torch.randn(2, 4, 8, 8)
    before = plain(x)
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=["0", "1"]))
    torch.testing.assert_close(adapted(x), before)
    adapted(x).sum().backward()
    assert sum(p.grad is not None for p in adapted.parameters()) == 4


def test_peft_itself_loads_the_file(trained, model_folder):
    stage, folder = trained
    base = base_of(model_folder)
    base.require(*stage.modules)
    adapted = PeftModel.from_pretrained(base, folder)
    assert torch.allclose(noise_of(base), noise_of(stage.vd), atol=1e-6)
    merged = adapted.merge_and_unload()
    assert torch.allclose(noise_of(merged), noise_of(stage.vd), atol=1e-5)


def test_merged_weights_are_saved_like_any_other(trained, model_folder, tmp_path):
    stage, folder = trained
    save(merge_lora(base_of(model_folder), folder), tmp_path / "m", torch.float64)
    again = base_of(tmp_path / "m")
    assert torch.allclose(noise_of(again), noise_of(stage.vd), atol=1e-5)


def test_a_stopped_training_of_adapters_goes_on_from_the_same_base_only(model_folder, tmp_path):
    stages = [flows_stage(model_folder, tmp_path / "lora", options=lora()) for _ in range(4)]
    train(stages[0], tmp_path / "whole")
    usual = stages[1].loss

    def stopping(step, rng):
        if step == 2:
            raise RuntimeError("power cut")
        return usual(step, rng)

    stages[1].loss = stopping
    stages[1].recipe = replace(stages[1].recipe, save_every=0.0)
    with pytest.raises(RuntimeError, match="power cut"):
        train(stages[1], tmp_path / "parts")
    train(stages[2], tmp_path / "parts")
    a, b = (stages[k].kept() for k in (0, 2))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    stages[3].base["base"]["time_embed"] = "other"
    with pytest.raises(ValueError, match="with other base"):
        train(stages[3], tmp_path / "parts")


def test_attention_to_itself_is_adapted_if_asked(model_folder, tmp_path):
    stage = flows_stage(model_folder, tmp_path, options=lora("attention"))
    layers = {name.split(".lora_")[0].split(".0.")[-1] for name in stage.kept()}
    assert {"attn1.to_q", "attn2.to_q"} <= {layer.split(".0.")[-1] for layer in layers}


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the adapter, to be damaged."""
    for path in trained[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def config_with(folder, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


WRONG = {
    "use_dora True": lambda f: config_with(f, use_dora=True),
    "alpha_pattern": lambda f: config_with(f, alpha_pattern={"a": 1}),
    "no configuration of a LoRA": lambda f: config_with(f, peft_type="IA3"),
    "cannot be read": lambda f: (f / CONFIG).unlink(),
    "There is no file": lambda f: (f / WEIGHTS).unlink(),
    "has one of two matrices": lambda f: tensors_with(f, lambda t: t.popitem()),
    "is for other sizes": lambda f: tensors_with(
        f, lambda t: t.update({first(t): torch.ones(2, 3)})
    ),
    "not finite": lambda f: tensors_with(f, lambda t: t[first(t)].fill_(float("inf"))),
    "give a LoRA adapter": lambda f: tensors_with(f, lambda t: t.update({"conv.weight": ONES})),
    "is no linear layer of tiny": lambda f: tensors_with(
        f, lambda t: t.update({"base_model.model.time_embed.9.lora_A.weight": ONES})
    ),
}
ONES, FEW = torch.ones(2, 16), torch.ones(2, 3)


def first(tensors) -> str:
    return next(iter(tensors))


def tensors_with(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_no_adapter_of_this_model_is_refused(sentence, copied, model_folder):
    WRONG[sentence](copied)
    vd = base_of(model_folder)
    before = fingerprint(vd.component("text_context"))
    with pytest.raises(ValueError, match=sentence):
        merge_lora(vd, copied)
    assert fingerprint(vd.component("text_context")) == before


def test_rank_and_scale_are_the_file_s(copied, model_folder):
    config_with(copied, lora_alpha=4)
    twice = merge_lora(base_of(model_folder), copied)
    config_with(copied, lora_alpha=4, use_rslora=True)
    root = merge_lora(base_of(model_folder), copied)
    config_with(copied, lora_alpha=2, use_rslora=False)
    once = base_of(model_folder)
    weight = "context_blocks.0.transformer_blocks.0.attn2.to_q.weight"
    base = once.component("text_context").get_parameter(weight).clone()
    merge_lora(once, copied)
    a, b, c = (
        m.component("text_context").get_parameter(weight) - base for m in (once, twice, root)
    )
    assert torch.allclose(b, 2 * a, atol=1e-6) and torch.allclose(c, 2 * 2**0.5 * a, atol=1e-6)
