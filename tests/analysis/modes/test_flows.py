"""The four flows on a model of random weights: what is asked for is what is computed."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.modes import image_to_text, image_variation, text_to_image, text_variation
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, denoise
from analysis.results.outputs import Result, read_record, save
from lib.checkpoints import load
from lib.components import build
from lib.config import FLOWS
from lib.fingerprints import fingerprint
from lib.images import to_pil
from lib.noise import SampleNoise
from lib.sampler import ddim
from tests.conftest import drawing

PROMPTS = ["a large red circle", "a tiny striped star on gray"]
MODES = {
    "t2i": (text_to_image, PROMPTS),
    "i2i": (image_variation, [drawing(0), drawing(1)]),
    "i2t": (image_to_text, [drawing(0), drawing(1)]),
    "t2t": (text_variation, PROMPTS),
}
QUIET = {"progress": False}


def same(a: Result, b: Result, exactly: bool = True) -> bool:
    """Equal samples; not exactly: up to what rounding may do to an 8-bit value."""
    if a.texts or b.texts:
        return a.texts == b.texts
    x, y = (np.stack([np.asarray(image, dtype=int) for image in r.images]) for r in (a, b))
    return x.shape == y.shape and int(np.abs(x - y).max()) <= (0 if exactly else 1)


@pytest.fixture(params=list(MODES))
def mode(request):
    return request.param


def test_same_seed_same_result_another_seed_another(vd, mode):
    function, inputs = MODES[mode]
    first, again = (function(vd, inputs[0], n=4, seed=3, **QUIET) for _ in range(2))
    assert same(first, again)
    assert first.seeds == [3, 4, 5, 6]
    other = function(vd, inputs[0], n=4, seed=30, **QUIET)
    assert not same(first, other, exactly=False)


def test_sample_is_the_same_alone_and_in_any_batch(vd, mode):
    function, inputs = MODES[mode]
    whole = function(vd, inputs, n=3, seed=5, **QUIET)
    assert len(whole) == 6
    small = function(vd, inputs, n=3, seed=5, batch_size=4, **QUIET)
    assert same(whole, small, exactly=False)
    for k in (0, 2, 4):
        alone = function(vd, inputs[k // 3], seed=5 + k, **QUIET)
        assert same(alone, whole[k], exactly=False)
        assert alone.record_of(0).keys() == whole.record_of(k).keys()


def test_a_record_is_enough_to_make_it_again(vd, mode, tmp_path):
    function, inputs = MODES[mode]
    options = {"steps": 5, "scale": 1.25, "eta": 0.5, "negative_prompt": "a heart"}
    options |= {"fidelity": 0.5} if mode in ("i2i", "t2t") else {}
    result = function(vd, inputs, n=2, seed=8, **options, **QUIET)
    record = read_record(save(result, tmp_path)[3])
    given = record.get("prompt", inputs[1])
    keys = ("seed", "steps", "scale", "sampler", "eta", "negative_prompt", *options)
    again = function(vd, given, **{key: record[key] for key in keys}, **QUIET)
    assert same(again, result[3], exactly=False)
    assert record["mode"] == mode
    assert record["model"]["name"] == "tiny"
    assert record["model"]["weights"]["time_embed"] == fingerprint(vd.time_embed)
    assert (record["dtype"], record["device"]) == ("float32", "cpu")
    assert {"python", "torch"} <= record["versions"].keys()


@torch.no_grad()
def test_text_to_image_written_out(vd):
    negative = vd.text_context(["a heart"])
    eps = vd.guided([(vd.text_context(PROMPTS[:1]), 1.0)], "image", 3.0, [negative])
    noise = SampleNoise([11])
    x = noise.normal(vd.latent_shape("image"))
    for step in ddim(eps, x, vd.schedule, vd.schedule.timesteps(10), 0.3, noise):
        x = step.x
    expected = to_pil(vd.decode_image(x))
    options = {"seed": 11, "steps": 10, "scale": 3, "negative_prompt": "a heart", "eta": 0.3}
    result = text_to_image(vd, PROMPTS[0], **options, **QUIET)
    assert same(result, Result("t2i", result.record, images=expected))


@torch.no_grad()
def test_fidelity_noises_to_the_timestep_it_starts_from(vd):
    start = vd.encode_image([drawing(0)])
    noise = SampleNoise([2])
    z = noise.normal(vd.latent_shape("image"))
    timesteps = vd.schedule.timesteps(10)[: int(10 * (1 - 0.7))]
    assert timesteps == [1, 101, 201]
    a = vd.schedule.alpha_bar[timesteps[-1]].item()
    eps = vd.guided([(vd.image_context([drawing(0)]), 1.0)], "image", vd.spec.scale_image)
    for step in ddim(eps, a**0.5 * start + (1 - a) ** 0.5 * z, vd.schedule, timesteps):
        x = step.x
    result = image_variation(vd, drawing(0), seed=2, steps=10, fidelity=0.7, **QUIET)
    assert same(
        result, Result("i2i", result.record, images=to_pil(vd.decode_image(x))), exactly=False
    )


@pytest.mark.parametrize("fidelity", [1, 0.999])  # the second leaves no step of four, either
def test_full_fidelity_is_the_input_as_the_vae_decodes_it(vd, fidelity):
    decoded = to_pil(vd.decode_image(vd.encode_image([drawing(0)])))[0]
    result = image_variation(vd, drawing(0), n=2, fidelity=fidelity, **QUIET)
    for image in result.images:
        assert np.abs(np.asarray(image, int) - np.asarray(decoded, int)).max() <= 1
    words = text_variation(vd, PROMPTS[0], fidelity=fidelity, temperature=0, **QUIET)
    assert words.texts == vd.decode_text(vd.encode_text(PROMPTS[:1]), temperature=0)


def test_no_step_means_nothing_is_denoised(vd):
    noise = SampleNoise([0])
    contexts = Conditions([(vd.text_context(PROMPTS[:1]), 1.0)])
    how = Settings(steps=4, scale=2.0, fidelity=1)
    assert list(denoise(vd, "image", contexts, noise, how, start=torch.zeros(1, 4, 8, 8))) == []


def test_color_match_puts_the_inputs_colours_on(vd):
    picture = Image.fromarray(np.full((9, 9, 3), (40, 90, 200), np.uint8))
    free, matched, kept = (
        image_variation(vd, picture, seed=1, color_match=match, **QUIET).images[0]
        for match in (None, 0, 1.0)
    )
    assert (np.asarray(matched) == (40, 90, 200)).all()
    assert kept.tobytes() == free.tobytes() != matched.tobytes()
    result = image_variation(
        vd, drawing(0), seed=1, color_match=0.5, color_method="histogram", **QUIET
    )
    assert (result.record["color_match"], result.record["color_method"]) == (0.5, "histogram")


def test_precomputed_contexts_and_latents(vd, mode):
    function, inputs = MODES[mode]
    data, kind = FLOWS[mode]
    encode = vd.text_context if kind == "text" else vd.image_context
    plain = function(vd, inputs, n=2, seed=4, **QUIET)
    context = encode(inputs)
    given = function(vd, None, context=context, n=2, seed=4, **QUIET)
    assert same(plain, given, exactly=False)
    assert given.record["samples"][0][f"{kind}_context"].keys() == {"kind", "sha256"}
    latents = SampleNoise([4, 5, 6, 7]).normal(vd.latent_shape(data))
    given = function(vd, inputs, n=2, seed=4, latents=latents, **QUIET)
    assert same(plain, given, exactly=False)
    other = function(vd, inputs, n=2, seed=4, latents=latents.flip(0), **QUIET)
    assert not same(plain, other, exactly=False)
    assert given.record_of(0)["latents_sha256"] == other.record_of(3)["latents_sha256"]


def test_negative_prompt_steers_every_flow(vd, mode):
    function, inputs = MODES[mode]
    options = {"n": 4, "seed": 4, "scale": 4, **QUIET}
    plain = function(vd, inputs[0], **options)
    steered = function(vd, inputs[0], negative_prompt="a heart", **options)
    assert not same(plain, steered, exactly=False)
    assert not same(plain, function(vd, inputs[1], **options), exactly=False)
    for empty in ("", " ", None):
        assert same(plain, function(vd, inputs[0], negative_prompt=empty, **options))
    assert plain.record_of(0)["negative_prompt"] is None


def test_temperature_zero_reads_a_latent_in_one_way(vd):
    latents = torch.zeros(3, *vd.latent_shape("text"))
    options = {"n": 3, "latents": latents, "temperature": 0, **QUIET}
    assert len(set(image_to_text(vd, drawing(0), seed=1, **options).texts)) == 1


def test_defaults_are_the_models_and_a_drawn_seed_is_recorded(vd, mode):
    function, inputs = MODES[mode]
    result = function(vd, inputs[0], **QUIET)
    scale = 2.0 if FLOWS[mode][1] == "text" else 1.5
    assert (result.record["steps"], result.record["scale"]) == (4, scale)
    again = function(vd, inputs[0], seed=result.seeds[0], **QUIET)
    assert same(result, again)


def test_a_flow_reads_only_its_components(model_folder, mode):
    function, inputs = MODES[mode]
    part = load(model_folder)
    assert part.loaded == ()
    result = function(part, inputs[0], **QUIET)
    used = set(part.loaded)
    assert set(result.record["model"]["weights"]) == used < set(part.available)
    if mode in ("i2i", "t2t"):
        result = function(part, inputs[0], fidelity=0.5, **QUIET)
        encoder = f"{FLOWS[mode][0]}_encoder"
        assert set(result.record["model"]["weights"]) == set(part.loaded) == {*used, encoder}


def test_progress_counts_every_step_of_every_sample(vd, capsys):
    text_to_image(vd, PROMPTS, n=2, seed=0, batch_size=3)
    assert "16/16" in capsys.readouterr().err
    image_variation(vd, drawing(0), seed=0, fidelity=0.5)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize("mode", list(MODES))
def test_an_unknown_option_is_named_with_those_there_are(vd, mode):
    function, inputs = MODES[mode]
    told = (
        rf"^{function.__name__} has no option stesp: choose from .*n, seed, steps, spacing, .*\.$"
    )
    with pytest.raises(TypeError, match=told):
        function(vd, inputs[0], stesp=3, **QUIET)


def test_sheet_has_a_row_for_each_input(vd):
    result = text_to_image(vd, PROMPTS, n=3, seed=0, steps=1, **QUIET)
    sheet = result.sheet()
    assert sheet.width > sheet.height
    assert result.sheet(columns=1, labels=None).height > sheet.height


def test_overflow_is_said_not_saved(vd):
    with pytest.raises(FloatingPointError, match="Sampling left the range"):
        huge = torch.full((1, 4, 8, 8), 3e38)
        text_to_image(vd, "a ring", latents=huge, scale=100, **QUIET)


def test_fingerprint_tells_weights_apart_in_any_precision(vd):
    torch.manual_seed(0)
    one, two = (build(vd.spec, "time_embed").half() for _ in range(2))
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one) == fingerprint(one.float())


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler", "unipc"])
def test_samplers_in_every_flow(vd, mode, sampler):
    function, inputs = MODES[mode]
    options = {"seed": 3, "steps": 5, "scale": 4, **QUIET}
    made = function(vd, inputs[0], n=2, sampler=sampler, **options)
    assert made.record["sampler"] == sampler
    assert same(made, function(vd, inputs[0], n=2, sampler=sampler, **options))
    if mode == "t2i":  # of equal steps, euler is ddim
        plain = function(vd, inputs[0], n=2, **options)
        assert same(made, plain, exactly=False) == (sampler == "euler")


def test_guidance_only_in_an_interval(vd):
    options = {"seed": 3, "steps": 5, **QUIET}
    plain = text_to_image(vd, PROMPTS[0], scale=1, **options)
    guided = text_to_image(vd, PROMPTS[0], scale=4, **options)
    some = text_to_image(vd, PROMPTS[0], scale=4, interval=(200, 700), **options)
    never, always = (
        text_to_image(vd, PROMPTS[0], scale=4, interval=interval, **options)
        for interval in ((998, 999), (0, np.int64(999)))
    )
    assert same(never, plain, exactly=False)
    assert same(always, guided, exactly=False)
    assert not same(some, plain, exactly=False)
    assert not same(some, guided, exactly=False)
    assert (some.record["interval"], guided.record["interval"]) == ([200, 700], None)
