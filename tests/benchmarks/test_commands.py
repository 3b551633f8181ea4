"""Benchmarks compare what they say: the same numbers in our modules and in diffusers'."""

import json
from argparse import Namespace
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import full_size, steps
from lib.config import ClipConfig, KLConfig, UNetConfig
from lib.specs import VD_FOUR_FLOW_V1_0

SMALL = replace(
    VD_FOUR_FLOW_V1_0,
    unet=UNetConfig(
        model_channels=32,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=(1, 1, 1, 1),
        image_heads=2,
        text_heads=2,
        context_dim=48,
    ),
    image_vae=KLConfig(ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1),
    clip=ClipConfig(projection=48),
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(full_size, "SPEC", SMALL)
    monkeypatch.setattr(steps, "LATENT", (4, 16, 16))


@torch.no_grad()
def test_both_compute_the_same(small):
    vd = full_size.random_model((*steps.DIFFUSER, "image_decoder"), torch.float32)
    unet, vae = full_size.diffusers_unet(vd), full_size.diffusers_decoder(vd)
    x, both = torch.randn(1, *steps.LATENT), steps.contexts(vd)
    ours, theirs = steps.our_step(vd, x, *both), steps.their_step(unet, x, *both)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
    picture = (vae.decode(x).sample / 2 + 0.5).clamp(0, 1)
    scaled = vd.decode_image(x * SMALL.image_vae.scale)
    torch.testing.assert_close(scaled, picture, rtol=0, atol=1e-4)


def test_bfloat16_is_as_far_off_as_theirs(small):
    args = Namespace(dtype=torch.bfloat16, repeats=1)
    result = steps.guided_step(args)
    assert result["error ratio"] < 1.5  # of few numbers; at full size it is in the README
    assert set(result["seconds"]) == {"ours", "diffusers"}


def test_a_picture_is_the_sum_of_its_parts(small, monkeypatch):
    few = replace(SMALL.clip.text, layers=1, hidden=48, heads=2)
    monkeypatch.setattr(full_size, "SPEC", replace(SMALL, clip=replace(SMALL.clip, text=few)))
    result = steps.text_to_image(Namespace(dtype=torch.float32, repeats=1, whole=True))
    seconds = result["seconds"]
    for clock in ("wall", "cpu"):
        part = {name: clocks[clock] for name, clocks in seconds.items()}
        assert part["picture"] == 2 * part["CLIP"] + 20 * part["step"] + part["decode"]
        assert result[f"{clock} ratio"] == part["picture"] / part["diffusers picture"]
    assert seconds["whole"]["wall"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_compute_the_same(dtype, monkeypatch):
    monkeypatch.setattr(steps.ops, "LARGE", 100)
    monkeypatch.setattr(steps, "CONVOLVED", ((1, 6, 8, 5),))
    monkeypatch.setattr(steps, "UPSAMPLED", ((2, 6, 8, 5),))
    monkeypatch.setattr(steps, "ATTENDED", (2, 300, 8))
    for ours, plain in steps.operation_pairs(dtype).values():
        near = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.05}
        torch.testing.assert_close(ours(), plain(), **near)
    result = steps.operations(Namespace(dtype=dtype, repeats=1))
    assert all(set(part["seconds"]) == {"ours", "torch"} for part in result.values())


def test_turns_change_their_order():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = full_size.in_turns(runs, 2)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert set(times["a"]) == {"wall", "cpu"}
    halves = full_size.compared({"a": {"wall": 1, "cpu": 2}, "b": {"wall": 2, "cpu": 8}}, "a", "b")
    assert halves == {"wall ratio": 0.5, "cpu ratio": 0.25}


def test_the_command_prints_names_and_numbers(capsys, monkeypatch):
    monkeypatch.setattr(steps, "scaling", lambda args: {"speed": {"1": 2.0}})
    command.main(["scaling", "--json"])
    assert json.loads(capsys.readouterr().out)["speed"] == {"1": 2.0}
    assert command.main(["scaling"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["speed", f"  1{' ' * 27} 2"]


@pytest.mark.parametrize("wrong", [("--repeats", 0), ("--threads", -1), ("--threads", 10**12)])
def test_a_wrong_number_is_a_sentence(wrong, capsys):
    option, value = wrong
    assert command.main(["scaling", option, str(value)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option[2:]} is {value}: give a whole")


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_is_there(name):
    module, function = command.COMMANDS[name]
    assert callable(getattr(import_module(module), function))


def leaving() -> None:
    """What a process does that the system ends for its memory."""
    raise SystemExit(9)


def test_a_process_that_ends_is_told():
    there = full_size.Apart(leaving)
    with pytest.raises(MemoryError, match="ended with 9"):
        there(1)
