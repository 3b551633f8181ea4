"""Edits: what must come back comes back; what is taken out of a latent is out."""

import numpy as np
import pytest
import torch

from analysis.modes import image_to_text
from analysis.modes.edit import edit, exchanged, latent_edit, without
from analysis.modes.focus import BANDS, Bands, top_components
from analysis.modes.masks import Mask
from analysis.results.outputs import identity, read_record, save
from data.scenes.captions import parse
from data.scenes.world import Scene
from lib.checkpoints import load
from lib.images import to_pil
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import ddim
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

SOURCE, TARGET = "a large red circle", "a tiny striped star on gray"
QUIET = {"progress": False}


def decoded(vd: VersatileDiffusion, *pictures):
    return to_pil(vd.decode_image(vd.encode_image(list(pictures))))


def errors(result):
    return [sample["found"]["inversion_error"] for sample in result.record["samples"]]


@pytest.mark.parametrize("source", [SOURCE, ""])
@pytest.mark.parametrize("scale", [1, 5])
def test_source_as_target_gives_the_picture_back(vd, source, scale):
    target = source or SOURCE
    options = {"iterations": 24, "steps": 10, "scale": scale, **QUIET}
    made = edit(vd, drawing(0), source, target, **options)
    assert errors(made)[0] < 1e-3
    assert same(made.images, decoded(vd, drawing(0))) == (source == target)


def test_more_iterations_leave_less_error(vd):
    found = [
        errors(edit(vd, drawing(0), SOURCE, SOURCE, iterations=i, steps=10, **QUIET))[0]
        for i in (1, 4)
    ]
    assert found[0] > 5 * found[1]


def test_a_mask_of_nothing_of_all_and_of_a_half(vd):
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    options = {"iterations": 1, "steps": 10, "scale": 4, **QUIET}
    whole = edit(vd, drawing(0), SOURCE, TARGET, **options)
    inside = edit(vd, drawing(0), SOURCE, TARGET, mask=mask, **options)
    none = edit(vd, drawing(0), SOURCE, TARGET, mask=torch.zeros(4, 4), **options)
    full = edit(vd, drawing(0), SOURCE, TARGET, mask=torch.ones(4, 4), **options)
    assert same(none.images, decoded(vd, drawing(0)))
    assert same(full.images, whole.images)
    assert not same(inside.images, none.images)
    assert not same(inside.images, full.images)


@torch.no_grad()
def test_masked_latents_step_by_step(vd):
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    options = {"mask": mask, "iterations": 1, "steps": 10, "scale": 4}
    job = edit.job(vd, drawing(0), SOURCE, TARGET, **options)
    given = job.condition(job.samples)
    eps = given.around(vd.guided(given.contexts, "image", 4, given.nulls))
    timesteps = vd.schedule.timesteps(10)
    picture = vd.encode_image([drawing(0)])
    plain = ddim(given.around(lambda x, t: 0 * x), given.latents, vd.schedule, timesteps)
    for step, other in zip(ddim(eps, given.latents, vd.schedule, timesteps), plain, strict=True):
        assert torch.allclose(step.x[..., :4], other.x[..., :4], atol=1e-4)
        assert not torch.allclose(step.x[..., 4:], other.x[..., 4:], atol=1e-2)
    assert torch.allclose(step.x[..., :4], picture[..., :4], atol=1e-4)


def test_fidelity_changes_less_and_one_changes_nothing(vd):
    options = {"steps": 10, "scale": 3, **QUIET}
    plain = vd.encode_image([drawing(0)])
    far = []
    for fidelity in (0, 0.5, 0.8, 1):
        made = edit(vd, drawing(0), SOURCE, TARGET, fidelity=fidelity, **options)
        far.append(np.abs(np.asarray(made.images[0], int) - decoded_array(vd, plain)).mean())
    assert far[0] > far[2] > far[3]
    assert far[3] <= 1


