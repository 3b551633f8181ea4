"""Every sample comes once, whatever the number of processes and wherever one begins."""

import errno
import io
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data import captioned_samples
from data.captioned import Entry, read_captioned
from data.captioned_samples import CaptionedSamples, iterate
from data.samples import Samples, key_of
from lib.images import FITS, fit, to_tensor
from tests.data.test_captioned import img2dataset, png, put, tar

SHARDS, EACH = 3, 7


@pytest.fixture
def shards(tmp_path):
    """Three shards of seven samples; one picture is broken, one has no caption."""
    for shard in range(SHARDS):
        files = {}
        for i in range(EACH):
            files |= img2dataset(f"{shard}{i}", f"number {shard}{i}", i)
        if shard == 1:
            files["13.jpg"] = b"no picture"
            files["15.txt"] = files["15.json"] = ""
        tar(tmp_path / "sub" / f"{shard}.tar", files)
    return read_captioned(tmp_path)


KEYS = {f"sub/{s}.tar/{s}{i}.jpg" for s in range(SHARDS) for i in range(EACH)}
GOOD = KEYS - {"sub/1.tar/13.jpg", "sub/1.tar/15.jpg"}


def keys(samples) -> list[str]:
    return [sample.key for sample in samples]


def test_every_good_sample_once_in_the_order_of_seed_and_epoch(shards):
    skipped = []
    plain = keys(iterate(shards, skipped=skipped))
    assert plain == sorted(GOOD)
    assert [item.name for item in skipped] == ["sub/1.tar/13.jpg"]
    assert [item.name for item in shards.skipped] == ["sub/1.tar/15.jpg"]
    orders = [keys(iterate(shards, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == plain for order in orders)
    assert len({tuple(order) for order in [plain, *orders]}) == 5
    assert keys(iterate(shards, 1, 1)) == orders[3]


@pytest.mark.parametrize("processes, workers", [(1, 1), (2, 1), (1, 3), (2, 2), (5, 7)])
def test_shares_have_no_duplicates_and_no_holes(shards, processes, workers):
    parts = [
        keys(iterate(shards, 3, share=process * workers + worker, shares=processes * workers))
        for process in range(processes)
        for worker in range(workers)
    ]
    every = list(itertools.chain(*parts))
    assert len(every) == len(set(every)) == len(GOOD) and set(every) == GOOD
    assert max(map(len, parts)) - min(map(len, parts)) <= 2  # one of them met the broken one


@pytest.mark.parametrize("shares", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 4, 9])
def test_going_on_in_the_middle_of_a_shard(shards, shares, after):
    """Each share goes on behind its own position as if it had never stopped."""
    for share in range(shares):
        whole = list(iterate(shards, 5, 2, share=share, shares=shares))
        done = whole[: min(after, len(whole) - 1)]
        rest = iterate(shards, 5, 2, done[-1].position + 1, share=share, shares=shares)
        assert keys(done) + keys(rest) == keys(whole)


def test_going_on_with_another_number_of_processes(shards):
    """After twelve positions of one process, three processes do the rest."""
    order = list(iterate(shards, 5))
    done = [sample.key for sample in order if sample.position < 12]
    rest = [keys(iterate(shards, 5, 0, 12, share, 3)) for share in range(3)]
    assert sorted(done + list(itertools.chain(*rest))) == sorted(GOOD)


@pytest.mark.parametrize(
    "wrong",
    [{"share": 2, "shares": 2}, {"shares": 0}, {"start": -1}, {"epoch": -1}, {"seed": -1}],
)
def test_shares_that_are_none(shards, wrong):
    with pytest.raises(ValueError, match="give"):
        next(iterate(shards, **wrong))


# ------------------------------------------------------------------ filters


def test_originals_and_watermarks_as_img2dataset_notes_them(tmp_path):
    """Pictures are 20 x 14; what was noted of the original counts."""
    notes = {
        "a": {"original_width": 300, "original_height": 256, "pwatermark": 0.1},
        "b": {"original_width": 300, "original_height": 223, "pwatermark": 0.2},
        "c": {"original_width": 900, "original_height": 900, "pwatermark": 0.9},
        "d": {},
    }
    files = {}
    for i, (key, note) in enumerate(notes.items()):
        files |= img2dataset(key, key, i) | {f"{key}.json": json.dumps(note)}
    folder = read_captioned(tar(tmp_path / "0.tar", files))

    def left(**limits) -> tuple[str, dict[str, str]]:
        skipped = []
        texts = "".join(s.captions[0] for s in iterate(folder, skipped=skipped, **limits))
        return texts, {item.name[-5]: item.why for item in skipped}

    assert left() == ("abcd", {})
    texts, why = left(min_side=224)
    assert texts == "ac" and why["b"] == "is 300 x 223, below 224 a side"
    assert why["d"] == "is 20 x 14, below 224 a side"
    texts, why = left(max_watermark=0.5)
    assert texts == "ab" and set(why) == {"c", "d"} and "0.9" in why["c"]
    assert left(min_side=224, max_watermark=0.5)[0] == "a"


def test_captions_are_cleaned_if_asked(tmp_path):
    texts = {"0.txt": "A cat [1]\nhttps://x.com", "1.txt": "www.x.com"}
    folder = read_captioned(put(tmp_path, texts | {f"{i}.png": png(i) for i in range(2)}))
    skipped = []
    (sample,) = iterate(folder, clean=True, skipped=skipped)
    assert sample.captions == ("A cat",)
    assert skipped[0].name == "1.png" and "after cleaning" in skipped[0].why
    assert len(list(iterate(folder))) == 2


# ------------------------------------------------------------------ by number


@pytest.fixture
def folder(tmp_path):
    """Five pictures of other aspects with one or two captions, and a broken one."""
    rng = np.random.default_rng(0)
    sizes = [(40, 20), (20, 40), (16, 16), (33, 17), (8, 8)]
    for i, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        put(tmp_path, {f"{i}.txt": f"number {i}" + f"\nthe {i}" * (i % 2)})
    put(tmp_path, {"9.png": "broken", "9.txt": "nine"})
    return read_captioned(tmp_path)


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_that_training_asks_for_is_there(folder):
    samples = CaptionedSamples(folder, 16)
    wanted = {name for name in vars(Samples) if not name.startswith("_")} | {"__len__"}
    wanted |= set(Samples.__annotations__)
    assert all(hasattr(samples, name) for name in wanted)
    assert len(samples) == 5
    assert samples.labels([0, 1]).shape == samples.read(["a", "b"]).shape == (2, 0)
    both = {samples.captions([3], stream(i))[0] for i in range(20)}
    assert both == {"number 3", "the 3"}
    assert samples.targets([0, 2, 4], stream()) == ["number 0", "number 2", "number 4"]


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("side", [8, 16])
def test_pictures_as_fit_makes_them(folder, how, side):
    samples = CaptionedSamples(folder, side, how, jitter=False)
    pictures = samples.pictures(range(5), stream())
    assert pictures.shape == (5, 3, side, side) and pictures.dtype == torch.float32
    images = [Image.open(entry.path).convert("RGB") for entry in folder.entries[:5]]
    assert torch.equal(pictures, to_tensor([fit(image, side, how) for image in images]))


def test_samples_are_called_as_their_files(folder):
    samples = CaptionedSamples(folder, 8, min_side=10)
    assert [key_of(samples, i) for i in np.arange(4)] == ["0.png", "1.png", "2.png", "3.png"]
    assert key_of(object(), np.int64(3)) == "3"


def test_crops_are_where_chance_puts_them(folder):
    """A 40 x 20 picture at 20 a side is not resized: every crop is a window of it."""
    samples = CaptionedSamples(folder, 20)
    pixels = np.asarray(Image.open(folder.entries[0].path))
    windows = [to_tensor([Image.fromarray(pixels[:, x : x + 20])])[0] for x in range(21)]
    crops = [samples.pictures([0], stream(i))[0] for i in range(40)]
    where = [next(x for x, w in enumerate(windows) if torch.equal(w, crop)) for crop in crops]
    assert len(set(where)) > 10 and {0, 20} & set(where)
    assert torch.equal(samples.pictures([0, 1], stream(3)), samples.pictures([0, 1], stream(3)))


def test_mirrored_pictures(folder):
    plain, both = (CaptionedSamples(folder, 16, jitter=False, mirror=m) for m in (False, True))
    (image,) = plain.pictures([0], stream())
    seen = [both.pictures([0], stream(i))[0] for i in range(20)]
    mirrored = [torch.equal(picture, image.flip(-1)) for picture in seen]
    assert any(mirrored) and all(
        turned or torch.equal(picture, image)
        for turned, picture in zip(mirrored, seen, strict=True)
    )
    assert not all(mirrored)


def test_a_share_is_held_out(shards):
    """Of the good ones: that some are broken never leaves nothing to measure on."""
    samples = CaptionedSamples(shards, 12)
    most, few = samples.split(0.2, 0)
    assert (len(most), len(few)) == (15, 4)
    names = [[part.key(i) for i in range(len(part))] for part in (most, few)]
    assert sorted(names[0] + names[1]) == sorted(GOOD)
    again, other = samples.split(0.2, 0)[1], samples.split(0.2, 1)[1]
    assert again.identity() == few.identity() != other.identity()
    assert again.entries == few.entries != other.entries
    assert most.identity() != few.identity() and not few.mirror and not few.jitter
    pair = CaptionedSamples(replace(shards, entries=shards.entries[:2]), 12, jitter=False)
    assert len(pair) == 2 and len({str(part.identity()) for part in pair.split(0.2, 0)}) == 2
    assert len(samples.split(0.001, 0)[1]) == 1
    centred = CaptionedSamples(shards, 12, jitter=False)
    rows = [[samples.key(i) for i in range(19)].index(name) for name in names[1]]
    assert torch.equal(few.pictures(range(4), stream()), centred.pictures(rows, stream()))
    one = CaptionedSamples(replace(shards, entries=shards.entries[:1]), 12)
    with pytest.raises(ValueError, match="at least two"):
        one.split(0.5, 0)


@pytest.mark.parametrize("jitter", [True, False])
@pytest.mark.parametrize("how", FITS)
def test_pictures_that_are_not_kept_are_the_same(folder, monkeypatch, jitter, how):
    kept = CaptionedSamples(folder, 16, how, jitter)
    monkeypatch.setattr(captioned_samples, "KEPT", 2000)
    read = CaptionedSamples(folder, 16, how, jitter)
    monkeypatch.setattr(captioned_samples, "KEPT", 0)
    none = CaptionedSamples(folder, 16, how, jitter)
    assert len(none._ends) == 0 < len(read._ends) < 5 == len(kept._ends)
    pictures = [samples.pictures(range(5), stream()) for samples in (kept, read, none)]
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])
    assert kept.identity() == read.identity() == none.identity()


