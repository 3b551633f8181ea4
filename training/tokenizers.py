"""Makes the three tokenizers of a small model from the sentences it will see.

The files are those that transformers' classes load (vocab.json + merges.txt, vocab.txt,
tokenizer_config.json): nothing in `lib` knows whether a vocabulary is the official one or this one.
Each has every byte (or printable character) plus enough merges that every word of the corpus is a
single token, so any text can be encoded and the sentences of the corpus are short.
"""

from __future__ import annotations

import json
import string
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import BertTokenizer, CLIPTokenizer, GPT2Tokenizer

from lib.tokenizers import BOS, EOS, PAD, Tokenizers, load_tokenizers

CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # [PAD] must be 0: mask = ids > 0
WORD_END = "</w>"


def train_tokenizers(
    corpus: Iterable[str], folder: str | Path, max_merges: int = 4000
) -> Tokenizers:
    """Write clip/, bert/ and gpt2/ under `folder`, and load them.

    The same corpus gives the same files.

    Args:
        corpus: sentences; all the words that the model has to know.
        folder: made if it is not there; files in it are overwritten.
        max_merges: bound of the byte-pair merges of each vocabulary. Below it, training ends when
            every word of the corpus is one token.

    Raises:
        ValueError: the corpus has no words.
    """
    sentences = sorted(set(corpus))
    if not any(sentence.split() for sentence in sentences):
        raise ValueError("the corpus has no words; give sentences to train the tokenizers on")
    folder = Path(folder)
    _write_clip(sentences, folder / "clip", max_merges)
    _write_bert(sentences, folder / "bert")
    _write_gpt2(sentences, folder / "gpt2", max_merges)
    return load_tokenizers(folder)


def _write_clip(sentences: list[str], folder: Path, max_merges: int) -> None:
    """CLIP: bytes, bytes that end a word, merges; start and end are the two largest ids."""
    merges = _train_merges(sentences, CLIPTokenizer().backend_tokenizer, WORD_END, max_merges)
    alphabet = _alphabet()
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    _write_bpe(folder, [*tokens, *CLIP_SPECIAL], merges)
    start, end = CLIP_SPECIAL
    _write_config(
        folder, "CLIPTokenizer", bos_token=start, eos_token=end, unk_token=end, pad_token=end
    )


def _write_gpt2(sentences: list[str], folder: Path, max_merges: int) -> None:
    """GPT-2: bytes, merges, its own <|endoftext|>, then Optimus' <PAD>, <BOS>, <EOS>."""
    merges = _train_merges(sentences, GPT2Tokenizer().backend_tokenizer, "", max_merges)
    tokens = [*_alphabet(), *(left + right for left, right in merges)]
    _write_bpe(folder, [*tokens, "<|endoftext|>", PAD, BOS, EOS], merges)
    _write_config(
        folder,
        "GPT2Tokenizer",
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token="<|endoftext|>",
    )


def _write_bert(sentences: list[str], folder: Path) -> None:
    """BERT: characters, characters inside a word (##), then the corpus' words, frequent ones first.

    A full word is always the longest match, so no word-piece training is needed.
    """
    backend = BertTokenizer(do_lower_case=False).backend_tokenizer
    words = _count_words([sentence.lower() for sentence in sentences], backend)
    printable = set(string.ascii_lowercase + string.digits + string.punctuation)
    letters = sorted(printable.union(*words))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    tokens = [*BERT_SPECIAL, *letters, *("##" + letter for letter in letters)]
    tokens += [word for word in ranked if len(word) > 1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    _write_config(folder, "BertTokenizer", do_lower_case=False)


def _train_merges(
    sentences: list[str], like: Tokenizer, word_end: str, max_merges: int
) -> list[tuple[str, str]]:
    """Byte-pair encoding: join the most frequent pair of neighbours, again and again.

    Written out here because the `tokenizers` library breaks ties differently in every process, and
    two trainings of one corpus must give one vocabulary. Its own rules split text into words.
    """
    words = _count_words(sentences, like)
    splits = {word: [*word[:-1], word[-1] + word_end] for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # words that have a pair
    for word, parts in splits.items():
        for pair in pairwise(parts):
            pairs[pair] += words[word]
            holders[pair].add(word)
    merges: list[tuple[str, str]] = []
    while len(merges) < max_merges and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in holders.pop(best):
            before, splits[word] = splits[word], _join(splits[word], best)
            for pair in pairwise(before):
                pairs[pair] -= words[word]
                if not pairs[pair]:
                    del pairs[pair]
            for pair in pairwise(splits[word]):
                pairs[pair] += words[word]
                holders[pair].add(word)
    return merges


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every occurrence of `pair`, from the left, made one."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _count_words(sentences: list[str], like: Tokenizer) -> Counter[str]:
    """Words as `like` normalises and splits text, in the letters of its vocabulary."""
    words: Counter[str] = Counter()
    for sentence in sentences:
        if like.normalizer is not None:
            sentence = like.normalizer.normalize_str(sentence)
        words.update(word for word, _ in like.pre_tokenizer.pre_tokenize_str(sentence))
    return words


def _alphabet() -> list[str]:
    """The 256 printable stand-ins of the bytes."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _write_bpe(folder: Path, tokens: list[str], merges: list[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    text = json.dumps(ids, ensure_ascii=False, indent=0)
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_config(folder: Path, kind: str, **options: str | bool) -> None:
    text = json.dumps({"tokenizer_class": kind, **options}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
