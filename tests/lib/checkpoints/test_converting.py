"""Files of weights: converted, looked at, downloaded; what is wrong is one sentence."""

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib.__main__ import main
from lib.checkpoints import converting, doctor, hub, load, save
from lib.checkpoints.converting import convert
from lib.checkpoints.inspecting import inspect, short, size_of
from lib.checkpoints.tensor_files import open_tensors, write_tensors
from lib.config import COMPONENTS
from lib.specs import VD_FOUR_FLOW_V1_0
from tests.lib.small_model import SPEC, edited, in_layout, official, same, small_vd

QUIET = {"spec": SPEC, "progress": False}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("official") / "vd.pth"
    torch.save(official(), path)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("config") / "sizes.json"
    path.write_text(json.dumps(SPEC.to_dict()))
    return str(path)


# ---------------------------------------------------------------------- writing


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_library_reads_what_is_written_tensor_by_tensor(tmp_path, kind):
    tensors = {"a.b": torch.randn(3, 5), "scalar": torch.tensor(2.5), "none": torch.zeros(0, 4)}
    tensors["turned"] = torch.randn(4, 6).T
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    path = tmp_path / "x.safetensors"
    write_tensors(path, shapes, dict.fromkeys(shapes, kind), tensors.__getitem__)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype is kind and torch.equal(read[name], tensor.to(kind)), name
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert open_tensors(path).dtypes == dict.fromkeys(shapes, kind)


