"""Damaged files, names that are nothing, and the hub: one clear sentence each."""

import errno
import os
import pickle
import resource
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib.checkpoints import hub, load, sources, tensor_files
from lib.checkpoints.tensor_files import kept_tensors, open_tensors, save_tensors
from lib.config import COMPONENTS
from lib.files import write_atomic
from tests.data.test_arrays import little_room
from tests.lib.small_model import SPEC, edited, in_layout, official, same

# ---------------------------------------------------------------------- damage


def test_a_full_disk_is_what_the_system_says(tmp_path):
    path, tensors = tmp_path / "x.safetensors", {"a": torch.arange(4000.0).reshape(2, -1).T}
    with little_room(2**13), pytest.raises(OSError) as error:
        save_tensors(tensors, path)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(path)
    with pytest.raises(OSError):
        save_tensors(tensors, tmp_path / "none" / "x.safetensors")


def test_what_was_kept_is_whole_or_none(tmp_path):
    path, tensors = tmp_path / "x.safetensors", {"a": torch.arange(6).reshape(2, 3).T}
    assert kept_tensors(path) is None
    save_tensors(tensors, path, {"what": "numbers"})
    assert torch.equal(kept_tensors(path)["a"], tensors["a"])
    good = path.read_bytes()
    assert b'"what":"numbers"' in good
    for damaged in (b"", good[:6], good[:-1], b"[" * 9999):
        write_atomic(path, damaged)
        assert kept_tensors(path) is None


def test_damaged_files_are_one_sentence(tmp_path):
    whole = edited(tmp_path / "whole.safetensors").read_bytes()
    torch.save({k: v for k, v in official().items() if "data_blocks" in k}, tmp_path / "whole.pth")
    pickled = (tmp_path / "whole.pth").read_bytes()
    torch.save(in_layout("kl-f8"), tmp_path / "kl.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "kl.pth").read_bytes()
    cases = {
        "cut.safetensors": whole[: len(whole) // 2],
        "head.safetensors": whole[:6],
        "text.safetensors": b"<html>not found</html>",
        "empty.safetensors": b"",
        "cut.pth": pickled[: len(pickled) // 2],
        "text.pth": b"<html>not found</html>",
        "empty.pth": b"",
        "numbers.pth": pickle.dumps([1, 2], protocol=2),
        "old.pth": old[:28],
        "old-half.pth": old[: len(old) // 2],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            load(tmp_path / name, spec=SPEC)
        assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"diffuser.image.x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth holds more than tensors"):
        load(tmp_path / "bomb.pth", spec=SPEC)
    assert not (tmp_path / "harm").exists()


def test_a_zip_that_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"z\.pth is damaged"):
        open_tensors(tmp_path / "z.pth")


def test_an_archive_that_would_grow_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match=r"z\.pth is compressed"):
        open_tensors(tmp_path / "z.pth")


def test_a_git_lfs_pointer_says_so(tmp_path):
    (tmp_path / "p.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        open_tensors(tmp_path / "p.pth")


def test_files_that_are_not_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is not a file of weights"):
        load(tmp_path / "notes.txt")
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint of Versatile Diffusion.*conv"):
        load(tmp_path / "other.safetensors")
    for values in ({"diffuser.image.x": 3}, {1: torch.zeros(2)}, [torch.zeros(2)]):
        torch.save(values, tmp_path / "n.pth")
        with pytest.raises(ValueError, match="tensors by name"):
            load(tmp_path / "n.pth")


def test_names_and_folders_that_are_no_model(tmp_path, monkeypatch):
    for name in ("no-such-model", "x" * 5000, "a\0b", "a\nb"):
        with pytest.raises(ValueError, match=r"There is no model .*: give"):
            load(name)
    with pytest.raises(ValueError, match="not a model folder"):
        load(tmp_path)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    with pytest.raises(ValueError, match="vd-mini are not in"):
        load("vd-mini")


# ---------------------------------------------------------------------- the hub


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_connection(repo, path, **options):
        raise LocalEntryNotFoundError(f"{repo}/{path}: no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_connection)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("image_decoder", "kl-f8.pth"),
        ("text_decoder", "optimus-vae.pth"),
        ("clip_text", "clip-vit-large-patch14/model.safetensors"),
        ("time_embed", "vd-four-flow-v1-0-fp16.pth"),
    ],
)
def test_offline_says_which_file_and_where_to_put_it(offline, component, name):
    with pytest.raises(OSError, match=r"huggingface\.co") as caught:
        load("vd-four-flow-v1-0", components=component, device="cpu")
    assert name in str(caught.value) and str(offline / name) in str(caught.value)


def test_the_other_repository_is_tried_when_one_lacks_the_file(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked = []

    def only_the_second(repo, path, revision, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        asked.append((repo, revision))
        if repo == "shi-labs/versatile-diffusion":
            raise EntryNotFoundError("no such file")
        return str(tmp_path / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", only_the_second)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    assert hub.fetch("kl-f8.pth") == tmp_path / "pretrained_pth" / "kl-f8.pth"
    assert asked == [
        ("shi-labs/versatile-diffusion", hub.REVISIONS["shi-labs/versatile-diffusion"]),
        ("shi-labs/versatile-diffusion", None),
        ("shi-labs/versatile-diffusion-model", None),
    ]


def test_a_file_in_pretrained_needs_no_path(tmp_path, monkeypatch):
    torch.save(in_layout("kl-f8"), tmp_path / "kl-f8.pth")
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    assert same(load("kl-f8.pth", spec=SPEC, device="cpu"), ("image_encoder", "image_decoder"))


def test_files_put_there_by_hand_are_used(offline, monkeypatch):
    """The released name with files in pretrained/; the released sizes replaced by small ones."""
    monkeypatch.setattr(sources, "VD_FOUR_FLOW_V1_0", replace(SPEC, name="vd-four-flow-v1-0"))
    torch.save(in_layout("kl-f8"), offline / "kl-f8.pth")
    assert load("vd-four-flow-v1-0", components="image_decoder", device="cpu").loaded
    (offline / "clip-vit-large-patch14").mkdir()
    save_file(in_layout("clip"), offline / "clip-vit-large-patch14" / "model.safetensors")
    torch.save(in_layout("legacy", COMPONENTS[:5]), offline / hub.MAIN_FILES[2])
    some = load("vd-four-flow-v1-0", flows="t2i", device="cpu")
    assert same(some, some.loaded) and "image_encoder" in some.loaded


def test_a_file_that_goes_while_it_is_opened_is_a_sentence(tmp_path):
    """What safetensors raises then is no error of its own kind."""
    with pytest.raises(ValueError, match="damaged or incomplete"):
        tensor_files._open_safetensors(tmp_path / "gone.safetensors")


def test_a_pickle_that_cannot_be_written_is_the_systems_error(tmp_path):
    """torch, given a path, raises a RuntimeError that nobody can tell from a fault of ours."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        with pytest.raises(OSError, match=r"\[Errno \d+\]"):
            tensor_files.save_pickle({"a": torch.zeros(50_000)}, tmp_path / "large.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    tensor_files.save_pickle({"a": torch.ones(3)}, tmp_path / "small.pt")
    assert torch.equal(tensor_files.load_pickle(tmp_path / "small.pt")["a"], torch.ones(3))