def decoded_array(vd, latents):
    return np.asarray(to_pil(vd.decode_image(latents))[0], int)


def test_batches_and_records(vd, tmp_path):
    pictures, targets = [drawing(k) for k in range(3)], [TARGET, "a ring", SOURCE]
    options = {"steps": 5, "scale": 3, **QUIET}
    whole = edit(vd, pictures, SOURCE, targets, **options)
    small = edit(vd, pictures, SOURCE, targets, batch_size=2, **options)
    assert same(whole.images, small.images)
    alone = edit(vd, pictures[1], SOURCE, targets[1], **options)
    assert same(alone.images, whole.images[1:2])
    assert alone.seeds == [0]
    assert errors(alone)[0] == pytest.approx(errors(whole)[1], abs=5e-6)
    record = read_record(save(whole, tmp_path)[1])
    expected = {"source": SOURCE, "prompt": "a ring", "iterations": 4, "mode": "edit", "scale": 3.0}
    assert record.items() >= expected.items()
    assert record["found"] == {"inversion_error": errors(whole)[1]}


def test_the_target_decodes_alone_unless_more_is_asked_for(vd):
    made = edit(vd, drawing(0), SOURCE, TARGET, steps=5, **QUIET)
    assert made.record_of(0)["scale"] == 1
    assert same(made.images, edit(vd, drawing(0), SOURCE, TARGET, steps=5, scale=1, **QUIET).images)


def test_the_record_tells_precomputed_sources_apart(vd):
    sources = [vd.text_context([text]) for text in (SOURCE, "a heart")]
    made = [edit(vd, drawing(0), source, TARGET, steps=5, **QUIET) for source in sources]
    told = [result.record_of(0)["source"] for result in made]
    assert told[0]["kind"] == "text" and told[0]["sha256"] != told[1]["sha256"]
    assert len({identity(result.record_of(0)) for result in made}) == 2


def test_the_bar_counts_every_prediction_from_the_inversion_on(vd, monkeypatch):
    calls, seen, eps = [], [], vd._eps

    class Bar:
        def __init__(self, total, disable, **options):
            seen.append((total, disable))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, samples):
            seen.append((len(calls), samples))

    monkeypatch.setattr(vd, "_eps", lambda *given: calls.append(given) or eps(*given))
    monkeypatch.setattr("analysis.modes.job.tqdm", Bar)
    options = {"steps": 5, "iterations": 2, "fidelity": 0.2, "batch_size": 2}
    edit(vd, [drawing(k) for k in range(3)], SOURCE, TARGET, **options, **QUIET)
    a_batch = 4 * 2 + 4 + 4  # inverted, decoded under the source to see how exactly, edited
    counts = [(k + 1, 2 if k < a_batch else 1) for k in range(2 * a_batch)]
    assert seen == [(3 * a_batch, True), *counts]


def test_latent_edit_keeps_as_many_components_as_are_the_model_s_style(vd, monkeypatch):
    for own, rank in ((None, 10), (Bands(alone=2), 2)):
        if own is not None:
            monkeypatch.setitem(BANDS, vd.spec.name, own)
        made = latent_edit(vd, drawing(0), "red", "blue", tries=2, seed=1, steps=2, **QUIET)
        assert made.record_of(0)["rank"] == rank
        again = latent_edit(
            vd, drawing(0), "red", "blue", rank=rank, tries=2, seed=1, steps=2, **QUIET
        )
        assert same(made.images, again.images)


def test_a_negative_prompt_takes_the_place_of_the_source(vd):
    options = {"steps": 5, "scale": 4, **QUIET}
    plain = edit(vd, drawing(0), SOURCE, TARGET, **options)
    same_one = edit(vd, drawing(0), SOURCE, TARGET, negative_prompt=SOURCE, **options)
    other = edit(vd, drawing(0), SOURCE, TARGET, negative_prompt="a heart", **options)
    assert same(plain.images, same_one.images)
    assert not same(plain.images, other.images)


