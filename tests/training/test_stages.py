"""Each stage's loss on a tiny model: finite, and it reaches every weight that is trained."""

import json
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.samples import key_of
from lib.config import FLOWS
from lib.model import VersatileDiffusion
from lib.tokenizers import Tokenizers
from tests.training.tiny_stages import (
    KINDS,
    RECIPE,
    check,
    drawing_samples,
    encoders_of,
    scene_samples,
    worldly,
)
from training import stages
from training.attributes import read_loss, right
from training.augment import Varied
from training.autoencoder import AutoencoderStage
from training.cache import CAPTIONS, ENCODERS, REPLIES, VIEWS, answers_of, build, captions_of, drawn
from training.clip import ClipStage
from training.datasets import open_data
from training.export import record
from training.flows import FlowOptions, FlowsStage, encoders_for
from training.judge import JudgeStage
from training.optimus import OptimusStage
from training.recipes import chosen
from training.stage import generator
from training.stages import warm_start


@pytest.fixture(scope="module", params=list(KINDS))
def samples(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def scenes():
    return scene_samples(None)


@pytest.fixture(scope="module")
def model(vd, samples, tmp_path_factory):
    return worldly(vd, samples, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoders(model) -> VersatileDiffusion:
    return encoders_of(*model)


def test_autoencoder(model, samples, tmp_path):
    check(AutoencoderStage(model[0], samples, samples, tmp_path, RECIPE))


def test_clip(model, samples, tmp_path):
    stage = ClipStage(*model, samples, samples, tmp_path, RECIPE)
    check(stage)
    measured = stage.measure()
    assert 0 <= measured["recall_text_to_image"] <= 1
    assert ("read_from_image" in measured) == bool(samples.attributes)


def test_optimus(model, samples, tmp_path):
    check(OptimusStage(*model, samples, samples, tmp_path, RECIPE))


@pytest.mark.parametrize("kind", [AutoencoderStage, OptimusStage, FlowsStage])
def test_what_a_step_saw_is_called_as_in_the_data(kind, encoders, model, samples, tmp_path):
    if kind is FlowsStage:
        cache = build(encoders, samples, tmp_path)
        stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE)
    else:
        which = slice(1 if kind is AutoencoderStage else 2)
        stage = kind(*model[which], samples, samples, tmp_path, RECIPE)
    stage.loss(0, generator(0, 0))
    wanted = [key_of(samples, number) for number in stage.seen]
    assert len(wanted) >= RECIPE.batch and [stage.key(n) for n in stage.seen] == wanted
    assert all(not key.isdigit() for key in wanted) == hasattr(samples, "key")


def test_judge(tmp_path):
    check(JudgeStage(tmp_path, RECIPE))


def test_flows_reach_every_column_and_drop_contexts(encoders, samples, tmp_path, monkeypatch):
    cache = build(encoders, samples, tmp_path)
    options = FlowOptions(share=dict.fromkeys(FLOWS, 1.0), dropout=0.5)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options)
    assert stage.samples() == len(FLOWS) * RECIPE.batch
    check(stage)
    with torch.no_grad():
        at_once = stage.measure()
        monkeypatch.setattr("training.flows.TOGETHER", 3)
        assert stage.measure() == pytest.approx(at_once, rel=1e-5)
    assert set(at_once) == {f"loss_{flow}" for flow in FLOWS}


def test_a_dropped_context_is_the_flow_s_own_null(encoders, samples, tmp_path):
    cache = build(encoders, samples, tmp_path)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE)
    for flow, (data, kind) in FLOWS.items():
        null = encoders.null_context(kind, data, 1).tokens
        assert torch.equal(stage.nulls[flow], null.float())
    assert not stage.nulls["i2i"].any()
    assert stage.nulls["i2t"].any()


def test_the_cache_holds_what_the_encoders_say_and_is_read_back(encoders, samples, tmp_path):
    cache = build(encoders, samples, tmp_path)
    rows = range(len(samples))
    wanted = encoders.encode_text(answers_of(samples, rows)[2])
    got = torch.from_numpy(cache.text_latents[:, 2].copy()).float()
    assert torch.allclose(got, wanted, atol=0.05)
    wanted = encoders.text_context(captions_of(samples, rows)[1]).tokens
    got = torch.from_numpy(cache.text_tokens[:, 1].copy()).float()
    assert torch.allclose(got, wanted, atol=0.05)
    assert cache.text_latents.shape[1] == CAPTIONS + REPLIES * len(samples.words)
    again = build(encoders, samples, tmp_path)
    assert np.array_equal(cache.image_tokens, again.image_tokens)
    assert len(list(tmp_path.glob("*.npy"))) == len(ENCODERS)


