"""What a stage would take: numbers that can be counted by hand."""

from dataclasses import replace

import pytest
import torch

from lib.components import build, components_for
from lib.kl_vae import ResnetBlock, Upsample
from lib.specs import VD_FOUR_FLOW_V1_0, VD_MINI
from tests.training.tiny_flows import RECIPE, flows_stage
from training import memory
from training.__main__ import _parser, main
from training.flows import FlowOptions
from training.plan import _parts, _spec, plan
from training.recipes import chosen


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr("training.plan._products_a_second", lambda: 1e9)

    def ask(*arguments):
        places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "none")]
        args = _parser().parse_args([*arguments, "--dry-run", *places])
        return plan(args.stage, args)

    return ask


@pytest.mark.parametrize("stage", ["autoencoder", "clip", "optimus", "flows"])
def test_every_stage_is_planned_without_weights_or_data(stage, tmp_path, capsys):
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "none")]
    which = ("--flows", "t2i") if stage == "flows" else ()
    assert main([stage, "--dry-run", *which, *places]) == 0
    told = capsys.readouterr().out
    assert f"{stage} of vd-mini" in told and "samples: " in told and "hours" in told
    assert list(tmp_path.iterdir()) == []


def test_parameters_are_counted_and_frozen_ones_apart(asked):
    def millions(*names):
        return sum(p.numel() for n in names for p in build(VD_MINI, n).parameters()) / 1e6

    trained = millions("time_embed", "image_data")
    frozen = millions("text_context")
    told = asked("flows", "--flows", "t2i", "--freeze", "text_context")
    assert f"{trained:.1f} M parameters trained, {frozen:.1f} M frozen" in told
    assert f"{(trained * 20 + frozen * 4) / 1e3:.2f} GB for weights" in told  # AdamW: two moments


def test_muon_keeps_one_number_of_a_matrix_entry(asked):
    parameters = [
        p for n in ("image_encoder", "image_decoder") for p in build(VD_MINI, n).parameters()
    ]
    matrices = sum(p.numel() for p in parameters if p.ndim > 1 and len(p) > 1)
    rest = sum(p.numel() for p in parameters) - matrices
    assert f"{(matrices * 16 + rest * 20) / 1e9:.2f} GB for weights" in asked(
        "autoencoder", "--optimizer", "muon"
    )


def test_the_plan_says_whose_moments_it_counts(asked):
    def said(*more):
        told = asked("flows", "--data", "mine", "--flows", "t2i", *more)
        gigabytes = float(told.split("memory: ")[1].split()[0])
        return told.split("optimizer: ")[1].splitlines()[0], gigabytes

    muon, less = said()
    divided, more = said("--shard")
    assert muon == "Muon for matrices, AdamW for the rest"
    assert divided == "AdamW instead of the recipe's Muon, whose matrices --shard would divide"
    assert (
        said("--optimizer", "adamw") == said("--optimizer", "adamw", "--shard") == ("AdamW", more)
    )
    assert less < more


@pytest.mark.parametrize("layers", ["cross", "attention"])
def test_adapters_are_all_that_is_trained(asked, model_folder, tmp_path, layers):
    options = FlowOptions(share={"t2i": 1.0}, lora=3, lora_layers=layers)
    stage = flows_stage(model_folder, tmp_path, options)
    trained, whole = (
        sum(p.numel() for p in parameters)
        for parameters in (memory.trained(stage.modules), stage.modules.parameters())
    )
    how = ["--init", str(model_folder), "--flows", "t2i", "--lora", "3", "--lora-layers", layers]
    counts = f"{trained / 1e6:.1f} M parameters trained, {(whole - trained) / 1e6:.1f} M frozen"
    given = _parser().parse_args(["flows", "--dry-run", "--out", str(tmp_path / "none"), *how])
    with torch.device("meta"):
        modules = _parts("flows", _spec(given), RECIPE, chosen(given, "flows").options)[0]
    assert counts in asked("flows", *how)
    assert sum(p.numel() for p in memory.trained(modules)) == trained
    assert all(p.is_meta for p in modules.parameters())
    with pytest.raises(ValueError, match="give stage flows, and --init MODEL"):
        asked("clip", *how)