@pytest.mark.parametrize("name", ["own", "official.safetensors", "official.pth"])
def test_every_weight_is_kept(file, tmp_path, name):
    layout = name.split(".")[0]
    assert convert(file, tmp_path / name, layout, **QUIET) == COMPONENTS
    assert same(load(tmp_path / name, spec=None if layout == "own" else SPEC, device="cpu"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if layout == "own":  # a flow reads its files only
        for path in (tmp_path / "own").glob("text_d*"):
            path.unlink()
        load(tmp_path / "own", flows="t2i", device="cpu")


def test_the_released_file_has_every_key_that_is_written():
    """Against the key list of the released checkpoint itself."""
    fixture = Path(__file__).parents[2] / "fixtures" / "official_keys.json.gz"
    released = json.loads(gzip.decompress(fixture.read_bytes()))
    (keys,) = converting._plan("official", VD_FOUR_FLOW_V1_0, COMPONENTS, False).values()
    assert len(keys) == 2556 and keys.keys() <= released.keys()


def test_a_legacy_file_becomes_halves(tmp_path):
    torch.save(in_layout("legacy"), tmp_path / "old.pth")
    convert(tmp_path / "old.pth", tmp_path / "half", dtype=torch.bfloat16, **QUIET)
    held = inspect(tmp_path / "half").held
    assert {kind for part in held.values() for kind in part.dtypes} == {"bfloat16"}
    own = small_vd().image_decoder.conv_in.weight
    stored = load_file(tmp_path / "half" / "image_decoder.safetensors")["conv_in.weight"]
    assert torch.equal(stored, own.bfloat16())


def test_what_is_not_there_is_left_out_and_named(tmp_path, caplog):
    diffuser = {k: v for k, v in official().items() if k.startswith(("diffuser.", "vae.image."))}
    save_file(diffuser, tmp_path / "vd.safetensors")
    written = convert(tmp_path / "vd.safetensors", tmp_path / "own", **QUIET)
    assert written == COMPONENTS[:7]
    assert "text_decoder: put optimus-vae.pth beside it" in caplog.text
    assert load(tmp_path / "own").available == COMPONENTS[:7]


def test_nothing_is_overwritten_and_nothing_left_behind(file, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    for name, layout in (("there", "own"), ("there", "official"), ("x.pth", "diffusers")):
        with pytest.raises(ValueError, match=r"is there already|has to be a folder"):
            convert(file, tmp_path / name, layout, **QUIET)
    with pytest.raises(ValueError, match="has to be a file"):
        convert(file, tmp_path / "x", "official", **QUIET)
    with pytest.raises(ValueError, match="layout is 'zip': choose own"):
        convert(file, tmp_path / "x", "zip", **QUIET)
    disk = SimpleNamespace(free=1000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(OSError, match=r"x needs 0\.1 GB, and 0\.0 GB are free"):
        convert(file, tmp_path / "x", **QUIET)
    monkeypatch.undo()
    monkeypatch.setattr(converting, "_write_rest", lambda *_: (tmp_path / "x").mkdir())
    with pytest.raises(ValueError, match="is there already"):  # somebody was faster
        convert(file, tmp_path / "x", **QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "x"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("diffuser.image.time_embed.0.bias", float("nan"), "holds numbers that are not finite"),
        ("vae.text.decoder.lm_head.weight", 3.0, r"lm_head.weight and .*wte.weight differ"),
    ],
)
def test_weights_that_are_wrong_are_refused(tmp_path, key, value, message):
    tensor = official()[key].clone()
    tensor.view(-1)[0] = value
    path = edited(tmp_path / "x.safetensors", **{key: tensor})
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "own", **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_memory_is_that_of_one_tensor(file, tmp_path, monkeypatch):
    """Each tensor that was read is written and gone before the next is read."""
    alive: list[int] = []
    read = converting.read_weight

    def counted(*arguments):
        tensor = read(*arguments)
        copy = tensor.clone()  # one that nobody else holds
        alive.append(id(copy))
        return Counted(copy, alive)

    class Counted(torch.Tensor):
        def __new__(cls, tensor, alive):
            assert len(alive) == 1
            return tensor.as_subclass(cls)

        def __init__(self, tensor, alive):
            self.alive = alive

        def detach(self):
            self.alive.clear()  # about to be written
            return torch.Tensor(self.as_subclass(torch.Tensor))

    monkeypatch.setattr(converting, "read_weight", counted)
    convert(file, tmp_path / "own", **QUIET)
    assert alive == []


# ---------------------------------------------------------------------- looking


def test_a_report_says_what_works(file, tmp_path):
    report = inspect(file, SPEC)
    assert {*report.held} == {*COMPONENTS} and not report.damaged
    time_embed = report.held["time_embed"]
    assert time_embed.parameters == sum(p.numel() for p in small_vd().time_embed.parameters())
    assert (time_embed.size, time_embed.dtypes) == (4 * time_embed.parameters, ("float32",))
    torch.save(in_layout("kl-f8"), tmp_path / "kl-f8.pth")
    text = "\n".join(inspect(tmp_path / "kl-f8.pth", SPEC).lines())
    assert "layout kl-f8\n2 of 11 components" in text
    assert (
        "i2i  pictures from pictures  needs time_embed, image_data, image_context, clip_v" in text
    )
    diffuser = {k: v for k, v in official().items() if k.startswith(("diffuser.", "ctx."))}
    save_file(diffuser, tmp_path / "vd-four-flow-v1-0.safetensors")
    text = "\n".join(inspect(tmp_path, SPEC).lines())
    assert re.search(r"t2i +pictures from texts +works\n", text)
    assert "not here: text_encoder, text_decoder (put optimus-vae.pth beside it)" in text


def test_headers_are_enough(file, tmp_path, monkeypatch):
    save(small_vd(), tmp_path / "m")
    monkeypatch.setattr("lib.checkpoints.tensor_files.TensorFile.__getitem__", None)
    assert len(inspect(tmp_path / "m").held) == 11


def test_a_component_that_does_not_fit_is_named(tmp_path):
    key = "diffuser.image.time_embed.0.bias"
    path = edited(tmp_path / "x.safetensors", **{key: torch.zeros(3)})
    report = inspect(path, SPEC)
    assert "wrong shape" in report.damaged["time_embed"] and "time_embed" not in report.held
    assert report.missing("t2i") == ["time_embed"]


def test_numbers_in_words():
    assert (short(999), short(1_234_567), short(3.8e9)) == ("999", "1.23 M", "3.8 B")
    assert (size_of(12), size_of(2_070_000_000)) == ("12 B", "2.07 GB")


# ---------------------------------------------------------------------- the shell


def test_commands(file, config, tmp_path, capsys):
    out = str(tmp_path / "own")
    assert main(["convert", str(file), out, "--config", config, "--quiet"]) == 0
    assert main(["inspect", out]) == 0
    assert "11 of 11 components" in capsys.readouterr().out
    assert main(["convert", str(file), out, "--config", config, "--quiet"]) == 2
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "bad.safetensors").write_bytes(b"\x08" + bytes(7) + b"{nonsense")
    for arguments in (["bad.safetensors"], ["none"], [str(file), "--config", str(file)]):
        arguments[0] = str(tmp_path / arguments[0])
        assert main(["inspect", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["convert", out])
    assert stopped.value.code == 2


def test_a_folder_of_diffusers_alone_is_asked_for_there_alone(file, config, tmp_path, capsys):
    for layout, name in (("own", "a"), ("official", "a.pth")):
        words = ["convert", str(file), str(tmp_path / name), "--layout", layout, "--config", config]
        assert main([*words, "--text-to-image", "--quiet"]) == 2
        assert f"out for layout {layout}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_diffusers_is_made_of_what_the_model_has(model_folder, tmp_path):
    lean = shutil.copytree(model_folder, tmp_path / "lean")
    for path in lean.glob("text_context*"):
        path.unlink()
    with pytest.raises(ValueError, match="lacks text_context, of which text_to_image_unet is made"):
        convert(lean, tmp_path / "new", "diffusers", text_to_image=True, progress=False)
    assert not (tmp_path / "new").exists()


def test_help_needs_no_torch():
    from tests.test_house import output_of

    code = (
        "import sys, contextlib\nfrom lib.__main__ import main\n"
        "for command in ([], ['inspect'], ['convert'], ['download'], ['doctor']):\n"
        "    with contextlib.suppress(SystemExit):\n        main([*command, '--help'])\n"
        "print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    text = output_of(code)
    assert text.endswith("[]\n")
    for word in ("--layout {own,diffusers,official}", "--dtype", "--device", "--quiet", "NAME"):
        assert word in text


def test_the_doctor_names_what_is_wrong(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    monkeypatch.setattr(doctor, "SECONDS", 0.01)
    monkeypatch.setattr(doctor, "step_flops", lambda spec, flow: 1e9)
    shutil.copytree(model_folder, tmp_path / "tiny")
    (tmp_path / "tiny" / "text_decoder.safetensors").unlink()
    assert main(["doctor", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "works: t2i, i2i\n  i2t needs text_decoder\n" in out
    assert "vd-four-flow-v1-0: not here; `python -m lib download" in out
    assert "2.14 B parameters in" in out and "of weights" in out
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch>=1,<2\nnot-a-package>=1,<2\neinops>=0.1,<9\n# words\n")
    monkeypatch.setattr(doctor, "REQUIREMENTS", requirements)
    (tmp_path / "tiny" / "clip_text.safetensors").write_bytes(b"cut")
    assert main(["doctor", "--device", "cpu", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "tested were 1 to below 2; not-a-package is not installed" in out
    assert "einops" not in out and "clip_text.safetensors is damaged" in out


def test_work_is_counted(vd):
    """The released model's step of text to image: as other tools count it, 0.8 TFLOP."""
    assert doctor.step_flops(vd.spec, "t2i") > doctor.step_flops(vd.spec, "i2t") > 0
    spec = vd.spec
    small = doctor.step_flops(spec, "t2i")
    assert 0.5 < small / (2 * spec.unet.model_channels**2 * 9 * 64 * 14) < 10
    assert 0.7e12 < doctor.step_flops(VD_FOUR_FLOW_V1_0, "t2i") < 0.9e12


# ---------------------------------------------------------------------- downloading


class Hub:
    """The hub's functions on files made here."""

    def __init__(self, files: dict[tuple[str, str], bytes]) -> None:
        self.files, self.asked = files, []

    def model_info(self, repo: str, revision: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(sha=revision or f"newest-{repo}")

    def get_paths_info(self, repo: str, paths: list[str], revision: str) -> list[SimpleNamespace]:
        (path,) = paths
        content = self.files.get((repo, path))
        lfs = SimpleNamespace(sha256=hashlib.sha256(content or b"").hexdigest())
        return [] if content is None else [SimpleNamespace(size=len(content), lfs=lfs)]

    def download(self, repo: str, path: str, revision: str, local_dir: Path) -> str:
        self.asked.append((repo, path, revision))
        target = Path(local_dir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.files[repo, path])
        return str(target)


@pytest.fixture
def online(tmp_path, monkeypatch) -> Hub:
    content = {}
    for name, places in {**hub.SOURCES, **hub._TOKENIZERS}.items():
        content[places[0]] = name.encode()
    fake = Hub(content)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake


def test_a_download_is_put_in_place_and_written_down(online, tmp_path, capsys):
    assert main(["download", "vd-four-flow-v1-0", "--quiet"]) == 0
    paths = capsys.readouterr().out.split()
    assert str(tmp_path / "vd-four-flow-v1-0-fp16.pth") in paths and len(paths) == 9
    assert all(Path(path).is_file() for path in paths)
    record = json.loads((tmp_path / hub.RECORD).read_text())
    clip = record["clip-vit-large-patch14/model.safetensors"]
    assert clip["revision"] == hub.REVISIONS["openai/clip-vit-large-patch14"]
    content = (tmp_path / "clip-vit-large-patch14" / "model.safetensors").read_bytes()
    assert clip["sha256"] == hashlib.sha256(content).hexdigest()
    # of a repository whose commit nobody wrote down, the newest; then that one again
    main_file = record["vd-four-flow-v1-0-fp16.pth"]
    assert main_file["revision"] == "newest-shi-labs/versatile-diffusion-model"
    (tmp_path / "vd-four-flow-v1-0-fp16.pth").unlink()
    record["vd-four-flow-v1-0-fp16.pth"]["revision"] = "before"
    (tmp_path / hub.RECORD).write_text(json.dumps(record))
    online.asked.clear()
    assert main(["download", "vd-four-flow-v1-0", "--quiet"]) == 0
    assert [revision for *_, revision in online.asked] == ["before"]
    assert main(["download", "vd-four-flow-v1-0"]) == 0
    assert "everything is here already" in capsys.readouterr().out


def test_other_bytes_than_promised_are_refused(online, tmp_path, monkeypatch, capsys):
    promise = online.get_paths_info
    monkeypatch.setattr(
        online,
        "get_paths_info",
        lambda *a, **k: [
            SimpleNamespace(size=7, lfs=SimpleNamespace(sha256="0")),
            *promise(*a, **k),
        ],
    )
    assert main(["download", "kl-f8.pth"]) == 1
    assert "other bytes than the hub promises" in capsys.readouterr().err
    assert not (tmp_path / "kl-f8.pth").exists() and not (tmp_path / hub.RECORD).exists()


def test_space_is_looked_for_before_and_other_names_are_refused(online, monkeypatch, capsys):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=3))
    assert main(["download", "kl-f8.pth"]) == 1
    assert "are free there: make room" in capsys.readouterr().err and online.asked == []
    assert main(["download", "stable-diffusion"]) == 2
    assert "choose vd-four-flow-v1-0" in capsys.readouterr().err


def test_an_interrupted_download_goes_on(online, monkeypatch, capsys):
    def broken(*_, **__):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    assert main(["download", "kl-f8.pth"]) == 1
    assert "(reset by peer): the same command goes on where it stopped" in capsys.readouterr().err


def test_without_a_connection_one_sentence_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    def no_connection(*_, **__):
        raise ConnectionError("no route")

    api = SimpleNamespace(model_info=no_connection)
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert main(["download", "vd-four-flow-v1-0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"put it at {tmp_path}" in error

    def not_cached(*_, local_files_only=False, **__):
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", not_cached)
    assert hub.fetch("kl-f8.pth", download=False) is None
    assert main(["inspect", "vd-four-flow-v1-0"]) == 0  # nothing here is an answer
    assert "0 of 11 components" in capsys.readouterr().out