def test_a_mask_is_fitted_as_its_picture_is(vd):
    weights = torch.zeros(16, 24)
    weights[:, 12:] = 1
    mask = Mask(weights[None, None], {})
    assert torch.equal(mask.fitted("squeeze").weights[0, 0], weights)
    assert torch.equal(mask.fitted("crop").weights[0, 0], weights[:, 4:20])
    bars = torch.zeros(4, 24)
    assert torch.equal(mask.fitted("pad").weights[0, 0], torch.cat([bars, weights, bars]))
    asked = {"source": SOURCE, "target": TARGET, "steps": 3, "fit": "crop", **QUIET}
    picture = drawing(0, (24, 16))
    by_mode = edit(vd, picture, mask=weights, **asked)
    beforehand = edit(vd, picture.crop((4, 0, 20, 16)), mask=weights[:, 4:20], **asked)
    assert same(by_mode.images, beforehand.images)


def test_reads_only_what_it_needs(model_folder):
    part = load(model_folder)
    made = edit(part, drawing(0), SOURCE, TARGET, **QUIET)
    used = {"clip_text", "image_encoder", "image_decoder", "image_data", "text_context"}
    assert set(part.loaded) == {"time_embed", *used}
    assert set(made.record["model"]["weights"]) == set(part.loaded)


