"""Visual search: queries against plain numpy, very many vectors, the command line."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from usearch.index import Index

from analysis import __main__ as cli
from analysis.folders import indexing, neighbours
from analysis.folders.encoders import Encoder
from analysis.folders.indexing import update_index
from analysis.folders.neighbours import best, build_graph, candidates, cosines
from analysis.folders.search import as_result, find
from analysis.folders.vectors import Collection, Entry, read_index
from analysis.results.outputs import read_record, save
from tests.analysis.photo_folders import matrix, photo_folder
from tests.conftest import CAPTIONS, drawing


@pytest.fixture
def photos(tmp_path):
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def index(vd, photos, tmp_path):
    update_index(vd, photos, tmp_path / "index", precision="float32", progress=False)
    return tmp_path / "index"


def update(vd, photos, index, **options):
    return update_index(vd, photos, index, progress=False, **options)


def names(found) -> list[str]:
    return [hit.file for hit in found.hits]


# ---------------------------------------------------------------------- queries


def test_a_mix_scores_as_written(vd, photos, index):
    x = matrix(vd, photos)
    q = np.concatenate(
        [
            vd.text_features(CAPTIONS[:1]).numpy(),
            vd.image_features([drawing(40)]).numpy(),
            vd.text_features(["pink ring"]).numpy(),
            vd.image_features([drawing(3)]).numpy(),
        ]
    )
    expected = x @ q.T @ np.array([2 / 5, 3 / 5, -0.5, -0.25])
    found = find(
        vd,
        index,
        texts=(CAPTIONS[0], 2),
        images=[(drawing(40), 3.0)],
        without=["pink ring", (photos / "3.png", 0.25)],
        k=5,
    )
    order = np.argsort(-expected)[:5]
    files = [entry.name for entry in read_index(index).entries]
    assert names(found) == [files[i] for i in order]
    assert [hit.score for hit in found.hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
    assert np.allclose([hit.cosines for hit in found.hits], (x @ q.T)[order], atol=1e-5)
    weights = [term["weight"] for term in found.record["query"]]
    assert weights == pytest.approx([0.4, 0.6, -0.5, -0.25])
    assert found.record["library"] == "exact"


def test_balanced_terms_count_alike(vd, photos, index):
    x = matrix(vd, photos)
    q = torch.cat([vd.text_features(["a star"]), vd.image_features([drawing(40)])]).numpy()
    each = x @ q.T
    expected = (each / each.std(axis=0)).mean(axis=1)
    found = find(vd, index, texts=["a star"], images=[drawing(40)], balance=True)
    scores = sorted(expected.tolist(), reverse=True)
    assert [hit.score for hit in found.hits] == pytest.approx(scores, abs=1e-4)


def test_a_picture_finds_itself(vd, photos, index):
    found = find(vd, read_index(index), images=photos / "sub" / "6.png", k=1)
    assert names(found) == ["sub/6.png"]
    assert found.paths == [photos / "sub" / "6.png"]
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert len(find(vd, index, texts="star", k=100)) == 8


def test_any_bytes_may_name_a_file(vd, photos, tmp_path):
    name = os.fsdecode(b"\xff.png")
    os.rename(photos / "1.png", photos / name)
    (photos / os.fsdecode(b"\xfe.png")).write_bytes(b"no picture")
    for _ in range(2):
        update(vd, photos, tmp_path / "index")
    found = find(vd, tmp_path / "index", images=photos / name, k=1)
    assert names(found) == [name]
    (path,) = save(as_result(found), tmp_path / "out")
    assert read_record(path)["hits"][0]["file"] == "\\udcff.png"


def test_bad_queries(vd, photos, index):
    for options, message in [
        ({}, "nothing to look for"),
        ({"without": "star"}, "nothing to look for"),
        ({"texts": " "}, "is empty"),
        ({"texts": "red " * 100}, "limit is 32"),
        ({"texts": ("star", 0)}, "give one above 0"),
        ({"texts": ("star", float("nan"))}, "a weight is nan"),
        ({"images": photos / "bad.jpg"}, "not a picture"),
        ({"texts": ("star", 1e300)}, "a weight is 1e\\+300: give a number from 0 to 1000"),
        ({"texts": "star", "k": 0}, "k is 0"),
        ({"texts": "star", "k": 10**12}, "k is 1000000000000: give a whole number from 1"),
        ({"texts": "star", "library": "annoy"}, "choose auto, exact, usearch"),
    ]:
        with pytest.raises(ValueError, match=message):
            find(vd, index, **options)


def test_cosines_are_exact_in_chunks_and_of_rounded_vectors():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(50, 12, generator=generator), dim=1)
    assert torch.allclose(cosines((x * 1.01).half(), x[:3], chunk=7), x @ x[:3].T, atol=1e-3)
    assert best(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3) == [1, 3, 2]


def test_a_result_is_a_sheet_with_a_record(vd, photos, index, tmp_path):
    drawing(0, (900, 300)).save(photos / "0.png")
    found = find(vd, index, texts=["a star"], without=["a ring"], k=8)
    (photos / names(found)[2]).unlink()
    (path,) = save(as_result(found, columns=4), tmp_path / "out")
    assert path.name == "0001_a-star-not-a-ring_seed0.png"
    record = read_record(path)
    assert [hit["file"] for hit in record["hits"]] == names(found)
    assert [hit["rank"] for hit in record["hits"]] == list(range(1, 9))
    assert Image.open(path).width < 1000
    for file in photos.rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="index it again"):
        as_result(found)


# ---------------------------------------------------------------------- very many


@pytest.fixture
def few_are_many(monkeypatch):
    monkeypatch.setattr(neighbours, "MANY", 4)


@pytest.fixture
def no_usearch(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)


def test_a_graph_finds_the_same_and_is_kept_up_to_date(vd, photos, tmp_path, few_are_many):
    index = tmp_path / "index"
    update(vd, photos, index)
    (graph,) = index.glob("graph-*.usearch")
    for step in range(2):
        query = {"texts": "a star", "without": [drawing(2)], "k": 3}
        found, exact = find(vd, index, **query), find(vd, index, library="exact", **query)
        assert found.record["library"] == "usearch"
        assert exact.record["library"] == "exact"
        assert found.hits == exact.hits
        if step == 0:
            (photos / "0.png").unlink()
            os.rename(photos / "1.png", photos / "moved.png")
            (photos / "copy.png").write_bytes((photos / "2.png").read_bytes())
            drawing(50).save(photos / "3.png")
            update(vd, photos, index)
    found = find(vd, index, images=photos / "2.png", k=2)
    assert names(found) == ["2.png", "copy.png"]
    drawing(51).save(photos / "late.png")
    update(vd, photos, index, library="exact")
    assert find(vd, index, texts="a star").record["library"] == "exact"  # the graph is old
    graph.write_bytes(b"{damaged")
    assert find(vd, index, texts="a star").record["library"] == "exact"
    update(vd, photos, index)
    assert find(vd, index, texts="a star").record["library"] == "usearch"


def test_native_code_never_reads_a_damaged_graph(vd, photos, tmp_path, few_are_many, monkeypatch):
    index = tmp_path / "index"
    update(vd, photos, index)
    (graph,) = index.glob("graph-*.usearch")
    whole = graph.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:99] + b"\xff" + whole[100:], whole * 2):
        graph.write_bytes(damaged)
        with monkeypatch.context() as patch:
            patch.setattr(Index, "restore", lambda *a, **k: pytest.fail("it was read"))
            assert find(vd, index, texts="a star").record["library"] == "exact"
    graph.write_bytes(whole)
    os.utime(graph, ns=(5, 5))
    assert find(vd, index, texts="a star").record["library"] == "usearch"


def test_a_graph_finds_what_an_exact_search_finds(tmp_path):
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(2500, 32)).astype(np.float32))
    vectors = torch.nn.functional.normalize(vectors, dim=1).half()
    shas = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(vectors))]
    entries = [Entry(f"{i}.png", 1, 1, sha) for i, sha in enumerate(shas)]
    encoder = Encoder("none", "0123", vectors.shape[1], "float32")
    collection = Collection(tmp_path, encoder, entries, vectors)
    path = build_graph(collection, tmp_path, threads=1, progress=False)
    assert len(Index.restore(str(path), view=True)) == len(vectors)
    found = 0
    for query in torch.from_numpy(rng.normal(size=(50, 32)).astype(np.float32)):
        exact = best(cosines(vectors, query[None])[:, 0], 10)
        rows = candidates(collection, tmp_path, query, 10)
        assert len(rows) < len(vectors) / 10, "a few are looked at, not all"
        found += len(set(exact) & set(rows))
    assert found / 500 >= 0.95


def test_without_the_library_search_is_exact(
    vd, photos, tmp_path, no_usearch, few_are_many, caplog
):
    update(vd, photos, tmp_path / "index")
    assert not list((tmp_path / "index").glob("graph-*"))
    assert "pip install usearch" in caplog.text
    assert find(vd, tmp_path / "index", texts="a star").record["library"] == "exact"
    with pytest.raises(ValueError, match="usearch is not installed: install it with"):
        find(vd, tmp_path / "index", texts="a star", library="usearch")


# ---------------------------------------------------------------------- command line


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        options = ["--model", model_folder, "--out", tmp_path / "out", "--device", "cpu"]
        try:
            status = cli.main(["search", *map(str, (*argv, *options))])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_index_and_query_from_the_shell(run, photos, tmp_path):
    status, out, err = run("index", photos)
    assert status == 1, "a picture has no vector"
    assert "8 new, 0 changed, 0 removed, 0 unchanged, 1 broken; 8 encoded" in out
    assert "passed over 2: bad.jpg: is not a picture" in err
    assert err.endswith("; notes.txt: is no picture\n")
    status, out, _ = run("query", "--text", "a star::2", "--not", photos / "0.png", "--k", 3)
    *found, sheet = out.splitlines()
    assert (status, len(found)) == (0, 3)
    assert Path(sheet).parent == tmp_path / "out" / "search"
    assert [term["weight"] for term in read_record(sheet)["query"]] == [1.0, -0.5]
    status, out, err = run(
        "query", "--image", f"{photos / '1.png'}::0.5", "--text", "a ring", "--no-sheet", "--json",
        "--quiet", "--balance", "--not", "pink::2",
    )  # fmt: skip
    told = json.loads(out)
    assert (status, err, told["sheet"]) == (0, "", None)
    assert [term["weight"] for term in told["query"]] == pytest.approx([2 / 3, 1 / 3, -2])
    assert len(told["hits"]) == 8
    assert json.loads(run("index", photos, "--json", "--quiet")[1])["unchanged"][0] == "0.png"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["query"], "nothing to look for"),
        (["query", "--text", "star"], "There is no index"),
        (["query", "--text", "star::0"], "weight 0: give one above 0"),
        (["query", "--text", "star::-"], "give a number after ::"),
        (["query", "--image", "nofile.png"], "There is no file nofile.png"),
        (["query", "--text", "star", "--not", "nofile.png"], "There is no file nofile.png"),
        (["query", "--text", "star", "--library", "annoy"], "invalid choice"),
        (["index", "nowhere"], "There is no folder nowhere"),
        (["index"], "required: FOLDER"),
        ([], "required: index|query"),
    ],
)
def test_bad_input_is_one_sentence(run, argv, message):
    status, out, err = run(*argv) if argv else run("--quiet")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err or not argv


def test_an_interrupt_says_how_to_go_on(run, photos, monkeypatch):
    monkeypatch.setattr(indexing, "_encode", lambda *a: os.kill(os.getpid(), signal.SIGINT))
    status, _, err = run("index", photos, "--quiet")
    assert status == 130
    assert "the same command goes on" in err


def test_help_shows_examples(capsys):
    for argv in (["search", "--help"], ["search", "query", "--help"], ["search", "index", "-h"]):
        with pytest.raises(SystemExit):
            cli.main(argv)
        assert "python -m analysis search index photos/" in capsys.readouterr().out
