"""What is encoded and given back conditions, or is started from, as if it were encoded anew."""

from pathlib import Path

import pytest
import torch

from analysis.modes import encode, image_variation, text_to_image, text_variation
from analysis.modes.decoding import decoded
from analysis.results import read, save
from lib.checkpoints import load
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
QUIET = {"progress": False}


def test_contexts_are_those_of_the_model(vd):
    made = encode(vd, [A, B], **QUIET)
    assert torch.allclose(made.tensors, vd.text_context([A, B]).tokens, atol=1e-5)
    made = encode(vd, [drawing(0), drawing(1)], batch_size=1, **QUIET)
    tokens = vd.image_context([drawing(0), drawing(1)]).tokens
    assert torch.allclose(made.tensors, tokens, atol=1e-5)


def test_latents_are_those_of_the_model(vd):
    made = encode(vd, [A, B], what="latents", **QUIET)
    assert torch.allclose(made.tensors, vd.encode_text([A, B]), atol=1e-5)
    made = encode(vd, drawing(0), what="latents", **QUIET)
    assert torch.allclose(made.tensors, vd.encode_image([drawing(0)]), atol=1e-5)


def test_saved_and_given_back_it_is_the_same_picture(vd, tmp_path, picture_files):
    options = {"seed": 5, "steps": 2, **QUIET}
    paths = save(encode(vd, picture_files, **QUIET), tmp_path)
    plain = image_variation(vd, picture_files, **options)
    assert same(image_variation(vd, context=paths, **options).images, plain.images)
    assert [path.parent.name for path in paths] == ["encode", "encode"]
    paths = save(encode(vd, picture_files, what="latents", **QUIET), tmp_path)
    options |= {"fidelity": 0.5}
    plain = text_to_image(vd, [A, B], start=picture_files, **options)
    assert same(text_to_image(vd, [A, B], start=paths, **options).images, plain.images)
    paths = save(encode(vd, [A], what="latents", **QUIET), tmp_path)
    plain = text_variation(vd, A, temperature=0, **options)
    again = text_variation(vd, A, start=paths, temperature=0, **options)
    assert again.texts == plain.texts


def test_encoded_latents_are_decoded_like_any_others(vd, tmp_path):
    paths = save(encode(vd, [A, B], what="latents", **QUIET), tmp_path)
    texts = decoded(vd, read(paths)).texts
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    picture = decoded(vd, encode(vd, drawing(0), what="latents", **QUIET))
    plain = image_variation(vd, drawing(0), fidelity=1, seed=1, **QUIET)
    assert same(picture.images, plain.images)


def test_it_reads_only_what_it_needs_and_records_it(model_folder):
    for inputs, what, name in (
        (A, "context", "clip_text"),
        (drawing(0), "context", "clip_vision"),
        (A, "latents", "text_encoder"),
        (drawing(0), "latents", "image_encoder"),
    ):
        part = load(model_folder)
        record = encode(part, inputs, what=what, **QUIET).record_of(0)
        assert set(part.loaded) == set(record["model"]["weights"]) == {name}
        assert (record["mode"], record["output"], record["seed"]) == ("encode", what, 0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "prompt is empty"),
        ([], "no picture|no prompt"),
        (Path("no.png"), "There is no file no.png"),
        ("red " * 100, "limit is 32"),
    ],
)
def test_bad_input(vd, inputs, message):
    with pytest.raises(ValueError, match=message):
        encode(vd, inputs, **QUIET)
    with pytest.raises(ValueError, match="a context already"):
        encode(vd, vd.text_context([A]), **QUIET)
    with pytest.raises(ValueError, match="what is 'tokens': choose context or latents"):
        encode(vd, A, what="tokens", **QUIET)
