"""The three vocabularies of the model: CLIP's, BERT's and GPT-2's, by transformers' own classes.

| for | class | a text becomes |
|---|---|---|
| text contexts | CLIPTokenizer | <start> tokens <end>, padded to the encoder's positions |
| Optimus' encoder | BertTokenizer, *cased*, fed lower-cased text | [CLS] word pieces [SEP] |
| Optimus' decoder | GPT2Tokenizer + <PAD> <BOS> <EOS> | <BOS> tokens <EOS> |
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor

from lib.config import ModelSpec
from lib.lazy import Lazy

if TYPE_CHECKING:
    from transformers import BertTokenizer, CLIPTokenizer, GPT2Tokenizer

transformers = Lazy("transformers")
log = logging.getLogger(__name__)

SMALL = 10_000
"""Tokens up to which a vocabulary is one of a small world, in which every word is one token."""
PAD, BOS, EOS = "<PAD>", "<BOS>", "<EOS>"
HUB = {"clip": "openai/clip-vit-large-patch14", "bert": "bert-base-cased", "gpt2": "gpt2"}
FILES = {
    "clip": ("vocab.json", "merges.txt"),
    "bert": ("vocab.txt",),
    "gpt2": ("vocab.json", "merges.txt"),
}
_T = TypeVar("_T", "CLIPTokenizer", "BertTokenizer", "GPT2Tokenizer")


def load_tokenizers(source: str | Path | None = None, spec: ModelSpec | None = None) -> Tokenizers:
    """The tokenizers of a model, each read when it is first used.

    Args:
        source: a folder with subfolders clip/, bert/ and gpt2/, or with CLIP's files alone, as
            diffusers has it; None for the official ones on the hub (`HUB`; downloaded once, then
            from the local cache), which also stand in for what diffusers lacks.
        spec: the model they are for: gives the lengths, and their sizes are checked against it.

    Raises:
        ValueError: `source` is no such folder.
    """
    if source is not None:
        source = Path(source)
        if not any((source / name).is_dir() for name in HUB) and not _is_clip(source):
            raise ValueError(
                f"{source} has no folder {' or '.join(HUB)}: give a model's tokenizers/ folder, or "
                "None for the official tokenizers on the hub."
            )
    return Tokenizers(source, spec)


class Tokenizers:
    """Texts to ids and back. Made by `load_tokenizers`."""

    def __init__(self, source: Path | None, spec: ModelSpec | None = None):
        self.source = source
        self.spec = spec
        self.clip_positions = 77 if spec is None else spec.clip.text.positions
        self.max_input = 77 if spec is None else spec.text_vae.max_input

    @cached_property
    def clip(self) -> CLIPTokenizer:
        """CLIP's byte-pair encoding, lower-casing."""
        tokenizer = self._read("clip", transformers.CLIPTokenizer)
        if self.spec is not None:
            text = self.spec.clip.text
            self._fits("clip", len(tokenizer), text.vocab)
            ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
            if ends != (text.bos, text.eos):
                raise ValueError(
                    f"The tokenizer of {self._where('clip')} starts and ends texts with ids "
                    f"{ends}, the model with {(text.bos, text.eos)}: give the model's own."
                )
        return tokenizer

    @cached_property
    def bert(self) -> BertTokenizer:
        """BERT's word pieces with capital letters; `bert_ids` lower-cases first."""
        tokenizer = self._read("bert", transformers.BertTokenizer, do_lower_case=False)
        if self.spec is not None:
            self._fits("bert", len(tokenizer), self.spec.text_vae.bert_vocab)
        return tokenizer

    @cached_property
    def gpt2(self) -> GPT2Tokenizer:
        """GPT-2's byte-pair encoding, with <PAD>, <BOS> and <EOS> as its last three ids."""
        tokenizer = self._read("gpt2", transformers.GPT2Tokenizer)
        # One at a time: together, transformers would number them in an order of its own.
        for role, token in (("pad_token", PAD), ("bos_token", BOS), ("eos_token", EOS)):
            tokenizer.add_special_tokens({role: token})
        if self.spec is not None:
            self._fits("gpt2", len(tokenizer), self.spec.text_vae.gpt2_vocab)
        return tokenizer

    @property
    def pad(self) -> int:
        """Id of <PAD> (GPT-2)."""
        return self.gpt2.convert_tokens_to_ids(PAD)

    @property
    def bos(self) -> int:
        """Id of <BOS> (GPT-2)."""
        return self.gpt2.convert_tokens_to_ids(BOS)

    @property
    def eos(self) -> int:
        """Id of <EOS> (GPT-2)."""
        return self.gpt2.convert_tokens_to_ids(EOS)

    def clip_ids(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, positions) long: <start> tokens <end>, then padding.

        Raises:
            ValueError: a text has more tokens than positions.
        """
        rows = self.clip(_checked(texts))["input_ids"] if texts else []
        limit = self.clip_positions
        for text, row in zip(texts, rows, strict=True):
            if len(row) > limit:
                over = self.clip.decode(row[limit - 1 : -1]).strip()
                raise ValueError(
                    f"The prompt {text[:60]!r}... has {len(row)} tokens with its start and end, "
                    f"the limit is {limit}: shorten it by {len(row) - limit} or more; over the "
                    f"limit is {over[:80]!r}."
                )
        return _padded(rows, self.clip.pad_token_id, limit)

    @cached_property
    def known_words(self) -> frozenset[str]:
        """The words of a small world, all of them in its vocabulary; none of an official one."""
        if len(self.bert) > SMALL:
            return frozenset()
        return frozenset(
            w for w in self.bert.get_vocab() if w.isalpha() and (len(w) > 1 or w == "a")
        )

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that a model of a small world has never read, in order."""
        if not self.known_words:
            return []
        words = dict.fromkeys(re.findall(r"[^\W\d_]{2,}", text.lower()))
        return [word for word in words if word not in self.known_words]

    def bert_ids(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, L) long: lower-cased, [CLS] at most `max_input` word pieces [SEP], 0s.

        Longer texts are cut, as in the released code (with a warning in the log).
        """
        texts = [text.lower() for text in _checked(texts)]
        rows = self.bert(texts, add_special_tokens=False)["input_ids"] if texts else []
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.max_input:
                log.warning("%r...: cut after %d word pieces", text[:60], self.max_input)
        first, last = self.bert.cls_token_id, self.bert.sep_token_id
        rows = [[first, *row[: self.max_input], last] for row in rows]
        return _padded(rows, self.bert.pad_token_id)

    def gpt2_ids(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, L) long: <BOS> tokens <EOS>, padded with <PAD>. Case is kept."""
        rows = self.gpt2(_checked(texts), add_special_tokens=False)["input_ids"] if texts else []
        return _padded([[self.bos, *row, self.eos] for row in rows], self.pad)

    def gpt2_text(self, ids: Sequence[Sequence[int]] | Tensor) -> list[str]:
        """Rows of ids that the decoder generated -> texts, as the released code makes them.

        Everything after the first <EOS> is ignored; special tokens count as words; the first and
        the last word are dropped (a text without <EOS> loses its last word), then repeated n-grams.

        Args:
            ids: rows from <BOS> on, with <EOS> or not, with padding or not.
        """
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        return [self._text(row) for row in rows]

    def _text(self, ids: Sequence[int]) -> str:
        special = {self.pad: PAD, self.bos: BOS, self.eos: EOS}
        pieces: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in special:
                pieces += [self._decode(run), special[token]]
                run = []
            else:
                run.append(token)
            if token == self.eos:
                break
        pieces.append(self._decode(run))
        return remove_repeated_ngrams(drop_first_and_last_word(" ".join(pieces)))

    def _decode(self, ids: list[int]) -> str:
        return self.gpt2.decode(ids, clean_up_tokenization_spaces=False) if ids else ""

    def sizes(self) -> dict[str, int]:
        """What a `ModelSpec` has to say of these tokenizers; its field names, by network."""
        return {
            "clip.vocab": len(self.clip),
            "clip.bos": self.clip.bos_token_id,
            "clip.eos": self.clip.eos_token_id,
            "bert_vocab": len(self.bert),
            "gpt2_vocab": len(self.gpt2),
        }

    def _where(self, name: str) -> str:
        return str(self._folder(name) or HUB[name])

    def _folder(self, name: str) -> Path | None:
        """Where a tokenizer's files are; None: on the hub."""
        if self.source is not None and _is_clip(self.source):
            return self.source if name == "clip" else None
        return None if self.source is None else self.source / name

    def _read(self, name: str, kind: type[_T], **options: bool) -> _T:
        # The files are looked for here because `from_pretrained` does not: where it finds none, it
        # returns an empty vocabulary without a word.
        here = self._folder(name)
        folder = here or _download(name)
        absent = [file for file in FILES[name] if not (folder / file).is_file()]
        if absent and not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder} lacks {' and '.join(absent)}: copy the whole folder.")
        try:
            tokenizer = kind.from_pretrained(str(folder), **options)
            tokenizer("\N{SNOWMAN}")  # no vocabulary holds it: without [UNK], only encoding fails
        except Exception as error:  # the tokenizers library raises no narrower class
            advice = "copy the whole folder again."
            if here is None:
                advice = f"remove {HUB[name]} from the Hugging Face cache, to download it again."
            raise ValueError(f"{folder} is damaged ({error}): {advice}") from error
        return tokenizer

    def _fits(self, name: str, tokens: int, vocab: int) -> None:
        if tokens > vocab:
            raise ValueError(
                f"The tokenizer of {self._where(name)} knows {tokens} tokens, the model {vocab}: "
                "give the model's own tokenizers."
            )


