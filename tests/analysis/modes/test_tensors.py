"""Contexts and latents from elsewhere: every form gives the same, anything else one sentence."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.modes import text_to_image
from analysis.modes.tensors import context_of, latents_of
from lib.model import Context

X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
"""Image contexts of three samples: the tiny model has 5 tokens of 16."""
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def write(path, **tensors):
    """A file of any of the forms that people have."""
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    elif path.suffix == ".npy":
        np.save(path, next(iter(tensors.values())).numpy())
    else:
        bare = len(tensors) == 1 and path.suffix == ".pt"
        torch.save(next(iter(tensors.values())) if bare else tensors, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.npy", "a.npz", "a.pt", "a.pth", "a.NPY"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_files_of_every_form_are_the_same_context(vd, tmp_path, name, dtype):
    path = write(tmp_path / name.lower(), x=X.to(dtype)).rename(tmp_path / name)
    for given in (path, str(path), [path]):
        context = context_of(vd, given, "image")
        assert (context.kind, context.tokens.dtype) == ("image", torch.float32)
        assert torch.allclose(context.tokens, X, atol=2e-3)


def test_objects_of_every_form_are_the_same_context(vd):
    for given in (X, X.numpy(), X.double(), Context("image", X), X.clone().requires_grad_()):
        context = context_of(vd, given, "image")
        assert torch.equal(context.tokens, X) and not context.tokens.requires_grad
    assert torch.equal(context_of(vd, X[0], "image").tokens, X[:1])
    turned = X.permute(1, 0, 2).numpy().transpose(1, 0, 2)  # not contiguous in memory
    assert torch.equal(context_of(vd, turned, "image").tokens, X)


def test_the_named_tensor_of_several_and_several_files(vd, tmp_path):
    for name in ("a.safetensors", "a.npz", "a.pt"):
        path = write(tmp_path / name, context=X, notes=torch.zeros(1))
        assert torch.equal(context_of(vd, path, "image").tokens, X)
    parts = [write(tmp_path / f"{k}.npy", x=X[k] if k else X[:1]) for k in range(3)]
    assert torch.equal(context_of(vd, parts, "image").tokens, X)


def test_latents_of_every_form(tmp_path):
    shape = LATENTS.shape[1:]
    files = [write(tmp_path / f"x.{end}", latents=LATENTS) for end in ("npy", "npz", "pt")]
    for given in (LATENTS, LATENTS.numpy(), *files):
        assert torch.equal(latents_of(given, shape, 2), LATENTS)
    assert torch.equal(latents_of(LATENTS[0], shape, 3), LATENTS[:1].expand(3, *shape))
    parts = [write(tmp_path / f"{k}.npy", x=LATENTS[k]) for k in (0, 1)]
    assert torch.equal(latents_of(parts, shape, 2), LATENTS)
    text = torch.ones(8)
    assert latents_of(text, (8,), 1).shape == (1, 8)


class Code:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 16), r"shape \(3, 16\): give \(samples, 5, 16\), one matrix"),  # pooled
        (torch.zeros(16), r"shape \(16,\): give \(samples, 5, 16\)"),
        (torch.zeros(1, 5, 15), r"shape \(1, 5, 15\): give"),
        (torch.zeros(1, 4, 16), r"shape \(1, 4, 16\): give"),
        (torch.zeros(1, 10, 16), r"10 tokens a sample: give \(samples, 5, 16\)"),
        (torch.zeros(0, 5, 16), r"shape \(0, 5, 16\)"),
        (torch.zeros(1, 1, 5, 16), r"shape \(1, 1, 5, 16\)"),
        (torch.full((1, 5, 16), torch.nan), "NaN or infinite"),
        (torch.zeros(1, 5, 16, dtype=torch.int64), "int64 numbers: give floating-point"),
        (np.zeros((1, 5, 16), np.uint8), "uint8 numbers: give floating-point"),
        (Context("text", torch.zeros(1, 32, 16)), "of kind 'text': this takes 'image'"),
        (5, "context is a int: give a Context, a tensor, an array, or files"),
        ([], "context is a list: give"),
        ("no.npy", "There is no file no.npy: give the path of context"),
        ("picture.png", r"cannot hold context: give a file of .safetensors, .npy, .npz, .pt, .pth"),
    ],
)
def test_what_is_no_context_is_one_sentence(vd, given, message):
    with pytest.raises(ValueError, match=message) as error:
        context_of(vd, given, "image")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"hello", "is damaged, or holds more than numbers"),
        ("a.npy", "objects", "is damaged, or holds more than numbers"),
        ("a.npz", b"PK", "is damaged, or holds more than numbers"),
        ("a.npz", "objects", "is damaged, or holds more than numbers"),
        ("a.npz", "changed", "is damaged, or holds more than numbers"),
        ("a.pt", b"hello", "is damaged, or holds more than numbers"),
        ("a.pt", pickle.dumps(Code()), "is damaged, or holds more than numbers"),
        ("a.pt", "code", "is damaged, or holds more than numbers"),
        ("a.safetensors", b"hello", "damaged|safetensors"),
        ("a.npz", {"b": X, "c": X}, r"holds 2 tensors \(b, c\), none of them 'context'"),
        ("a.pth", {"b": X, "c": X}, r"holds 2 tensors \(b, c\), none of them 'context'"),
        ("a.pt", "words", "holds 0 tensors"),
    ],
)
def test_files_that_hold_none_are_one_sentence(vd, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        write(path, **content)
    elif content == "objects":
        keep = np.savez if name.endswith("z") else np.save
        keep(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif content == "changed":  # is found out when it is read, long after it was opened
        data = write(path, context=X).read_bytes()
        at = data.index(X.numpy().tobytes())
        path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    else:
        torch.save({"a": Code()} if content == "code" else {"a": "words"}, path)
    with pytest.raises(ValueError, match=message) as error:
        context_of(vd, path, "image")
    assert len(str(error.value).splitlines()) == 1
    assert "harm" not in capsys.readouterr().out


def test_files_of_different_shapes_do_not_go_together(vd, tmp_path):
    files = [write(tmp_path / f"{n}.npy", x=torch.zeros(1, n, 16)) for n in (5, 6)]
    with pytest.raises(ValueError, match=r"\(5, 16\) and \(6, 16\): give files of one shape"):
        context_of(vd, files, "image")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 4, 8, 8), r"got shape \(3, 4, 8, 8\), need \(2, 4, 8, 8\): one a sample"),
        (torch.zeros(2, 4, 8, 9), "got shape"),
        (torch.zeros(2, 4, 8, 8).int(), "int32 numbers"),
        (torch.full((2, 4, 8, 8), torch.inf), "latents hold NaN or infinite"),
    ],
)
def test_what_are_no_latents_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        latents_of(given, (4, 8, 8), 2)


def test_a_mode_takes_them_in_every_form(vd, tmp_path):
    options = {"seed": [8, 3], "steps": 2, "output": "latents", "progress": False}
    context = vd.text_context(["a ring", "a star"]).tokens
    plain = text_to_image(vd, ["a ring", "a star"], **options).tensors
    file = write(tmp_path / "c.npz", context=context)
    noise = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (8, 3)]
    )
    for given in (context, context.numpy(), file, Context("text", context)):
        made = text_to_image(vd, context=given, latents=noise.numpy(), **options)
        assert torch.allclose(made.tensors, plain, atol=1e-4)
        digests = [made.record_of(k)["text_context"]["sha256"] for k in (0, 1)]
        assert digests[0] != digests[1]