def test_a_full_disk_keeps_no_pictures(folder, monkeypatch, caplog):
    """Neither half of them: they are opened again each time, and the others go on."""
    kept, calls = CaptionedSamples(folder, 16), []

    def full(file, pixels):
        calls.append(file.write(pixels.tobytes()[: 9 if len(calls) == 2 else None]))
        return len(calls) < 3

    monkeypatch.setattr(captioned_samples, "_write", full)
    opened = CaptionedSamples(folder, 16)
    assert len(calls) == 3 and len(opened._ends) == 0 and "No space is left" in caplog.text
    assert torch.equal(opened.pictures(range(5), stream()), kept.pictures(range(5), stream()))
    assert opened.identity() == kept.identity() and opened.skipped == kept.skipped


def test_pictures_are_kept_once_a_full_disk_has_room(folder, tmp_path, monkeypatch):
    usage, free = shutil.disk_usage(tmp_path), 5 * 16 * 16 * 3 - 1
    with monkeypatch.context() as patch:
        patch.setattr(captioned_samples, "_write", lambda file, pixels: False)
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
        first = CaptionedSamples(folder, 16, kept=tmp_path)
    with monkeypatch.context() as patch:  # still too little: not tried in vain
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        patch.setattr(CaptionedSamples, "_open", lambda *args: pytest.fail("opened again"))
        assert len(CaptionedSamples(folder, 16, kept=tmp_path)._ends) == 0
    again = CaptionedSamples(folder, 16, kept=tmp_path)
    assert len(again._ends) == 5 and again.skipped == first.skipped
    assert torch.equal(again.pictures(range(5), stream()), first.pictures(range(5), stream()))