@pytest.mark.parametrize("samples", ["emoji"], indirect=True)
def test_arrays_of_other_sizes_or_tokenizers_are_not_taken(encoders, samples, tmp_path):
    folder = tmp_path / "cache"
    first = build(encoders, samples, folder)
    before = {*folder.glob("*.npy")}
    scale = replace(encoders.spec.image_vae, scale=2 * encoders.spec.image_vae.scale)
    words = tmp_path / "words"
    shutil.copytree(encoders.tokenizers.source, words)
    (words / "note.txt").write_text("of another corpus")
    spec = replace(encoders.spec, image_vae=scale)
    modules = {name: encoders.component(name) for name in ENCODERS}
    second = build(VersatileDiffusion(spec, modules, Tokenizers(words, spec)), samples, folder)
    names = [path.name.partition("-")[0] for path in {*folder.glob("*.npy")} - before]
    assert sorted(names) == ["image_latents", "text_latents", "text_tokens"]
    pair = [np.asarray(cache.image_latents, np.float32) for cache in (first, second)]
    assert np.allclose(2 * pair[0], pair[1], atol=0.02)


def test_an_answer_is_in_the_language_of_its_caption_or_of_the_word_that_asks():
    samples = drawing_samples(None)
    rows = range(len(samples))
    asked, answers = captions_of(samples, rows), answers_of(samples, rows)
    read = samples.grammar.read
    for questions, texts in zip(asked, answers[:CAPTIONS], strict=True):
        for question, text in zip(questions, texts, strict=True):
            # a name that two languages share may be read as either
            assert read(question).asked == read(text).language or read(text).parts == ("concept",)
    languages = [{read(text).language for text in texts} for texts in answers[CAPTIONS:]]
    assert languages == [{"english"}] * 2 * REPLIES + [{"french"}] * REPLIES


def test_a_subset_of_flows_needs_and_trains_only_its_parts(vd, scenes, tmp_path):
    encoders = encoders_of(*worldly(vd, scenes, tmp_path))
    scales = {"text_data": 0.2, "time_embed": 0.1}
    options = FlowOptions(share={"t2i": 1.0}, frozen=("text_context",), scales=scales)
    assert encoders_for(options) == ("image_encoder", "clip_text")
    cache = build(encoders, scenes, tmp_path, encoders_for(options))
    assert cache.image_tokens is None and cache.text_latents is None
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options)
    assert set(stage.modules) == {"time_embed", "image_data", "text_context"}
    assert stage.gradient_scales() == {"time_embed": 0.1}
    stage.loss(0, generator(0, 0))[0].backward()
    assert all(p.grad is None for p in stage.modules["text_context"].parameters())
    assert any(p.grad is not None for p in stage.modules["image_data"].parameters())
    with pytest.raises(ValueError, match="no freezing text_data: choose"):
        FlowsStage(
            encoders, cache, cache, tmp_path, RECIPE, replace(options, frozen=("text_data",))
        )
    with pytest.raises(ValueError, match="No flow has a share"):
        FlowsStage(encoders, cache, cache, tmp_path, RECIPE, FlowOptions(share={}))


@pytest.mark.parametrize("samples", ["emoji"], indirect=True)
def test_pictures_without_captions_serve_image_variation_alone(encoders, samples, tmp_path):
    cache = build(encoders, samples, tmp_path)
    pictures = build(encoders, samples, tmp_path, ("image_encoder", "clip_vision"))
    assert pictures.text_latents is None
    options = FlowOptions(share={"i2i": 1.0, "i2t": 0.5}, uncaptioned=0.75, same=1.0)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options, pictures)
    stage.loss(0, generator(0, 0))
    size, n = RECIPE.batch, len(cache)
    beyond = [number for number in stage.seen if number >= n]
    assert len(stage.seen) == round(1.5 * size) and len(beyond) == round(0.75 * size)
    assert stage.key(beyond[0]) == key_of(samples, beyond[0] - n)
    assert stage.identity()["pictures"] == pictures.made
    plain = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, replace(options, uncaptioned=0.0))
    plain.loss(0, generator(0, 0))
    assert max(plain.seen) < n and "pictures" not in plain.identity()


