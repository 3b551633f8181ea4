"""What a mode made, with everything needed to make it again; and what a notebook shows.

>>> show(result)                                          # pictures on a sheet, or a table of texts
>>> show({"ddim": first, "heun": second}, columns=2)      # side by side, each with its label
>>> show([{"text": "a red circle", "score": 0.3}])        # a table
"""

from __future__ import annotations

import base64
import html
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageStat

from analysis.results.sheets import contact_sheet

if TYPE_CHECKING:  # torch takes seconds, and only tensors need it
    from torch import Tensor

_UNSEEN = 2
"""Mean difference, of 255, up to which a palette does not show."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a mode made, and everything needed to make it again: pictures, texts or tensors.

    Attributes:
        mode: what made it; the name of its folder.
        record: plain JSON types: what all samples share, and under "samples" what each has of its
            own (its seed, its prompt or input).
        images: RGB pictures, if the mode makes pictures.
        texts: strings, if it makes texts.
        tensors: (B, ...) instead of both, for the outputs "tensor" and "latents"
            (`analysis.modes.decoding`).
    """

    mode: str
    record: dict[str, Any]
    images: list[Image.Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tensors: Tensor | None = None

    def __post_init__(self) -> None:
        counts = {len(self.items), len(self.record["samples"])}
        kinds = bool(self.images) + bool(self.texts) + (self.tensors is not None)
        assert len(counts) == 1 and kinds <= 1, (counts, kinds)

    @property
    def items(self) -> list[Image.Image] | list[str] | list[Tensor]:
        """The pictures, the texts, or the tensors."""
        return list(self.tensors) if self.tensors is not None else self.images or self.texts

    @property
    def seeds(self) -> list[int]:
        """One a sample."""
        return [sample["seed"] for sample in self.record["samples"]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Result:
        """One sample, as a result of its own."""
        record = {**self.record, "samples": [self.record["samples"][k]]}
        if self.tensors is not None:
            return Result(self.mode, record, tensors=self.tensors[k][None])
        if self.images:
            return Result(self.mode, record, images=[self.images[k]])
        return Result(self.mode, record, texts=[self.texts[k]])

    def record_of(self, k: int) -> dict[str, Any]:
        """The whole record of one sample, flat."""
        return flat_record(self.record, self.record["samples"][k])

    def sheet(self, columns: int | None = None, **options: Any) -> Image.Image:
        """The pictures on a contact sheet: a row an input if there are several, seeds below.

        A strip has a row for each seed, in order of what was slid, which stands below.

        Args:
            columns: pictures a row.
            options: as `analysis.results.sheets.contact_sheet` takes them.

        Raises:
            ValueError: the result holds texts or tensors.
        """
        if not self.images:
            instead = "print its texts" if self.texts else "decode them (analysis.modes.decoding)"
            raise ValueError(f"{self!r} holds no pictures, so there is no sheet: {instead}.")
        records = [self.record_of(k) for k in range(len(self))]
        titles = [title(record) for record in records]
        order: Iterable[int] = range(len(self))
        strip = records[0].get("strip")
        if strip and all(strip in record for record in records):
            keys = list(zip(titles, self.seeds, strict=True))
            rows = list(dict.fromkeys(keys))
            order = sorted(order, key=lambda k: (rows.index(keys[k]), records[k][strip]))
            columns = columns or len(records) // len(rows)
            labels = [f"{strip} {record[strip]:.3g}, seed {record['seed']}" for record in records]
        else:
            several = len(set(titles)) > 1
            if columns is None and several:
                first = next(k for k, name in enumerate(titles) if name != titles[0])
                columns = first if first > 1 else None
            names = [f": {name}" if several else "" for name in titles]
            labels = [f"seed {seed}{name}" for seed, name in zip(self.seeds, names, strict=True)]
        labels = options.pop("labels", labels)
        images = [self.images[k] for k in order]
        return contact_sheet(images, columns, labels and [labels[k] for k in order], **options)

    @property
    def alt(self) -> str:
        """What is on the pictures, for who cannot see them: how many, and of which inputs."""
        titles = list(dict.fromkeys(filter(None, map(title, self.record["samples"]))))
        names = "; ".join(titles[:4]) + (f"; {len(titles) - 4} more" if titles[4:] else "")
        return f"{repr(self)[:-1]}: {names})"

    def __repr__(self) -> str:
        kind = "picture" if self.images else "text" if self.tensors is None else "tensor"
        plural = "" if len(self) == 1 else "s"
        seeds = ", ".join(map(str, self.seeds[:4])) + (", ..." if len(self) > 4 else "")
        return f"Result({self.mode}: {len(self)} {kind}{plural}, seed{plural} {seeds})"

    def _repr_html_(self) -> str | None:
        """What a notebook shows: pictures on a sheet, with words for who cannot see it; texts."""
        records = [self.record_of(k) for k in range(len(self))]
        if self.images:
            return html_picture(self.sheet(), self.alt)
        if not self.texts:
            return None
        strip = records[0].get("strip", "")
        return html_table(
            [
                {"input": title(record), "seed": record["seed"]}
                | ({strip: f"{record[strip]:g}"} if strip in record else {})
                | {"text": text}
                for record, text in zip(records, self.texts, strict=True)
            ]
        )


def joined(parts: Iterable[Result]) -> Result:
    """Results of one job, or of jobs of one mode, made batch by batch, as one.

    What the parts' records do not agree on becomes each sample's own.
    """
    parts = list(parts)
    first = parts[0].record
    differing = {
        key
        for part in parts
        for key, value in part.record.items()
        if key not in ("samples", "created", "seconds") and first.get(key, part) != value
    }
    record = {
        **{key: value for key, value in first.items() if key not in differing},
        "samples": [
            {**sample, **{key: part.record[key] for key in sorted(differing)}}
            for part in parts
            for sample in part.record["samples"]
        ],
        "seconds": round(sum(part.record.get("seconds", 0) for part in parts), 3),
    }
    images = [image for part in parts for image in part.images]
    texts = [text for part in parts for text in part.texts]
    tensors = [part.tensors for part in parts if part.tensors is not None]
    if tensors:
        import torch

        return Result(parts[0].mode, record, tensors=torch.cat(tensors))
    return Result(parts[0].mode, record, images, texts)


def flat_record(shared: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """What all samples share and what one has of its own, as one record."""
    own = {"mode": shared["mode"], **sample}
    return own | {key: value for key, value in shared.items() if key != "samples"}


def title(record: dict[str, Any]) -> str:
    """What a result is called: its prompt, or its input file's name without ending, or ""."""
    return record.get("prompt") or Path((record.get("input") or {}).get("file", "")).stem


def html_picture(picture: Image.Image, alt: str) -> str:
    """A picture as HTML that needs no other file, small enough for a notebook with many of them.

    Drawings and figures get a palette of 256 colours; where that is seen (on photographs), JPEG is
    used instead. What is saved to disk is exact.

    Args:
        picture: to show.
        alt: what is on it, for who cannot see it.
    """
    picture, buffer, kind = picture.convert("RGB"), io.BytesIO(), "png"
    few = picture.quantize(256, dither=Image.Dither.NONE)
    off = ImageStat.Stat(ImageChops.difference(few.convert("RGB"), picture)).mean
    if max(off) <= _UNSEEN:
        few.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        picture.save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def html_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Rows (column -> text or number) as an HTML table; the first row names the columns."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"<td>{value:.4g}</td>" if isinstance(value, float) else f"<td>{value}</td>"
    return f'<td style="text-align:left">{html.escape(str(value))}</td>'


# ---------------------------------------------------------------------- in a notebook


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures side by side.

    Attributes:
        image: all of them on one picture.
        alt: what is on it, in words.
    """

    image: Image.Image
    alt: str

    def _repr_html_(self) -> str:
        return html_picture(self.image, self.alt)


@dataclass(frozen=True)
class Table:
    """Rows, column -> text or number, and what stands above them."""

    rows: list[Mapping[str, Any]]
    caption: str = ""

    def _repr_html_(self) -> str:
        return html_table(self.rows, self.caption)

    def __str__(self) -> str:
        lines = ["  ".join(map(str, row.values())) for row in self.rows]
        return "\n".join([self.caption, *lines] if self.caption else lines)


def show(what: Any, columns: int | None = None, *, caption: str = "", **sheet: Any) -> Any:
    """Show something below a notebook's cell.

    Args:
        what: a `Result`; a picture, or a list of pictures or results of pictures; label -> picture
            or result of one picture; a list of rows (column -> text or number); or what can show
            itself: a figure, a twin.
        columns: pictures a row.
        caption: stands above a table; of pictures, is what they are for who cannot see them.
        sheet: cell, gap, ... as `contact_sheet` takes them.

    Returns:
        None in a notebook. Elsewhere what was shown: a sheet has its picture as `image`.

    Raises:
        ValueError: nothing to show.
    """
    shown = _displayable(what, columns, caption, sheet)
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return shown
    shell.display.display(shown)
    return None


def _displayable(what: Any, columns: int | None, caption: str, sheet: dict[str, Any]) -> Any:
    if isinstance(what, Result) and what.images and (columns or sheet):
        return Sheet(what.sheet(columns, **sheet), caption or what.alt)
    if hasattr(what, "_repr_html_"):
        return what
    rows = isinstance(what, (list, tuple)) and what and isinstance(what[0], Mapping)
    if rows:
        return Table(list(what), caption)
    labels = None
    if isinstance(what, Mapping):
        labels, what = list(map(str, what)), what.values()
    pictures = [what] if isinstance(what, Image.Image) else what
    images = [
        image
        for picture in pictures
        for image in (picture.images if isinstance(picture, Result) else [picture])
    ]
    image = contact_sheet(images, columns, labels, **sheet)
    names = "; ".join(labels or [])
    return Sheet(image, ": ".join(filter(None, (caption or f"{len(images)} pictures", names))))