def test_activations_that_are_computed_twice(asked):
    """Kept is at least what enters each block; all blocks run once more than in three passes."""
    stage = ("autoencoder", "--steps", "1", "--batch", "1000")
    plain, twice = asked(*stage), asked(*stage, "--checkpoint-activations")
    entering = 0

    def add(module, inputs):
        nonlocal entering
        entering += 4 * inputs[0].numel()

    modules = [build(VD_MINI, n) for n in ("image_encoder", "image_decoder")]
    for block in (m for part in modules for m in part.modules() if isinstance(m, ResnetBlock)):
        block.register_forward_pre_hook(add)
    modules[1](modules[0](torch.zeros(1, 3, 64, 64))[0])
    kept = [float(text.split("average, ")[1].split()[0]) for text in (plain, twice)]
    assert entering * 1000 / 1e9 < kept[1] < 0.6 * kept[0]
    count = [float(text.split("time: ")[1].split()[0]) for text in (plain, twice)]
    assert 1.1 < count[1] / count[0] < 4 / 3


def test_the_released_model_is_planned_on_meta(asked):
    released = ("--preset", "paper-four", "--init", "vd-four-flow-v1-0")
    told = asked("flows", *released, "--flows", "t2i", "i2t")  # which use all of it
    with torch.device("meta"):
        names = [
            n
            for n in components_for(("t2i", "i2i", "i2t", "t2t"))
            if n.endswith(("data", "context", "embed"))
        ]
        wanted = sum(p.numel() for n in names for p in build(VD_FOUR_FLOW_V1_0, n).parameters())
    assert f"{wanted / 1e6:.1f} M parameters trained" in told
    assert wanted > 2e9


def test_pictures_of_ones_own_are_of_the_side_that_is_asked_for(asked):
    operations = [
        float(asked("autoencoder", "--data", "mine", *side).split("time: ")[1].split()[0])
        for side in ((), ("--side", "128"))
    ]
    assert operations[1] == pytest.approx(4 * operations[0], rel=0.2)  # but for its attention


def test_what_cannot_be_frozen_is_one_sentence(asked):
    for wrong in (["text_data"], ["time_embed", "image_data", "text_context"]):
        with pytest.raises(ValueError, match="choose parameter groups from time_embed"):
            asked("flows", "--flows", "t2i", "--freeze", *wrong)


def test_operations_are_those_of_the_layers(asked, monkeypatch):
    """Convolutions by hand: twice the weights at each position, three times that for training."""
    told = asked("autoencoder", "--steps", "1", "--batch", "1")
    small = replace(VD_MINI, image_vae=replace(VD_MINI.image_vae, num_res_blocks=2))
    monkeypatch.setattr("training.plan.VD_MINI", small)
    more = asked("autoencoder", "--steps", "1", "--batch", "1")
    count = [float(text.split("time: ")[1].split()[0]) for text in (told, more)]
    modules = [build(VD_MINI, n) for n in ("image_encoder", "image_decoder")]
    seen = 0

    def add(module, inputs, output):
        nonlocal seen
        if isinstance(module, torch.nn.Conv2d):
            seen += 2 * module.weight.numel() * output[0, 0].numel()
        elif isinstance(module, Upsample):  # it computes its convolution itself
            seen += 2 * module.conv.weight.numel() * output[0, 0].numel()

    for module in modules:
        for part in module.modules():
            part.register_forward_hook(add)
    modules[1](modules[0](torch.zeros(1, 3, 64, 64))[0])
    assert count[0] == pytest.approx(3 * seen, rel=0.1)  # attention and rounding to two digits
    assert count[1] > count[0]