def test_a_disk_may_take_a_part_of_a_picture():
    class Disk(io.RawIOBase):
        def __init__(self, answer):
            self.answer = answer

        def write(self, data):
            if isinstance(self.answer, int):
                return self.answer
            raise self.answer

    pixels = np.zeros((2, 2, 3), np.uint8)
    assert captioned_samples._write(Disk(12), pixels)
    assert not captioned_samples._write(Disk(7), pixels)
    assert not captioned_samples._write(Disk(OSError(errno.ENOSPC, "full")), pixels)
    with pytest.raises(OSError):
        captioned_samples._write(Disk(OSError(errno.EIO, "broken")), pixels)


def test_pictures_are_opened_once_for_all_who_ask_alike(folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    first = CaptionedSamples(folder, 16, kept=kept)
    assert isinstance(first._pixels, np.memmap) and first._pixels.dtype == np.uint8
    count, read = [], Entry.read
    monkeypatch.setattr(Entry, "read", lambda entry: count.append(1) or read(entry))
    second = CaptionedSamples(folder, 16, kept=kept)
    assert torch.equal(second.pictures(range(5), stream()), first.pictures(range(5), stream()))
    assert not count and second.identity() == first.identity()
    assert second.skipped == first.skipped and second.skipped[-1].name == "9.png"
    CaptionedSamples(folder, 16, mirror=True, kept=kept)  # which is done later
    assert not count
    next(kept.glob("*.bin")).unlink()  # what somebody removed is made again
    again = CaptionedSamples(folder, 16, kept=kept)
    assert torch.equal(again.pictures(range(5), stream()), first.pictures(range(5), stream()))
    huge = f'{{"rows": [], "skipped": [], "shapes": [[{10**30}, 1, 1]]}}'
    for damaged in ("[" * 100_000, "[]", '{"rows": [99]}', "{", huge):
        next(kept.glob("*.json")).write_text(damaged)
        assert CaptionedSamples(folder, 16, kept=kept).identity() == first.identity()
    pixels = next(kept.glob("*.bin"))
    good = pixels.read_bytes()
    pixels.write_bytes(good[:-1])
    again = CaptionedSamples(folder, 16, kept=kept)
    assert pixels.read_bytes() == good and again.skipped == first.skipped
    count.clear()
    for other in ({"side": 8}, {"fit": "pad"}, {"min_side": 10}, {"clean": True}):
        CaptionedSamples(folder, **({"side": 16} | other), kept=kept)
        assert count
        count.clear()
    put(folder.path, {"4.png": png(7)})
    assert CaptionedSamples(folder, 16, kept=kept).identity() != first.identity()
    (folder.path / "0.png").unlink()
    assert len(CaptionedSamples(read_captioned(folder.path), 16, kept=kept)) == 4


def test_what_is_left_out_is_counted_and_named_in_a_file(folder, tmp_path, caplog):
    samples = CaptionedSamples(folder, 16, min_side=10, left_out=tmp_path / "out" / "left.jsonl")
    rows = map(json.loads, (tmp_path / "out" / "left.jsonl").read_text().splitlines())
    why = {row["name"]: row["why"] for row in rows}
    assert set(why) == {"4.png", "9.png"} and "below 10" in why["4.png"]
    assert len(samples) == 4 and "left out 2" in caplog.text
    with pytest.raises(ValueError, match=r"No captioned picture .* is left .*lower the limits"):
        CaptionedSamples(folder, 16, min_side=1000)


def test_identity_says_what_the_samples_depend_on(folder):
    base = CaptionedSamples(folder, 16).identity()
    assert json.loads(json.dumps(base)) == base
    others = [
        CaptionedSamples(folder, 8).identity(),
        CaptionedSamples(folder, 16, "pad").identity(),
        CaptionedSamples(folder, 16, jitter=False).identity(),
        CaptionedSamples(folder, 16, mirror=True).identity(),
        CaptionedSamples(folder, 16, clean=True).identity(),
        CaptionedSamples(folder, 16, min_side=10).identity(),
    ]
    put(folder.path, {"0.txt": "something else"})
    others.append(CaptionedSamples(read_captioned(folder.path), 16).identity())
    assert all(base != other for other in others)


@pytest.mark.parametrize(
    "wrong",
    [{"side": 0}, {"side": 10**9}, {"fit": "stretch"}, {"min_side": 0}, {"max_watermark": 2}],
)
def test_numbers_out_of_range(folder, wrong):
    with pytest.raises(ValueError, match=r"give|choose"):
        CaptionedSamples(folder, **({"side": 16} | wrong))
