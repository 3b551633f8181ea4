"""Tensors and latents instead of pictures and texts: the same results, there and back."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.modes import focus, image_to_text, image_variation, text_to_image, text_variation
from analysis.modes.decoding import decode, decoded
from analysis.modes.edit import edit, latent_edit
from analysis.modes.interpolate import interpolate
from analysis.modes.mix import blend, describe, dual_guided
from analysis.results.outputs import finished, identity, read, read_record, save
from lib.checkpoints import load
from lib.images import to_pil
from lib.noise import SampleNoise
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
MODES = {
    "t2i": lambda vd, **how: text_to_image(vd, [A, B], eta=0.5, **how),
    "i2i": lambda vd, **how: image_variation(vd, [drawing(0), drawing(1)], fidelity=0.3, **how),
    "i2t": lambda vd, **how: image_to_text(vd, [drawing(0), drawing(1)], eta=0.5, **how),
    "t2t": lambda vd, **how: text_variation(vd, [A, B], fidelity=0.3, **how),
    "dual": lambda vd, **how: dual_guided(vd, drawing(0), A, strength=[0.2, 0.7], **how),
    "describe": lambda vd, **how: describe(vd, drawing(0), A, strength=[0.2, 0.7], **how),
    "focus": lambda vd, **how: focus(vd, drawing(0), levels=[0, 1], **how),
    "blend": lambda vd, **how: blend(vd, [drawing(0), drawing(1)], n=2, **how),
    "interpolate": lambda vd, **how: interpolate(vd, A, B, frames=3, makes="text", **how),
    "edit": lambda vd, **how: edit(vd, [drawing(0), drawing(1)], A, B, **how),
    "latent-edit": lambda vd, **how: latent_edit(vd, drawing(0), add="star", n=2, **how),
}
QUIET = {"progress": False}


@pytest.fixture(params=list(MODES), scope="module")
def made(vd, request):
    """A mode's result in each output."""
    return {
        output: MODES[request.param](vd, seed=5, output=output, batch_size=2, **QUIET)
        for output in ("pil", "tensor", "latents")
    }


def equal(a, b):
    return a.texts == b.texts and (same(a.images, b.images) if a.images else not b.images)


def test_tensors_are_the_pictures_and_texts(vd, made):
    pil, tensor = made["pil"], made["tensor"]
    assert len(pil) == len(tensor) == len(tensor.items) and tensor.seeds == pil.seeds
    assert not tensor.images and not tensor.texts
    if pil.images:
        assert tensor.tensors.dtype == torch.float32
        assert tensor.tensors.shape == (len(pil), 3, 16, 16)
        assert same(to_pil(tensor.tensors), pil.images)
        assert not torch.equal(tensor.tensors, (tensor.tensors * 255).round() / 255)
    else:
        assert tensor.tensors.dtype == torch.int64
        assert vd.tokenizers.gpt2_text(tensor.tensors) == pil.texts
        assert (tensor.tensors[:, 0] == vd.tokenizers.bos).all()


def test_latents_are_decoded_to_the_same(vd, made):
    latents = made["latents"]
    data = "image" if made["pil"].images else "text"
    assert latents.tensors.dtype == torch.float32
    assert latents.tensors.shape == (len(latents), *vd.latent_shape(data))
    pil = decoded(vd, latents)
    assert equal(pil, made["pil"])
    assert identity(pil.record_of(1)) == identity(made["pil"].record_of(1))
    tensor = decoded(vd, latents, "tensor")
    assert torch.allclose(tensor.tensors, made["tensor"].tensors, atol=1e-4)


def test_saved_and_read_again_nothing_is_lost(vd, made, tmp_path):
    for output in ("tensor", "latents"):
        paths = save(made[output], tmp_path)
        assert {path.suffix for path in paths} == {".safetensors"}
        again = read(paths)
        assert torch.equal(again.tensors, made[output].tensors)
        for k, path in enumerate(paths):
            record = read_record(path)
            assert record["output"] == output and record["file"] == path.name
            assert identity(again.record_of(k)) == identity(record)
            assert finished(tmp_path, again.mode)[identity(record)] == path
    assert equal(decoded(vd, read(paths)), made["pil"])
    save(decoded(vd, read(paths[0])), tmp_path)
    with pytest.raises(ValueError, match="read each kind by itself"):
        read([*paths, *save(made["tensor"][0], tmp_path)])