@pytest.mark.parametrize("name", ["n", "sampler", "eta", "latents", "noise", "start"])
def test_nothing_in_an_edit_is_random(vd, name):
    with pytest.raises(TypeError, match=f"edit has no option {name}: choose from"):
        edit(vd, drawing(0), SOURCE, TARGET, **{name: 1}, **QUIET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": ""}, "prompt is empty"),
        ({"source": ["a", "b"], "images": [drawing(0)] * 3}, "3 images and 2 texts"),
        ({"feather": 10**10}, "feather is 10000000000: give a whole number from 0 to 512"),
        ({"mask": [None]}, "picture is of type list"),
        ({"iterations": 0}, "iterations is 0"),
        ({"feather": -1}, "feather is -1"),
        ({"fidelity": 2}, "fidelity is 2"),
        ({"mask": torch.full((4, 4), -1.0)}, "mask has values"),
        ({"images": Context("image", torch.ones(1, 5, 16))}, "pictures themselves"),
    ],
)
def test_bad_input_of_edit(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    given = {"images": drawing(0), "source": SOURCE, "target": TARGET, **QUIET} | given
    with pytest.raises(ValueError, match=message):
        edit(vd, **given)


# ------------------------------------------------------------------ latent edit


def test_what_is_removed_is_gone_and_nothing_else():
    g = torch.Generator().manual_seed(0)
    z, direction = torch.randn(3, 8, generator=g), 5 * torch.randn(1, 8, generator=g)
    left = without(z, direction)
    assert torch.allclose(left @ direction[0], torch.zeros(3), atol=1e-5)
    assert torch.allclose(without(left, direction), left, atol=1e-6)
    lost = z - left
    assert torch.linalg.matrix_rank(torch.cat([lost, direction]), atol=1e-4) == 1
    assert without(z, None) is z


@torch.no_grad()
def test_latent_edit_written_out(vd):
    remove, add, s = "a circle", "a star", 0.4
    context = vd.image_context([drawing(0)])
    timesteps = vd.schedule.timesteps(4)
    x = SampleNoise([6]).normal(vd.latent_shape("text"))
    for step in ddim(vd.guided([(context, 1.0)], "text", 1.5), x, vd.schedule, timesteps):
        z = step.x
    u = vd.encode_text([remove])
    u = u / u.norm()
    edited = z - (z @ u.T) * u + vd.encode_text([add])
    (before,), (caption,) = (vd.decode_text(latent, temperature=0) for latent in (z, edited))
    short = caption
    while True:
        try:
            tokens = [vd.text_context([text]).tokens for text in (short, add)]
            break
        except ValueError:
            short = short.rsplit(maxsplit=1)[0]
    local = top_components(context.tokens[:, 1:], 2)
    mix = [(Context("text", torch.cat(tokens, dim=1)), s), (Context("image", local), 1 - s)]
    x = SampleNoise([6]).normal(vd.latent_shape("image"))
    for step in ddim(vd.guided(mix, "image", s * 2 + (1 - s) * 1.5), x, vd.schedule, timesteps):
        x = step.x
    made = latent_edit(vd, drawing(0), remove, add, strength=s, rank=2, tries=0, seed=6, **QUIET)
    assert made.record["samples"][0]["found"] == {"caption": before, "edited_caption": caption}
    assert same(made.images, to_pil(vd.decode_image(x)))


def test_without_an_edit_the_caption_is_that_of_the_flow(vd):
    """Adding E(add) alone moves the latent; before that it is what i2t samples."""
    made = latent_edit(vd, drawing(0), add="a star", n=2, seed=6, **QUIET)
    said = image_to_text(vd, drawing(0), n=2, seed=6, temperature=0, **QUIET)
    assert [sample["found"]["caption"] for sample in made.record["samples"]] == said.texts


@pytest.mark.parametrize(
    ("text", "remove", "add", "after"),
    [
        ("a red circle left of a Red ring", "red", "blue", "a blue circle left of a blue ring"),
        ("a bored cat on red", "red", "blue", "a bored cat on blue"),
        ("a red circle", "a red", "", "circle"),
        ("a red circle", "green", "blue", None),
        ("red", "red", "", None),
    ],
)
def test_words_are_exchanged_where_a_text_says_them(text, remove, add, after):
    assert exchanged(text, remove, add) == after


def test_an_exchange_keeps_the_rest_of_what_is_said():
    """By the embedded model, whose texts say something."""
    picture = "assets/pictures/black-heart.png"
    made = latent_edit(load("vd-mini"), picture, "black", "red", seed=6, steps=10, **QUIET)
    found = made.record["samples"][0]["found"]
    assert "black heart" in found["caption"] and "red heart" in found["edited_caption"]
    before, after = (Scene.attributes(parse(text)) for text in found.values())
    assert {key for key in before if before[key] != after[key]} == {"color1"}


def test_latent_edits_batches_and_records(vd, tmp_path):
    pictures = [drawing(0), drawing(1)]
    options = {"remove": "a circle", "n": 2, "seed": 6, **QUIET}
    whole = latent_edit(vd, pictures, **options)
    small = latent_edit(vd, pictures, batch_size=3, **options)
    assert same(whole.images, small.images)
    path = save(whole, tmp_path)[2]
    record = read_record(path)
    assert path.parent.name == "latent-edit"
    expected = {"remove": "a circle", "add": "", "strength": 0.67, "rank": 10, "seed": 8}
    assert record.items() >= expected.items()
    again = latent_edit(vd, pictures[1], remove="a circle", seed=8, **QUIET)
    assert same(again.images, whole.images[2:3])


def test_latent_edit_records_the_scales_it_used(vd):
    """That of pictures leads the text latents, too, so it is used at any strength."""
    for s, expected in ((0, (None, 1.5)), (0.5, (2.0, 1.5)), (1, (2.0, 1.5))):
        made = latent_edit(vd, drawing(0), add="a star", strength=s, seed=6, steps=2, **QUIET)
        record = made.record_of(0)
        assert (record["scale_text"], record["scale_image"]) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to remove or to add"),
        ({"remove": "red " * 100}, "limit is 32"),
        ({"add": 3}, "prompt is of type int"),
        ({"add": "a", "strength": 2}, "strength is 2"),
        ({"add": "a", "rank": 0}, "rank is 0"),
        ({"add": "a", "images": []}, "no picture"),
    ],
)
def test_bad_input_of_latent_edit(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        latent_edit(vd, **({"images": drawing(0), **QUIET} | given))
