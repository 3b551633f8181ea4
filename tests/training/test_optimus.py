"""A warm start of the text VAE whose latents stay in place."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from data.scenes.samples import SceneSamples
from data.scenes.world import sample_scene
from tests.training.tiny_stages import worldly
from training.__main__ import main
from training.loop import train
from training.optimus import OptimusStage
from training.stage import Recipe, generator

RECIPE = Recipe(steps=4, batch=24, lr=1e-3)


@pytest.fixture
def samples() -> SceneSamples:
    rng = np.random.default_rng(0)
    return SceneSamples([sample_scene(rng) for _ in range(9)], np.empty((9, 0)), exchanged=0.5)


@pytest.fixture
def make(vd, samples, tmp_path):
    model = worldly(vd, samples, tmp_path)
    return lambda anchor: OptimusStage(*model, samples, samples, tmp_path, RECIPE, anchor)


def moved(stage) -> tuple[float, dict[str, float]]:
    torch.manual_seed(1)
    loss, metrics = stage.loss(0, generator(0, 0))
    return loss.item(), metrics


def test_ordinary_captions_are_held_where_they_were(make, samples, monkeypatch):
    free, held = make(None), make(3.0)
    for stage in (free, held):
        stage.warmed()
    assert "moved" not in moved(free)[1] and moved(held)[1]["moved"] == 0
    assert moved(free)[0] == pytest.approx(moved(held)[0])
    assert held.identity() == free.identity() | {"anchor": 3.0}

    seen = []
    read = SceneSamples.read
    monkeypatch.setattr(SceneSamples, "read", lambda s, texts: seen.append(texts) or read(s, texts))
    shift = torch.linspace(0, 1, free.spec.text_vae.latent)
    for stage in (free, held):  # the encoder moves by another amount for each ordinary caption
        encoder = stage.modules["text_encoder"]
        encoder.register_forward_hook(lambda m, _, out: (out[0] + shift, out[1]))
    (loss, _), (more, metrics) = moved(free), moved(held)
    assert 0 < (read(samples, seen[0]) < 0).all(1).sum() < RECIPE.batch  # nonsense is among them
    wanted = (shift * free.spec.text_vae.scale).square()
    assert metrics["moved"] == pytest.approx(wanted.mean().item(), rel=1e-4)
    assert more - loss == pytest.approx(3 * wanted.sum().item(), rel=1e-3)


def test_a_resumed_run_is_held_where_it_began(make, tmp_path):
    """Also if what it began from has changed since, as a folder that it was exported into."""

    def begun(seed: int, stop: bool = False) -> OptimusStage:
        stage = make(3.0)
        with torch.no_grad():
            for name, p in stage.modules.named_parameters():
                p.mul_(1 + 0.1 * np.random.default_rng([seed, len(name)]).normal())
        stage.warmed()
        stage.measure, stage.export = (dict), (lambda measured, seconds: None)
        loss = stage.loss

        def stopping(step, rng):
            if stop and step == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(step, rng)

        stage.loss = stopping
        return stage

    whole, second = begun(1), begun(2)
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(begun(1, stop=True), tmp_path / "parts")
    train(second, tmp_path / "parts")
    for ours, theirs in zip(whole.kept().items(), second.kept().items(), strict=True):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]), ours[0]
    assert not any(key.startswith("before") for key in make(None).kept())


def test_nonsense_is_free_to_move(make, samples, monkeypatch):
    stage = make(3.0)
    stage.warmed()
    monkeypatch.setattr(SceneSamples, "read", lambda s, texts: torch.full((len(texts), 10), -1))
    stage.modules["text_encoder"].register_forward_hook(lambda m, _, out: (out[0] + 1, out[1]))
    assert moved(stage)[1]["moved"] == 0


@pytest.mark.parametrize("anchor", [None, 0.5])
def test_a_held_latent_keeps_its_scale(make, anchor):
    stage = make(anchor)
    stage.warmed()
    scale = stage.spec.text_vae.scale
    stage.export({"latent_std": 0.25, "exact_match": 0.0}, 1.0)
    kept = json.loads((stage.out / "config.json").read_text())["text_vae"]["scale"]
    assert kept == (4.0 if anchor is None else scale)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["optimus", "--anchor", "1"], "give stage optimus, and --init"),
        (
            ["clip", "--anchor", "1", "--init", "vd-mini"],
            "does nothing in stage clip: it is for optimus",
        ),
        (["flows", "--exchanged", "0.5"], "with --flows i2t t2t"),
        (["flows", "--exchanged", "0.5", "--flows", "t2i", "t2t"], "with --flows i2t t2t"),
        (["all", "--exchanged", "0.5"], "with --flows i2t t2t"),
        (["optimus", "--exchanged", "0.5", "--data", "emoji"], "it is for scenes"),
    ],
)
def test_what_is_about_texts_is_refused_elsewhere(arguments, said, tmp_path, capsys):
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*arguments, *where]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
