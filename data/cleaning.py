"""Captions from the web, cleaned: what says nothing of the picture goes.

Addresses, HTML, remarks in brackets and stray quotation marks are what pages leave in alternative
texts; a text encoder would spend its few words on them.
"""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S+|\S+@[\w-]+(?:\.[\w-]+)+"
    r"|\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|info|io|co|jpe?g|png|gif|webp|html?)\b(?:/\S*)?",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|\{[^{}]*\}|【[^【】]*】")
_QUOTES = str.maketrans({**dict.fromkeys("“”„«»″", '"'), **dict.fromkeys("‘’‚′", "'")})
_EDGES = " \t,;:|/\\-–—_*#~·•<>()[]{}"
_MOST = 4096  # characters of which the rest is no caption


def clean_caption(text: str) -> str:
    """A caption without HTML, addresses, remarks in brackets, and marks at its ends.

    What stands in brackets stays where nothing else would. Empty if nothing is left.
    """
    text = html.unescape(html.unescape(text[:_MOST]))  # pages escape twice
    text = _ADDRESS.sub(" ", _TAG.sub(" ", text).translate(_QUOTES))
    bare = text
    while (shorter := _REMARK.sub(" ", bare)) != bare:  # from the inside out
        bare = shorter
    return _tidy(bare) or _tidy(text)


def _tidy(text: str) -> str:
    """Single spaces, none before punctuation; no marks at the ends, no quotes around the whole."""
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split())).strip(_EDGES)
    while text[:1] in ("'", '"') and text[-1:] == text[:1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip(_EDGES)
    return text.strip('"') if text.count('"') % 2 else text
