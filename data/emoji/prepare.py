"""Makes the prepared set of drawings again: vector drawings and words from npm packages.

    python -m data emoji DEST                       fetches the packages with npm, draws, writes
    python -m data emoji DEST --packages FOLDER     from archives that lie there already

The drawings are those of `ARTISTS`, whose licences allow a model to be made of them (MIT,
Apache-2.0, CC BY 4.0); `--share-alike` adds two sets under CC BY-SA 4.0. Names and keywords in
English and French come from Unicode CLDR through `emojibase-data`. Everything is drawn on a
transparent ground, so that a background can be chosen later.

Two kinds of drawings are kept out of training, and say so in their row:

    pair       concept and artist both occur in training, this pair does not
    concept    nobody's drawing of the concept is in training

The two Fluent sets draw nearly the same: they are held out together, or one would give the other
away.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.emoji import Artist, Concept, Drawings, save
from lib.checks import parse_json

SIZE = 64
OVERSAMPLE = 3
MIN_ARTISTS = 3

PACKAGES = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji": "1.2.7",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
    "streamline-emojis": "1.2.4",
    "openmoji": "1.2.29",
    "emojione-v1": "1.2.3",
}
"""npm package `@iconify-json/NAME` -> the version that the committed set was drawn from."""

WORDS_PACKAGE = ("emojibase-data", "17.0.0")

ARTISTS = {
    "twemoji": ("twemoji", "flat"),
    "noto": ("noto", "shaded"),
    "noto-v1": ("blob", "soft"),
    "fluent-emoji-flat": ("fluent flat", "rounded"),
    "fluent-emoji": ("fluent", "glossy"),
    "emojione": ("emojione", "two-tone"),
    "fxemoji": ("firefox", "muted"),
    "streamline-emojis": ("streamline", "outlined"),
    "openmoji": ("openmoji", "black-outlined"),
    "emojione-v1": ("emojione classic", "embossed"),
}
"""npm name -> the artist's name in captions, and one word for how the drawings look."""

