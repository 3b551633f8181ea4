"""The training loop on a stage small enough to check by hand."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from training.checkpoints import fingerprint
from training.loop import Ema, train
from training.stage import Recipe, Stage, generator


class Toy(Stage):
    """Linear regression with dropout: uses both the step's generator and torch's own stream."""

    name = "toy"

    def __init__(
        self, recipe: Recipe, stop_after: int | None = None, hidden: int = 4, data: int = 1
    ) -> None:
        self.recipe, self.stop_after, self.data = recipe, stop_after, data
        torch.manual_seed(recipe.seed)
        self.modules = nn.ModuleDict(
            {"a": nn.Linear(3, hidden), "b": nn.Sequential(nn.Dropout(0.5), nn.Linear(hidden, 1))}
        )
        self.exported = None

    def identity(self):
        return {"data": {"scenes": self.data}}

    def loss(self, step, rng):
        x = torch.from_numpy(rng.normal(size=(self.recipe.batch, 3))).float()
        out = self.modules["b"](self.modules["a"](x))
        if step == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return (out - x.sum(1, keepdim=True)).square().mean(), {"step_seen": float(step)}

    def measure(self):
        return {"weight": float(self.modules["a"].weight.sum())}

    def export(self, measured, seconds):
        self.exported = measured


def recipe(**changes) -> Recipe:
    values = {"steps": 12, "batch": 4, "lr": 0.05, "warmup": 2, "log_every": 3, "ema": 0.9}
    return Recipe(**{**values, **changes})


def weights(stage: Stage) -> list[torch.Tensor]:
    return [p.detach().clone() for p in stage.modules.parameters()]


@pytest.mark.parametrize("stop_after", [0, 4, 10])
def test_an_interrupted_run_continues_bit_identically(tmp_path, stop_after):
    whole = Toy(recipe())
    measured = train(whole, tmp_path / "whole")

    first = Toy(recipe(), stop_after)
    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path / "parts")
    second = Toy(recipe())
    assert train(second, tmp_path / "parts") == measured
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)
    logs = [(tmp_path / name / "toy" / "log.jsonl").read_text() for name in ("whole", "parts")]
    seen = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert seen[0] == seen[1] == [3, 6, 9, 12]


def test_muon_goes_on_bit_for_bit(tmp_path):
    whole, second = Toy(recipe(optimizer="muon")), Toy(recipe(optimizer="muon"))
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(optimizer="muon"), 5), tmp_path / "parts")
    train(second, tmp_path / "parts")
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)
    adamw = Toy(recipe())
    train(adamw, tmp_path / "adamw")
    assert not torch.equal(weights(whole)[0], weights(adamw)[0])


def test_muon_moves_no_divided_matrices(tmp_path):
    with pytest.raises(ValueError, match="Muon moves whole matrices, and --shard divides them"):
        train(Toy(recipe(optimizer="muon")), tmp_path, shard=True)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    measured = train(Toy(recipe()), tmp_path)
    again = Toy(recipe())
    before = weights(again)
    assert train(again, tmp_path) == measured
    assert all(torch.equal(a, b) for a, b in zip(before, weights(again), strict=True))


def test_the_checkpoint_of_another_recipe_is_refused_by_name(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    with pytest.raises(ValueError, match="other lr"):
        train(Toy(recipe(lr=0.01)), tmp_path)
    with pytest.raises(ValueError, match="other model sizes"):
        train(Toy(recipe(), hidden=5), tmp_path)
    with pytest.raises(ValueError, match="other data: use what it was made with"):
        train(Toy(recipe(), data=2), tmp_path)
    with pytest.raises(ValueError, match="only a trapezoid can be prolonged"):
        train(Toy(recipe(steps=20)), tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    path = tmp_path / "toy" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of this program"):
        train(Toy(recipe()), tmp_path)
    torch.save({"weights": 1}, path)  # somebody else's
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of this program"):
        train(Toy(recipe()), tmp_path)


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    folder = tmp_path / "toy"
    before = (folder / "checkpoint.pt").read_bytes()

    def disk_full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        train(Toy(recipe()), tmp_path)
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def test_a_trapezoid_is_prolonged_from_before_its_cooldown(tmp_path):
    short = recipe(decay="trapezoid", cooldown=0.25)
    train(Toy(short), tmp_path / "grown")
    long = recipe(decay="trapezoid", cooldown=0.25, steps=24)
    grown, straight = Toy(long), Toy(long)
    train(grown, tmp_path / "grown")
    train(straight, tmp_path / "straight")
    for a, b in zip(weights(grown), weights(straight), strict=True):
        assert torch.equal(a, b)


def test_a_finished_stage_is_not_taken_for_another_one(tmp_path):
    train(Toy(recipe()), tmp_path)
    others = recipe(lr=0.01), recipe(steps=20), recipe(optimizer="muon")
    for other in (*map(Toy, others), Toy(recipe(), data=2)):
        named = r"is finished, with other (lr|data|steps|optimizer): use what"
        with pytest.raises(ValueError, match=named):
            train(other, tmp_path)


def test_a_run_keeps_its_name_when_it_is_interrupted_or_prolonged(tmp_path):
    how = {"decay": "trapezoid", "cooldown": 0.25}
    stages = [Toy(recipe(**how), 4), Toy(recipe(**how)), Toy(recipe(**how, steps=24))]
    with pytest.raises(KeyboardInterrupt):
        train(stages[0], tmp_path / "one")
    for stage in stages[1:]:
        train(stage, tmp_path / "one")
    other = Toy(recipe(**how))
    train(other, tmp_path / "other")
    assert len({stage.run for stage in stages}) == 1
    assert other.run != stages[0].run


def test_accumulated_batches_are_what_more_processes_see(tmp_path, monkeypatch):
    """Two batches of one process: the mean of the gradients of both streams, by hand."""
    monkeypatch.setattr("training.loop.native_bf16", lambda device: False)
    how = {"steps": 1, "weight_decay": 0.0, "clip": 1e9, "warmup": 0, "ema": 0.0}
    stage = Toy(recipe(accumulate=2, **how))
    stage.modules["b"][0].p = 0.0
    by_hand = Toy(recipe(**how))
    by_hand.modules["b"][0].p = 0.0
    losses = [by_hand.loss(0, generator(0, 0, place))[0] for place in (0, 1)]
    (sum(losses) / 2).backward()
    wanted = [p.grad.clone() for p in by_hand.modules.parameters()]
    train(stage, tmp_path)
    for a, b in zip(stage.modules.parameters(), wanted, strict=True):
        assert torch.allclose(a.grad, b, atol=1e-6)
    line = json.loads((tmp_path / "toy" / "log.jsonl").read_text())
    assert line["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 2, abs=1e-5)


def test_what_is_not_finite_is_named_with_the_step_and_the_checkpoint(tmp_path):
    class Broken(Toy):
        def loss(self, step, rng):
            loss, metrics = super().loss(step, rng)
            self.seen = rng.integers(30, size=5)
            return (loss * float("nan") if step == 7 else loss), metrics

    class Named:
        def key(self, index):
            return f"frogs/{index}.png"

    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    checkpoint = tmp_path / "toy" / "checkpoint.pt"
    before = checkpoint.read_bytes()
    broken = Broken(recipe(batch=2, accumulate=2), data=3)
    with pytest.raises(
        FloatingPointError, match=r"step 7 on samples (\d+, ){7}\d+ and 2 more"
    ) as error:
        train(broken, tmp_path / "numbers")
    broken.pool = Named()
    with pytest.raises(
        FloatingPointError, match=r"step 7 on samples frogs/\d+\.png, frogs/"
    ) as error:
        train(broken, tmp_path / "names")
    seen = (tmp_path / "names" / "toy" / "not-finite-0.txt").read_text().splitlines()
    drawn = []
    for place in (0, 1):
        rng = generator(0, 7, place)
        rng.normal(size=(2, 3))
        drawn += [f"frogs/{number}.png" for number in rng.integers(30, size=5)]
    assert seen == drawn
    with pytest.raises(FloatingPointError, match="toy: loss, norm not finite at step 7") as error:
        train(Broken(recipe()), tmp_path)
    assert str(checkpoint) in str(error.value)
    assert checkpoint.read_bytes() == before


def test_a_run_from_before_accumulation_goes_on(tmp_path):
    assert "accumulate" not in fingerprint(Toy(recipe()))
    assert fingerprint(Toy(recipe()))["processes"] == 1
    assert fingerprint(Toy(recipe(accumulate=2)))["processes"] == 2


def test_gradients_of_a_group_are_scaled_before_they_are_clipped(tmp_path):
    """Without clipping and decay AdamW undoes a constant factor; of nothing, it makes nothing."""
    unclipped = recipe(clip=1e9, weight_decay=0.0)
    stages = {scale: Toy(unclipped) for scale in (1.0, 0.25, 0.0)}
    before = weights(stages[1.0])
    for scale, stage in stages.items():
        stage.gradient_scales = lambda scale=scale: {"a": scale}
        train(stage, tmp_path / str(scale))
    usual, quarter, none = (stage.modules["a"].weight.detach() for stage in stages.values())
    assert torch.allclose(quarter, usual, atol=1e-3)
    assert torch.equal(none, before[0]) and not torch.equal(usual, before[0])
    clipped = {scale: Toy(recipe(clip=1e-3, weight_decay=0.0, steps=1)) for scale in (1.0, 0.5)}
    norms = {}
    for scale, stage in clipped.items():
        stage.gradient_scales = lambda scale=scale: {"a": scale, "b": scale}
        train(stage, tmp_path / f"clipped {scale}")
        log = (tmp_path / f"clipped {scale}" / "toy" / "log.jsonl").read_text()
        norms[scale] = json.loads(log)["norm"]
    assert norms[0.5] == pytest.approx(norms[1.0] / 2, rel=1e-3)


def test_learning_rates():
    linear = recipe(steps=12, lr=1.0, warmup=2, decay="linear")
    assert [linear.lr_at(s) for s in (0, 1, 2, 7)] == [0.5, 1.0, 1.0, 0.5]
    cosine = recipe(steps=12, lr=1.0, warmup=2, decay="cosine")
    assert cosine.lr_at(7) == pytest.approx(0.5)
    trapezoid = recipe(steps=20, lr=1.0, warmup=2, decay="trapezoid", cooldown=0.5)
    assert [trapezoid.lr_at(s) for s in (2, 10, 15)] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    "wrong", [{"decay": "stairs"}, {"steps": 0}, {"batch": 0}, {"accumulate": 0}]
)
def test_an_impossible_recipe_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        recipe(**wrong)


def test_the_average_is_the_geometric_series():
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module.parameters(), decay=0.5)
    value = ema.shadow[0].item()
    for step, weight in enumerate([1.0, 2.0, 3.0], start=100):
        nn.init.constant_(module.weight, weight)
        ema.update(step)
        value = 0.5 * value + 0.5 * weight
    assert ema.shadow[0].item() == pytest.approx(value)
    with ema.applied():
        assert module.weight.item() == pytest.approx(value)
    assert module.weight.item() == 3.0


def test_steps_and_processes_have_their_own_streams():
    draws = {
        tuple(generator(0, s, r).integers(1 << 30, size=2)) for s in range(4) for r in range(3)
    }
    assert len(draws) == 12
    assert np.array_equal(generator(1, 2).random(3), generator(1, 2).random(3))
