"""The four flows on a model of random weights: what is asked for is what is computed."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.modes import image_to_text, image_variation, text_to_image, text_variation
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, denoise
from analysis.results.outputs import Result, identity, read_record, save
from data.pictures import Picture, open_picture, picture_files, pictures
from lib.checkpoints import load
from lib.components import build
from lib.config import FLOWS
from lib.fingerprints import fingerprint
from lib.images import to_pil
from lib.model import Context
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": ""}, "prompt is empty"),
        ({"texts": ["a", " \n"]}, "Prompt 2 of 2 is empty"),
        ({"texts": []}, "no prompt"),
        ({"texts": None}, "no prompt"),
        ({"texts": [3]}, "prompt is of type int: give a string"),
        ({"texts": 3}, "prompt is of type int: give one"),
        ({"texts": "a \ud800"}, "not valid Unicode"),
        ({"texts": "red " * 100}, r"tokens.*limit is 32.*shorten"),
        ({"negative_prompt": "red " * 100}, "limit is 32"),
        ({"negative_prompt": 3}, "prompts is of type int: give one, or a list"),
        ({"negative_prompt": ["a", 3]}, "Negative prompt 2 of 2 is of type int"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 for 1 inputs"),
        ({"n": 0}, "n is 0: give a whole number from 1 to 100000"),
        ({"n": 100_000_000}, "n is 100000000: give a whole number from 1 to 100000"),
        ({"n": 2.5}, "n is 2.5"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps is 1000: give a whole number from 1 to 999"),
        ({"steps": 501, "spacing": "released"}, "choose 1 to 500"),
        ({"spacing": "even"}, "spacing is 'even': choose exact or released"),
        ({"steps": "50"}, "steps is '50'"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": -1}, "scale is -1"),
        ({"scale": 1e10}, "scale is 10000000000.0: give a number from 0 to 100"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"eta": 1.5}, "eta is 1.5"),
        (
            {"sampler": "plms"},
            "sampler is 'plms': choose ddim or .* or unipc",
        ),
        ({"sampler": "unipc", "eta": 0.5}, "unipc is deterministic"),
        ({"sampler": ["ddim"]}, r"sampler is \['ddim'\]"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63 - 1, "n": 2}, "seed is"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"latents": torch.zeros(1, 4, 8, 7)}, r"got shape \(1, 4, 8, 7\), need \(1, 4, 8, 8\)"),
        ({"latents": 0.0}, "latents is a float: give"),
        ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "latents hold NaN"),
        ({"start": drawing(0)}, "give fidelity > 0, too"),
        ({"fidelity": 0.5}, "there is nothing to start from: give start="),
        ({"context": Context("image", torch.zeros(1, 5, 16))}, "kind 'image'"),
        ({"context": Context("text", torch.zeros(2, 32, 16))}, "2 samples for 1 inputs"),
        ({"context": Context("text", torch.zeros(1, 32, 15))}, r"samples, 32, 16\)"),
        ({"context": Context("text", torch.full((1, 32, 16), torch.inf))}, "infinite"),
    ],
)
def test_bad_input_of_a_prompt(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "eps", None)  # found before any compute
    with pytest.raises(ValueError, match=message):
        text_to_image(vd, **({"texts": "a red circle", **QUIET} | given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fidelity": 1.1}, "fidelity is 1.1"),
        ({"fidelity": "high"}, "fidelity is 'high'"),
        ({"color_match": 2}, "color_match is 2"),
        ({"color_match": 1, "color_method": "best"}, "color_method is 'best'"),
        ({"images": []}, "no picture"),
        ({"images": 5}, "images is of type int"),
        ({"images": [5]}, "A picture is of type int"),
        ({"images": torch.full((1, 3, 4, 4), 2.0)}, "give them in"),
        (
            {"images": None, "context": Context("image", torch.ones(1, 5, 16)), "fidelity": 0.5},
            "there is nothing to start from",
        ),
    ],
)
def test_bad_input_of_a_picture(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "eps", None)
    with pytest.raises(ValueError, match=message):
        image_variation(vd, **({"images": drawing(0), **QUIET} | given))


def test_bad_temperature(vd):
    with pytest.raises(ValueError, match="temperature is -1"):
        image_to_text(vd, drawing(0), temperature=-1)


def test_overflow_is_said_not_saved(vd):
    with pytest.raises(FloatingPointError, match="Sampling left the range"):
        huge = torch.full((1, 4, 8, 8), 3e38)
        text_to_image(vd, "a ring", latents=huge, scale=100, **QUIET)


def bad_files(folder):
    good = folder / "good.png"
    drawing(0, (64, 64)).save(good)
    files = {
        "missing.png": (None, "no file"),
        "folder": (None, "is a folder"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"hello", "not a picture"),
        "cut.png": (good.read_bytes()[:3000], "damaged"),
        "broken.png": (good.read_bytes()[:100] + b"x" * 5000, "damaged"),
    }
    (folder / "folder").mkdir()
    for name, (content, _) in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {name: message for name, (_, message) in files.items()}


@pytest.mark.parametrize(
    "name", ["missing.png", "folder", "empty.png", "text.png", "cut.png", "broken.png"]
)
def test_bad_picture_files_by_name(vd, tmp_path, name):
    message = bad_files(tmp_path)[name]
    for given in (tmp_path / name, [str(tmp_path / "good.png"), str(tmp_path / name)]):
        with pytest.raises(ValueError, match=message) as error:
            image_variation(vd, given, **QUIET)
        assert name in str(error.value)
        assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("image_mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_pictures_of_any_mode_and_size(vd, image_mode, size):
    image = Image.new(image_mode, size)
    result = image_variation(vd, image, seed=0, steps=1, fidelity=0.0, color_match=0.5, **QUIET)
    assert result.images[0].size == (16, 16)
    assert len(image_to_text(vd, image, seed=0, steps=1, **QUIET)) == 1


def test_files_tensors_and_objects_are_the_same_picture(vd, tmp_path):
    image = drawing(0, (16, 16))
    image.save(tmp_path / "x.png")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    results = [
        image_variation(vd, given, seed=0, **QUIET)
        for given in (image, tmp_path / "x.png", str(tmp_path / "x.png"), tensor)
    ]
    for result in results[1:]:
        assert same(results[0], result)
    assert results[1].record_of(0)["input"]["file"] == "x.png"
    assert open_picture(tmp_path / "x.png").tobytes() == image.tobytes()


def test_a_file_that_changes_in_between_is_noticed(tmp_path):
    drawing(0).save(tmp_path / "x.png")
    (picture,) = pictures(tmp_path / "x.png")
    assert picture.open().size == (20, 14)
    drawing(1).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="has changed"):
        picture.open()
    assert Picture.of(picture) is picture


def test_folders_are_expanded_sorted(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "x").touch()
    found = picture_files([tmp_path / "z.png", tmp_path])
    assert [path.name for path in found] == ["z.png", "a.JPG", "b.png"]
    with pytest.raises(ValueError, match="holds no pictures"):
        picture_files([tmp_path / "sub.png"])


def test_numbers_of_any_type_ask_for_the_same(vd):
    ours = text_to_image.job(vd, "a ring", seed=3, steps=4, scale=3)
    theirs = text_to_image.job(
        vd, "a ring", seed=np.int64(3), steps=np.int32(4), scale=np.float32(3), n=np.int8(1)
    )
    assert identity(ours.record_of(0)) == identity(theirs.record_of(0))


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


@pytest.mark.parametrize("interval", [(1,), (1, 2, 3), "ab", 5, (9, 3), (-1, 5), (0, None)])
def test_bad_intervals(vd, interval):
    with pytest.raises(ValueError, match="interval is"):
        text_to_image(vd, PROMPTS[0], interval=interval, **QUIET)