SHARE_ALIKE = ("openmoji", "emojione-v1")
OWN_LICENSE = {
    # the package names the licence of fxemoji's code; the drawings' own is in its LICENSE.md
    "fxemoji": ("CC-BY-4.0", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
}
FAMILY = {"fluent-emoji-flat", "fluent-emoji"}

LEFT_OUT_GROUPS = {"component", "flags"}
LEFT_OUT_SUBGROUPS = {
    *("transport-sign", "warning", "arrow", "religion", "zodiac", "av-symbol", "gender", "math"),
    *("punctuation", "currency", "other-symbol", "keycap", "alphanum", "hair-style"),
    "person-symbol",
}
"""Text-like or abstract signs; hearts and geometric shapes stay."""


@dataclass(frozen=True)
class _Word:
    """One character of Unicode: its names, and where CLDR puts it."""

    code: str
    english: str
    french: str
    tags_english: tuple[str, ...]
    tags_french: tuple[str, ...]
    group: str
    subgroup: str
    names: frozenset[str]


def prepare(dest: Path, packages: Path | None = None, share_alike: bool = False) -> Drawings:
    """Draw the whole set into `dest` (`drawings.zip`, `concepts.json`, ATTRIBUTION.md).

    Args:
        dest: folder; made if it is not there.
        packages: folder with the npm archives; None fetches them with `npm pack` into
            `dest/packages`.
        share_alike: also the two sets under CC BY-SA 4.0. A model trained on them falls under that
            licence.

    Raises:
        ValueError: npm or resvg-py is missing, or an archive.
    """
    names = [name for name in PACKAGES if share_alike or name not in SHARE_ALIKE]
    if packages is None:
        packages = _fetch(names, dest / "packages")
    words = _words(_json_files(packages, *WORDS_PACKAGE))
    files = {name: _json_files(packages, f"iconify-json-{name}", PACKAGES[name]) for name in names}
    aliases = _other_names([files["twemoji"], files["noto"]])
    vectors = {name: _vectors(files[name], words, aliases) for name in names}
    words = [w for w in words if sum(w.code in vectors[a] for a in names) >= MIN_ARTISTS]

    rows = _splits(words, names, vectors)
    with ThreadPoolExecutor() as threads:
        drawn = threads.map(lambda row: _raster(vectors[names[row[1]]][words[row[0]].code]), rows)
        pictures = np.stack(list(tqdm(drawn, total=len(rows), desc="drawing")))
    visible = pictures[..., 3].reshape(len(rows), -1).max(1) > 0
    pictures, rows = pictures[visible], [r for r, seen in zip(rows, visible, strict=True) if seen]
    concepts = [
        Concept(w.code, w.english, w.french, w.tags_english, w.tags_french, w.group, w.subgroup)
        for w in words
    ]
    drawings = Drawings(
        pictures=pictures,
        concept=np.array([row[0] for row in rows]),
        artist=np.array([row[1] for row in rows]),
        split=np.array([row[2] for row in rows]),
        concepts=concepts,
        artists=[_artist(name, files[name]) for name in names],
    )
    save(drawings, dest)
    return drawings


def _fetch(names: list[str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"@iconify-json/{name}@{PACKAGES[name]}" for name in names]
    wanted.append("@".join(WORDS_PACKAGE))
    try:
        subprocess.run(["npm", "pack", "--silent", *wanted], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"npm could not fetch the drawings ({error}): install Node.js and go online, or give "
            "a folder with the archives (--packages)."
        ) from error
    return folder


def _json_files(folder: Path, name: str, version: str) -> dict[str, bytes]:
    path = Path(folder) / f"{name}-{version}.tgz"
    if not path.is_file():
        raise ValueError(f"{path} is not there: fetch it with `npm pack`, in exactly this version.")
    with tarfile.open(path) as archive:
        members = [m for m in archive.getmembers() if m.isfile() and m.name.endswith(".json")]
        return {m.name.removeprefix("package/"): archive.extractfile(m).read() for m in members}


def _words(files: dict[str, bytes]) -> list[_Word]:
    """Characters that show something; variants of skin, hair and gender are left out."""
    meta = parse_json(files["meta/groups.json"])
    french = {row["hexcode"]: row for row in parse_json(files["fr/data.json"])}
    short = [parse_json(files[f"en/shortcodes/{kind}.json"]) for kind in ("emojibase", "github")]
    out = []
    for row in parse_json(files["en/data.json"]):
        code = row["hexcode"]
        if "group" not in row or _variant(code):
            continue
        group = meta["groups"][str(row["group"])]
        subgroup = meta["subgroups"][str(row["subgroup"])]
        if group in LEFT_OUT_GROUPS or subgroup in LEFT_OUT_SUBGROUPS:
            continue
        if subgroup == "family" and "200D" in code:
            continue
        names = {_slug(row["label"])}
        for table in short:
            found = table.get(code, [])
            names |= {_slug(name) for name in ([found] if isinstance(found, str) else found)}
        out.append(
            _Word(
                code=code,
                english=row["label"],
                french=french[code]["label"],
                tags_english=tuple(row.get("tags", ())),
                tags_french=tuple(french[code].get("tags", ())),
                group=group,
                subgroup=subgroup,
                names=frozenset(names),
            )
        )
    return out


def _variant(code: str) -> bool:
    """Gendered or tinted forms, couples, and the 24 clock faces."""
    gendered = re.search(r"200D-(2640|2642)|-1F3F[B-F]", code)
    couples = code.startswith(("1F468-", "1F469-"))
    clocks = re.fullmatch(r"1F55[0-9A-F]|1F56[0-7]", code)
    return bool(gendered or couples or clocks)


def _slug(text: str) -> str:
    text = text.lower().replace("’", "").replace("'", "").replace("&", "and")
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _other_names(packages: list[dict[str, bytes]]) -> dict[str, set[str]]:
    """Character -> names, from the packages that list both."""
    out: dict[str, set[str]] = {}
    for files in packages:
        aliases = parse_json(files["icons.json"]).get("aliases", {})
        code_of = {name: code.upper() for code, name in parse_json(files["chars.json"]).items()}
        for name, entry in aliases.items():
            code = code_of.get(entry["parent"]) or code_of.get(name)
            if code and set(entry) == {"parent"}:
                out.setdefault(code, set()).update((name, entry["parent"]))
        for name, code in code_of.items():
            out.setdefault(code, set()).add(name)
    return out


def _vectors(
    files: dict[str, bytes], words: list[_Word], aliases: dict[str, set[str]]
) -> dict[str, str]:
    """Character -> SVG: by the package's own table of characters, else by name."""
    icons = parse_json(files["icons.json"])
    chars = {
        code.upper().replace("-FE0F", ""): name
        for code, name in parse_json(files["chars.json"]).items()
    }
    parents = {
        name: entry["parent"]
        for name, entry in icons.get("aliases", {}).items()
        if set(entry) == {"parent"}
    }
    by_letters: dict[str, str] = {}
    for name in (*icons["icons"], *parents):
        plain = re.sub(r"^u[0-9a-f]{4,5}-", "", name)
        by_letters.setdefault(plain.replace("-", ""), name)
        by_letters.setdefault(re.sub(r"-1$", "", plain).replace("-", ""), name)
    out = {}
    for word in words:
        name = chars.get(word.code.replace("-FE0F", ""))
        for known in sorted(word.names | aliases.get(word.code, set())):
            name = name or by_letters.get(known.replace("-", ""))
        while name in parents:
            name = parents[name]
        if name in icons["icons"]:
            out[word.code] = _svg(icons["icons"][name], icons)
    return out


def _svg(icon: dict, defaults: dict) -> str:
    left, top = (icon.get(key, defaults.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, defaults.get(key, 16)) for key in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    )


def _splits(words: list[_Word], artists: list[str], vectors: dict) -> list[tuple[int, int, str]]:
    """(concept, artist, split) of every drawing: 5 % of concepts unseen, evenly over subgroups."""
    rng = np.random.default_rng(0)
    order = sorted(range(len(words)), key=lambda i: (words[i].subgroup, words[i].code))
    rows = []
    for place, i in enumerate(order):
        drew = [a for a in artists if words[i].code in vectors[a]]
        unseen = place % 20 == 10
        count = 0 if unseen else int(rng.random() < (len(drew) - 2) * 0.125)
        held = set(rng.choice(drew, size=count, replace=False).tolist())
        if held & FAMILY:
            held |= FAMILY & set(drew)
        for artist in drew:
            split = "concept" if unseen else "pair" if artist in held else "train"
            rows.append((i, artists.index(artist), split))
    return rows


def _raster(svg: str) -> np.ndarray:
    """(SIZE, SIZE, 4) uint8, straight alpha: drawn larger, centred, averaged down."""
    try:
        resvg = import_module("resvg_py")  # only whoever prepares the set again needs it
    except ImportError as error:
        raise ValueError("Drawing needs one more package: pip install resvg-py") from error
    data = resvg.svg_to_bytes(svg_string=svg, width=SIZE * OVERSAMPLE, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    # averaged with colours weighed by their coverage, or transparent black would darken edges
    premultiplied = canvas.convert("RGBa").resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(premultiplied.convert("RGBA"))


def _artist(name: str, files: dict[str, bytes]) -> Artist:
    info = parse_json(files["info.json"])
    license = OWN_LICENSE.get(name) or tuple(info["license"][k] for k in ("spdx", "title", "url"))
    caption, look = ARTISTS[name]
    return Artist(
        key=name,
        name=caption,
        look=look,
        title=info["name"],
        author=info["author"]["name"],
        home=info["author"]["url"],
        license=license[0],
        license_title=license[1],
        license_url=license[2],
    )