def _is_clip(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json"))


def _download(name: str) -> Path:
    """The folder of an official tokenizer's files: from the local cache, else from the hub."""
    try:
        paths = [_cached_or_fetched(HUB[name], file) for file in FILES[name]]
    except OSError as error:
        raise OSError(
            f"The official tokenizer {HUB[name]} is not in the Hugging Face cache and could not be "
            "downloaded: go online once, or give a folder with clip/, bert/ and gpt2/."
        ) from error
    return Path(paths[0]).parent


def _cached_or_fetched(repo: str, file: str) -> str:
    try:
        return hf_hub_download(repo, file, local_files_only=True)
    except LocalEntryNotFoundError:
        return hf_hub_download(repo, file)


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError("Texts must be a list of strings: put a single text in a list, too.")
    return list(texts)


def _padded(rows: list[list[int]], pad: int, length: int = 0) -> Tensor:
    length = max([length, *map(len, rows)])
    padded = [row + [pad] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), length)


def drop_first_and_last_word(text: str) -> str:
    """`"<BOS> a red car <EOS>"` -> `"a red car"`, the way of the released code.

    It drops the first and the last word *whatever they are*. A sample that was stopped by the token
    limit has no <EOS>, so it loses its last word: kept, as a cut-off word is often half a word.
    """
    return " ".join(text.split()[1:-1])


def remove_repeated_ngrams(text: str) -> str:
    """Remove the second of two equal neighbouring n-grams, again and again, for n = 1, 2, ...

    Words are what whitespace separates, compared exactly: `"the cat the cat sat"` ->
    `"the cat sat"`, but `"on the mat, on the mat."` stays as it is.
    """
    words = text.split()
    n = 1
    while 2 * n <= len(words):
        i = 0
        while i + 2 * n <= len(words):
            if words[i : i + n] == words[i + n : i + 2 * n]:
                del words[i + n : i + 2 * n]
                i = 0  # what moved up may repeat what stands before it
            else:
                i += 1
        n += 1
    return " ".join(words)
