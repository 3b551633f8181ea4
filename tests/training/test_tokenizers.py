"""Tokenizers trained from a corpus: every word one token, any text encodable, the same again."""

import json

import pytest
from transformers import BertTokenizer, CLIPTokenizer, GPT2Tokenizer

from training.tokenizers import train_tokenizers

CORPUS = [
    "a large red circle above a small blue square, drawn flat on cream",
    "two striped stars to the left of a tiny diamond",
    "Big hearts: dotted; over a ring!",
]
KINDS = {"clip": CLIPTokenizer, "bert": BertTokenizer, "gpt2": GPT2Tokenizer}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers")
    train_tokenizers(iter(CORPUS), path)
    return path


@pytest.fixture(scope="module")
def plain(folder):
    """Loaded by transformers alone, as anybody would."""
    return {name: kind.from_pretrained(str(folder / name)) for name, kind in KINDS.items()}


@pytest.mark.parametrize("name", list(KINDS))
def test_every_word_of_the_corpus_is_one_token(plain, name):
    tokenizer = plain[name]
    for text in CORPUS:
        text = text.lower() if name == "bert" else text
        pieces = tokenizer.tokenize(text)
        punctuation = sum(not letter.isalnum() and letter != " " for letter in text)
        assert len(pieces) == len(text.split()) + punctuation, pieces


@pytest.mark.parametrize("name", list(KINDS))
def test_loaded_ids_are_the_files_ids(folder, plain, name):
    if name == "bert":
        tokens = (folder / name / "vocab.txt").read_text(encoding="utf-8").splitlines()
        ids = {token: i for i, token in enumerate(tokens)}
    else:
        ids = json.loads((folder / name / "vocab.json").read_text(encoding="utf-8"))
    assert plain[name].get_vocab() == ids
    assert sorted(ids.values()) == list(range(len(ids)))


def test_special_tokens(plain):
    clip, bert, gpt2 = plain["clip"], plain["bert"], plain["gpt2"]
    assert (clip.bos_token_id, clip.eos_token_id) == (len(clip) - 2, len(clip) - 1)
    assert clip.pad_token_id == clip.eos_token_id
    assert bert.pad_token_id == 0
    last = [gpt2.convert_tokens_to_ids(t) for t in ("<PAD>", "<BOS>", "<EOS>")]
    assert last == [len(gpt2) - 3, len(gpt2) - 2, len(gpt2) - 1]
    assert (gpt2.pad_token, gpt2.bos_token, gpt2.eos_token) == ("<PAD>", "<BOS>", "<EOS>")


@pytest.mark.parametrize("text", ["zebra crossing", "naïve café 日本", "£$ {x} \\ ~", "🎨"])
def test_any_text_can_be_encoded(plain, text):
    clip, gpt2, bert = plain["clip"], plain["gpt2"], plain["bert"]
    assert clip.unk_token_id not in clip(text, add_special_tokens=False)["input_ids"]
    assert gpt2.decode(gpt2(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    if text.isascii():
        assert bert.unk_token_id not in bert(text)["input_ids"]


def test_the_same_corpus_gives_the_same_files(folder, tmp_path):
    train_tokenizers(reversed(CORPUS + CORPUS), tmp_path)
    for file in sorted(folder.rglob("*.*")):
        assert file.read_bytes() == (tmp_path / file.relative_to(folder)).read_bytes(), file.name


def test_the_number_of_merges_is_bounded(tmp_path):
    sizes = train_tokenizers(CORPUS, tmp_path, max_merges=10).sizes()
    assert sizes["clip.vocab"] == 512 + 10 + 2
    assert sizes["gpt2_vocab"] == 256 + 10 + 4


def test_the_most_frequent_pair_is_merged_first(tmp_path):
    train_tokenizers(["abab abc bc"], tmp_path, max_merges=3)
    lines = (tmp_path / "gpt2" / "merges.txt").read_text(encoding="utf-8").splitlines()
    # ab: 3; then "Ġ ab" and "ab ab", "ab c", "Ġ b", "b c": 1 each, ties in the order of characters
    assert lines == ["#version: 0.2", "a b", "ab ab", "ab c"]


@pytest.mark.parametrize("corpus", [[], [""], ["  ", "\n"]])
def test_a_corpus_without_words_is_refused(tmp_path, corpus):
    with pytest.raises(ValueError, match="no words"):
        train_tokenizers(corpus, tmp_path / "t")
    assert not (tmp_path / "t").exists()
