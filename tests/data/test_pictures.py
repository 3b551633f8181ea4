"""Pixels are read whatever lies around them, and nothing stops the rest of a folder."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from data.decode import UnreadableFileError
from data.folders import PICTURE_BYTES, others_below, picture_endings, pictures_below
from data.pictures import (
    Picture,
    names_a_picture,
    open_mask,
    open_picture,
    picture_files,
    read_pictures,
)
from tests.conftest import drawing


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(data: bytes, extra: bytes, last: bool = False) -> bytes:
    """A PNG with one more chunk: after its header, or after its pixels."""
    place = len(data) - 12 if last else 33
    return data[:place] + extra + data[place:]


def grey_png(width: int, height: int, blocks: int) -> bytes:
    """A black PNG of any size, in few bytes."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * 2_000_000) for _ in range(blocks)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# ------------------------------------------------------------------ metadata


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 400_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"node " * 400_000)),
        chunk(b"tEXt", b"parameters\0a cat", checksum=1),
        chunk(b"iCCP", b"much\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"eXIf", b"II*\0nonsense"),
        chunk(b"pHYs", b"\0"),
    ],
    ids=["compressed text", "international text", "wrong checksum", "profile", "EXIF", "density"],
)
def test_pixels_are_read_whatever_the_metadata(tmp_path, extra, last):
    image = drawing(0).convert("RGB")
    (tmp_path / "x.png").write_bytes(with_chunk(png(image), extra, last))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_picture(tmp_path / "x.png")
    assert np.array_equal(np.asarray(opened), np.asarray(image))


def test_large_texts_do_not_cost_what_else_is_known(tmp_path):
    """A rotation and a profile count, though a text beside them cannot be read."""
    image, exif = Image.new("RGB", (4, 2), (9, 9, 200)), Image.Exif()
    exif[0x0112] = 6
    data = png(image, exif=exif)
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 400_000))
    assert open_picture("x.png", with_chunk(data, text)).size == (2, 4)


def test_texts_of_pictures_are_no_reason_for_another_result():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat", zip=True)
    image = drawing(3)
    assert (
        open_picture("x", png(image, pnginfo=info)).tobytes()
        == open_picture("x", png(image)).tobytes()
    )


def test_damaged_pixels_are_damage(tmp_path):
    data = png(drawing(0))
    with pytest.raises(ValueError, match=r"x.png is damaged.*copy or save it again"):
        open_picture("x.png", data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"x.png is empty"):
        open_picture("x.png", b"")


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    "width, height, blocks",
    [(1, 89_000_000, 89), (60_000, 60_000, 1), (70_000, 500, 1), (1, 201, 1)],
)
def test_what_is_too_large_is_told_so_and_never_damaged(tmp_path, width, height, blocks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"is too large .*178,000,000 pixels") as error:
            open_picture("x.png", grey_png(width, height, blocks))
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)


def test_pictures_up_to_the_limits_are_opened():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture("x.png", grey_png(10_000, 9_000, 46)).size == (10_000, 9_000)
    assert open_picture("x.png", grey_png(1, 200, 1)).size == (1, 200)


# ------------------------------------------------------------------ what is no file


def monsters(folder: Path) -> None:
    """What looks like pictures by name, and never ends, or is none."""
    os.mkfifo(folder / "fifo.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(PICTURE_BYTES + 1)
    (folder / "thin.png").write_bytes(grey_png(1, 89_000_000, 89))
    (folder / "text.png").write_text("no picture")


def test_monsters_are_refused_by_what_they_are(tmp_path):
    monsters(tmp_path)
    for name in ("fifo.png", "endless.png"):
        with pytest.raises(UnreadableFileError, match="no regular file"):
            open_picture(tmp_path / name)
    with pytest.raises(UnreadableFileError, match="1,073,741,825 bytes, and at most"):
        open_picture(tmp_path / "sparse.png")


def test_the_rest_of_a_folder_is_done(tmp_path):
    monsters(tmp_path)
    drawing(0).save(tmp_path / "a.png")
    drawing(1).save(tmp_path / "z.png")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "a.txt").write_text("a caption")
    good, skipped = read_pictures([tmp_path])
    assert [picture.name for picture in good] == ["a.png", "z.png"]
    others = {Path(item.name).name for item in skipped if not item.failed}
    failed = {Path(item.name).name: item.why for item in skipped if item.failed}
    assert others == {"notes.pdf", "a.txt"}
    assert set(failed) == {"fifo.png", "endless.png", "sparse.png", "thin.png", "text.png"}
    assert failed["fifo.png"] == "cannot be read (it is no regular file)"
    assert failed["thin.png"].startswith("is too large (1 x 89,000,000 pixels)")
    assert not any(str(tmp_path) in why for why in failed.values())


def test_a_file_named_by_itself_has_to_be_good(tmp_path):
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    drawing(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"notes.pdf is not a picture"):
        read_pictures([tmp_path / "a.png", tmp_path / "notes.pdf"])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"None of the pictures .*x.png: is not a picture"):
        read_pictures([broken])


def test_a_documents_ending_is_no_pictures():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".gif", ".bmp"} <= picture_endings()
    assert not {".pdf", ".eps", ".ps", ".txt", ".mpg", ".h5"} & picture_endings()
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(ValueError, match="not a picture in a format that is known here"):
        open_picture("x.png", page)  # never handed to an interpreter


def test_folders_pass_over_what_is_no_picture(tmp_path):
    for name in ("b.png", "sub/a.JPG", ".hidden.png", "notes.pdf", "sub/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in pictures_below(tmp_path)] == ["b.png", "sub/a.JPG"]
    assert [item.name for item in others_below(tmp_path)] == ["notes.pdf", "sub/x.txt"]
    assert [path.name for path in picture_files([tmp_path])] == ["b.png"]
    assert names_a_picture(str(tmp_path / "b.png"))
    assert not names_a_picture(str(tmp_path / "notes.pdf")) and not names_a_picture("a" * 5000)


# ------------------------------------------------------------------ masks


def layer(color: tuple[int, int, int]) -> Image.Image:
    """A transparent 2 x 2 layer: one place painted, one painted by half."""
    image = Image.new("RGBA", (2, 2))
    image.putpixel((0, 0), (*color, 255))
    image.putpixel((1, 0), (*color, 51))
    return image


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (90, 90, 90)])
def test_coverage_of_a_painted_layer_is_the_mask(tmp_path, color):
    image = layer(color)
    image.save(tmp_path / "mask.png")
    wanted = torch.tensor([[1, 0.2], [0, 0]])
    for given in (image, tmp_path / "mask.png", Picture.of(tmp_path / "mask.png")):
        assert torch.equal(open_mask(given), wanted)


def test_brightness_counts_where_a_mask_is_covered():
    image = Image.new("L", (2, 2), 0)
    image.putpixel((0, 0), 255)
    image.putpixel((1, 0), 51)
    wanted = torch.tensor([[1, 0.2], [0, 0]])
    assert torch.equal(open_mask(image), wanted)
    assert torch.equal(open_mask(image.convert("RGBA")), wanted), "opaque: alpha says nothing"
    mixed = image.convert("RGBA")
    mixed.putpixel((0, 0), (255, 255, 255, 51))
    assert torch.allclose(open_mask(mixed), torch.tensor([[0.2, 0.2], [0, 0]]))
    assert torch.equal(open_mask(Image.new("RGBA", (2, 2))), torch.zeros(2, 2))