@pytest.mark.parametrize(
    ("data", "flow", "encoded"),
    [
        ("emoji", ("i2i", "t2i"), ["flows train", "flows held out", "autoencoder train, varied"]),
        ("emoji", ("t2i",), ["flows train", "flows held out"]),
        ("scenes", ("i2i",), ["flows train", "flows held out"]),  # whose pictures all have captions
    ],
)
def test_only_pictures_that_flows_lack_are_encoded_besides(data, flow, encoded, monkeypatch):
    made = []
    monkeypatch.setattr(stages, "load", lambda *args, **more: None)

    def build(vd, samples, *more):
        name = f"{samples.samples}, varied" if isinstance(samples, Varied) else samples
        return made.append(name) or name

    monkeypatch.setattr(stages, "build", build)
    monkeypatch.setattr(stages.flows, "FlowsStage", lambda *args: args[-1])
    opened = replace(open_data(data, "runs"), samples=lambda s: (f"{s} train", f"{s} held out"))
    given = dict.fromkeys(
        ("steps", "batch", "lr", "accumulate", "optimizer", "seed", "freeze", "min_snr")
    )
    given |= dict.fromkeys(("init", "anchor", "exchanged", "lora"))
    args = Namespace(data=data, preset="small", flows=flow, runs=Path("x"), device="cpu", **given)
    pictures = stages._flows("x", opened, args, RECIPE, chosen(args, "flows"), Path("x"))
    assert made == encoded and pictures == (encoded[2] if len(encoded) > 2 else None)


@pytest.mark.parametrize("samples", ["emoji"], indirect=True)
def test_pictures_without_captions_are_changed_further_and_each_anew(samples):
    varied, rows = Varied(samples), range(len(samples))
    first, again, other = (varied.pictures(rows, np.random.default_rng(s)) for s in (0, 0, 1))
    assert first.shape == samples.pictures(rows, np.random.default_rng(0)).shape
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1
    assert varied.key(1) == key_of(samples, 1) and len(varied) == len(samples)
    assert varied.identity() != samples.identity()


@pytest.mark.parametrize("samples", ["emoji"], indirect=True)
def test_what_is_changed_that_far_is_seen_as_it_is_generated(encoders, samples, tmp_path):
    cache = build(encoders, samples, tmp_path)
    pictures = build(encoders, samples, tmp_path, ("image_encoder", "clip_vision"))
    options = FlowOptions(share={"i2i": 8.0}, uncaptioned=0.5, same=0.0)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options, pictures)
    draws, own = {}, stage._flow_loss
    stage._flow_loss = lambda flow, of, draw, *rest: (
        draws.update({of is pictures: draw}) or own(flow, of, draw, *rest)
    )
    stage.loss(0, generator(0, 0))
    assert (draws[True].data == draws[True].context).all()
    assert (draws[False].data != draws[False].context).any()


@pytest.mark.parametrize(
    ("same", "share"), [(0.0, 1 / VIEWS), (0.7, 0.7 + 0.3 / VIEWS), (1.0, 1.0)]
)
def test_how_often_the_very_view_is_shown(same, share):
    t, rng = torch.zeros(6000, dtype=torch.long), np.random.default_rng(0)
    draw = drawn("i2i", 10, t, rng, dropout=0.1, same=same)
    assert np.mean(draw.data == draw.context) == pytest.approx(share, abs=0.03)
    assert set(draw.data) == set(draw.context) == set(range(VIEWS))


def test_min_snr_weights_are_those_of_the_paper(vd, scenes, tmp_path):
    encoders = encoders_of(*worldly(vd, scenes, tmp_path))
    cache = build(encoders, scenes, tmp_path)
    options = FlowOptions(min_snr=5.0)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options)
    t = torch.tensor([0, 400, 999])
    alpha_bar = encoders.schedule.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    wanted = [min(float(s), 5.0) / float(s) for s in snr]
    assert stage._snr_weight(t).tolist() == pytest.approx(wanted, rel=1e-5)
    assert wanted[0] < 0.01 and wanted[-1] == 1
    plain = FlowsStage(encoders, cache, cache, tmp_path, RECIPE)
    losses = []
    for each in (stage, plain):
        torch.manual_seed(1)
        losses.append(each.loss(0, generator(0, 0))[0].item())
    assert losses[0] < losses[1]