def test_texts_with_the_noise_of_the_released_code(vd):
    def make(output):
        options = {"seed": 5, "n": 3, "eta": 0.5, "noise": "official", "batch_size": 2, **QUIET}
        return image_to_text(vd, drawing(0), output=output, **options)

    assert decoded(vd, make("latents")).texts == make("pil").texts


def test_results_of_different_settings_are_decoded_together(vd, tmp_path):
    parts = [
        text_variation(
            vd, A, seed=s, steps=s, eta=0.1 * s, temperature=t, output="latents", **QUIET
        )
        for s, t in ((3, 0.5), (4, 1.5))
    ]
    paths = [path for part in parts for path in save(part, tmp_path)]
    texts = [decoded(vd, part).texts[0] for part in parts]
    assert decoded(vd, read(paths)).texts == texts


def test_latents_start_again_where_they_came_from(vd):
    """x_0 given as initial latents is left alone where no step is taken."""
    latents = text_to_image(vd, A, seed=5, output="latents", **QUIET).tensors
    job = image_variation.job(vd, drawing(0), seed=1, fidelity=1, latents=latents, output="latents")
    assert not torch.equal(job.result(False).tensors, latents)  # fidelity 1 is the input's latent
    assert torch.equal(job.result(False).tensors, vd.encode_image([drawing(0)]).cpu())
    noise = SampleNoise([5]).normal(vd.latent_shape("image"))
    again = text_to_image(vd, A, seed=9, latents=noise, output="latents", **QUIET)
    assert torch.allclose(again.tensors, latents, atol=1e-4)


def test_matched_colours_are_in_tensors_and_never_in_latents(vd, monkeypatch):
    options = {"seed": 5, "color_match": 0.3, **QUIET}
    pil = image_variation(vd, drawing(0), **options)
    tensor = image_variation(vd, drawing(0), output="tensor", **options)
    assert np.array_equal(np.asarray(to_pil(tensor.tensors)[0]), np.asarray(pil.images[0]))
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match="leave the colour match out"):
        image_variation(vd, drawing(0), output="latents", **options)


def test_how_tensors_are_shown(vd):
    made = text_to_image(vd, A, n=2, seed=5, output="latents", **QUIET)
    assert repr(made) == "Result(t2i: 2 tensors, seeds 5, 6)"
    assert made._repr_html_() is None
    with pytest.raises(ValueError, match=r"holds no pictures.*decode them"):
        made.sheet()


def test_what_cannot_be_decoded(vd, model_folder, tmp_path):
    made = text_to_image(vd, A, seed=5, output="latents", **QUIET)
    for bad, output in ((text_to_image(vd, A, **QUIET), "pil"), (made, "latents")):
        with pytest.raises(ValueError, match="from no other"):
            decoded(vd, bad, output)
    other = load(model_folder, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        for parameter in other.image_decoder.parameters():
            parameter.mul_(1.1)
    with pytest.raises(ValueError, match="decode them with the model that made them"):
        decoded(other, made)
    with pytest.raises(ValueError, match=r"give \(B, \*\(4, 8, 8\)\)"):
        decode(vd, "image", torch.zeros(1, 4, 8, 7))
    with pytest.raises(ValueError, match="output is 'numpy': choose pil or tensor or latents"):
        text_to_image(vd, A, output="numpy")
    (path,) = save(text_to_image(vd, A, seed=5, **QUIET), tmp_path)
    for bad, message in ((path, "holds no tensors"), ([], "no file to read")):
        with pytest.raises(ValueError, match=message):
            read(bad)
    (path,) = save(made, tmp_path)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(path.read_bytes())
    assert torch.equal(read(moved).tensors, made.tensors)  # the record is in it
    assert read_record(moved) == read_record(path.with_suffix(".json"))
    moved.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read(moved)
    save_file({"latents": made.tensors}, moved)
    with pytest.raises(ValueError, match="carries no record"):
        read(moved)
    with pytest.raises(ValueError, match="There is no"):
        read(tmp_path / "nothing.safetensors")