def test_reading_targets_ignore_what_is_not_said():
    wanted = torch.tensor([[1, -1], [0, 2]])
    perfect = [torch.full((2, n), -50.0) for n in (3, 4)]
    perfect[0][[0, 1], [1, 0]] = 50.0
    perfect[1][1, 2] = 50.0
    assert read_loss(perfect, wanted) < 1e-6
    assert right(perfect, wanted).all()
    perfect[1][1, 3] = 90.0
    assert right(perfect, wanted).tolist() == [[True, True], [True, False]]
    assert read_loss(perfect, torch.full((2, 2), -1)) == 0


def test_a_warm_start_takes_the_finished_weights(vd, model_folder, scenes, tmp_path):
    stage = AutoencoderStage(vd.spec, scenes, scenes, tmp_path, RECIPE)
    fresh = stage.modules["image_decoder"].conv_in.weight.clone()
    warm_start(stage, model_folder)
    taken = stage.modules["image_decoder"].conv_in.weight
    assert torch.equal(taken, vd.image_decoder.conv_in.weight)
    assert not torch.equal(taken, fresh)
    assert taken.requires_grad and stage.warm


def test_a_warm_start_from_a_checkpoint_takes_what_it_has(vd, scenes, tmp_path):
    stage = AutoencoderStage(vd.spec, scenes, scenes, tmp_path, RECIPE)
    other = AutoencoderStage(vd.spec, scenes, scenes, tmp_path, replace(RECIPE, seed=1))
    held = {k: v for k, v in other.modules.state_dict().items() if k.startswith("image_decoder")}
    torch.save({"modules": held}, tmp_path / "stable.pt")
    encoder = stage.modules["image_encoder"].quant_conv.weight.clone()
    warm_start(stage, tmp_path / "stable.pt")
    taken = stage.modules["image_decoder"].conv_in.weight
    assert torch.equal(taken, other.modules["image_decoder"].conv_in.weight)
    assert torch.equal(stage.modules["image_encoder"].quant_conv.weight, encoder)
    torch.save({"modules": {}}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="holds nothing that autoencoder trains"):
        warm_start(stage, tmp_path / "empty.pt")


def test_the_record_lists_the_runs_that_made_the_weights(vd, scenes, tmp_path):
    def done(run: str, warm: bool, seconds: float) -> list[tuple[str, float]]:
        stage = AutoencoderStage(vd.spec, scenes, scenes, tmp_path, RECIPE)
        stage.run, stage.warm = run, warm
        record(stage, {"psnr": 1.0}, seconds)
        known = json.loads((tmp_path / "training.json").read_text())
        return [(name, entry["minutes"]) for name, entry in known.items()]

    assert done("a", False, 60) == [("autoencoder", 1)]
    assert done("b", True, 120) == [("autoencoder, run 1", 1), ("autoencoder", 2)]
    # prolonged, or measured again: its minutes are counted once
    assert done("b", True, 180) == [("autoencoder, run 1", 1), ("autoencoder", 3)]
    assert done("c", True, 60)[1:] == [("autoencoder, run 2", 3), ("autoencoder", 1)]
    # from nothing: what was trained before is no part of these weights
    assert done("d", False, 60) == [("autoencoder", 1)]
    entry = json.loads((tmp_path / "training.json").read_text())["autoencoder"]
    assert entry["data"] == {"scenes": len(scenes), "seed": 0}


def test_flows_know_what_they_were_trained_on(encoders, samples, tmp_path):
    cache = build(encoders, samples, tmp_path)
    both = [
        FlowsStage(encoders, cache, cache, tmp_path, RECIPE, FlowOptions(dropout=d))
        for d in (0.1, 0.2)
    ]
    first, second = (stage.identity() for stage in both)
    assert first["data"] == second["data"] and first["options"] != second["options"]
    assert set(first["data"]) == {"samples", *samples.identity(), *ENCODERS}
    json.dumps(first)
