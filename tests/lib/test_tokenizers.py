"""The three tokenizers: lengths, special tokens, what is cut and what is refused."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import GPT2Tokenizer

import lib.tokenizers
from lib.config import ModelSpec
from lib.specs import VD_MINI
from lib.tokenizers import Tokenizers, load_tokenizers
from training.tokenizers import train_tokenizers

CORPUS = [
    "a large red circle above a small blue square",
    "two striped stars, to the left of a ring.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers")
    train_tokenizers(CORPUS, path)
    return path


@pytest.fixture(scope="module")
def spec(folder) -> ModelSpec:
    sizes = load_tokenizers(folder).sizes()
    text = replace(
        VD_MINI.clip.text,
        vocab=sizes["clip.vocab"],
        bos=sizes["clip.bos"],
        eos=sizes["clip.eos"],
        positions=12,
    )
    vae = replace(
        VD_MINI.text_vae,
        bert_vocab=sizes["bert_vocab"],
        gpt2_vocab=sizes["gpt2_vocab"],
        max_input=6,
    )
    return replace(VD_MINI, clip=replace(VD_MINI.clip, text=text), text_vae=vae)


@pytest.fixture(scope="module")
def words(folder, spec) -> Tokenizers:
    return load_tokenizers(folder, spec)


def test_clip_pads_with_its_end_token(words, spec):
    ids = words.clip_ids(["a large RED circle", ""])
    assert ids.shape == (2, 12) and ids.dtype == torch.long
    bos, eos = spec.clip.text.bos, spec.clip.text.eos
    assert ids[:, 0].tolist() == [bos, bos]
    assert ids[0, 5:].tolist() == [eos] * 7
    assert ids[1, 1:].tolist() == [eos] * 11
    assert torch.equal(words.clip_ids(["a large red circle"]), ids[:1])


def test_a_long_prompt_is_refused_with_its_length(words):
    assert words.clip_ids(["a " * 10]).shape == (1, 12)
    with pytest.raises(ValueError, match=r"13 tokens .* limit is 12: shorten it by 1"):
        words.clip_ids(["a red ring", "a " * 11])


def test_bert_lower_cases_and_frames(words):
    ids = words.bert_ids(["A Large RED circle", "ring"])
    assert words.bert.convert_ids_to_tokens(ids[0].tolist()) == (
        ["[CLS]", "a", "large", "red", "circle", "[SEP]"]
    )
    assert words.bert.convert_ids_to_tokens(ids[1].tolist()) == (
        ["[CLS]", "ring", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    )
    assert (ids > 0).sum(1).tolist() == [6, 3]


def test_bert_cuts_after_max_input_pieces(words, caplog):
    with caplog.at_level(logging.WARNING):
        ids = words.bert_ids(["a red circle above a blue square", "a ring"])
    assert ids.shape == (2, 8)  # [CLS] 6 pieces [SEP]
    assert ids[0, -1] == words.bert.sep_token_id
    assert "cut after 6" in caplog.text


def test_gpt2_frames_and_pads_with_its_last_three_ids(words, spec):
    vocab = spec.text_vae.gpt2_vocab
    assert (words.pad, words.bos, words.eos) == (vocab - 3, vocab - 2, vocab - 1)
    ids = words.gpt2_ids(["a large red circle", "a ring"])
    assert ids.shape == (2, 6)
    assert ids[:, 0].tolist() == [words.bos] * 2
    assert ids[0, -1] == words.eos
    assert ids[1, -3:].tolist() == [words.eos, words.pad, words.pad]


@pytest.mark.parametrize("text", ["a large red circle", "Ünïcode 日本 £5, (yes)!", "x", ""])
def test_any_text_comes_back(words, text):
    assert words.gpt2_text(words.gpt2_ids([text, "a red ring"])) == [text, "a red ring"]


def test_text_without_an_end_loses_its_last_word(words):
    ids = words.gpt2_ids(["a large red circle"])[:, :-1].tolist()
    assert words.gpt2_text(ids) == ["a large red"]


def test_text_ends_at_the_first_end_and_loses_repetitions(words):
    ids = words.gpt2_ids(["a red red ring", "a star"]).tolist()
    assert words.gpt2_text([[*ids[0], *ids[1]]]) == ["a red ring"]
    assert words.gpt2_text([[words.bos]]) == [""]
    assert words.gpt2_text([]) == []


def test_no_texts(words):
    assert words.clip_ids([]).shape == (0, 12)
    assert words.bert_ids([]).shape[0] == words.gpt2_ids([]).shape[0] == 0


@pytest.mark.parametrize("texts", ["a ring", [7], [None]])
@pytest.mark.parametrize("encode", ["clip_ids", "bert_ids", "gpt2_ids"])
def test_texts_must_be_a_list_of_strings(words, encode, texts):
    with pytest.raises(ValueError, match="list of strings"):
        getattr(words, encode)(texts)


def test_each_is_read_when_first_used(folder, tmp_path):
    only = tmp_path / "tokenizers"
    (only / "bert").mkdir(parents=True)
    (only / "bert" / "vocab.txt").write_text((folder / "bert" / "vocab.txt").read_text())
    words = load_tokenizers(only)
    assert words.bert_ids(["a ring"]).shape == (1, 4)
    with pytest.raises(ValueError, match=r"clip lacks vocab.json and merges.txt"):
        words.clip_ids(["a ring"])


def test_an_unrelated_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder clip or bert or gpt2"):
        load_tokenizers(tmp_path)


@pytest.mark.parametrize("name", ["clip", "bert", "gpt2"])
def test_tokenizers_of_another_model_are_refused(folder, spec, name):
    if name == "clip":
        clip = replace(spec.clip, text=replace(spec.clip.text, bos=5))
        other = replace(spec, clip=clip)
    else:
        small = replace(spec.text_vae, **{f"{name}_vocab": 20})
        other = replace(spec, text_vae=small)
    with pytest.raises(ValueError, match="model's own"):
        getattr(load_tokenizers(folder, other), name)


def test_official_vocabularies_get_pad_bos_eos_in_this_order(tmp_path, monkeypatch):
    """GPT-2 from the hub knows none of the three: 50257, 50258, 50259 there."""
    bytes_and_end = list(GPT2Tokenizer().backend_tokenizer.get_vocab())
    tokens = [chr(i) for i in range(33, 127)] + bytes_and_end
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    asked = []

    def download(repo, file, local_files_only=False):
        asked.append((repo, file, local_files_only))
        return str(tmp_path / file)

    monkeypatch.setattr(lib.tokenizers, "hf_hub_download", download)
    words = load_tokenizers()
    n = len(ids)
    assert (words.pad, words.bos, words.eos) == (n, n + 1, n + 2)
    assert words.gpt2_ids(["ab"])[0].tolist() == [n + 1, ids["a"], ids["b"], n + 2]
    assert asked == [("gpt2", "vocab.json", True), ("gpt2", "merges.txt", True)]  # cache first


def test_offline_says_what_to_do(monkeypatch):
    def download(repo, file, local_files_only=False):
        raise LocalEntryNotFoundError("nothing in the cache, no network")

    monkeypatch.setattr(lib.tokenizers, "hf_hub_download", download)
    with pytest.raises(OSError, match="go online once, or give a folder"):
        load_tokenizers().bert_ids(["a ring"])


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("clip", "vocab.json", b'{"a": 0, "b'),
        ("clip", "vocab.json", b""),
        ("clip", "merges.txt", b"nothing"),
        ("clip", "tokenizer_config.json", b"[]"),
        ("bert", "vocab.txt", b"\xff\xfe"),
        ("bert", "vocab.txt", b""),  # is read without a word: only encoding fails
        ("bert", "tokenizer_config.json", b"{"),
        ("gpt2", "vocab.json", b"{}"),
    ],
)
def test_damaged_files_are_one_sentence(folder, spec, tmp_path, name, file, content):
    shutil.copytree(folder, tmp_path / "words")
    (tmp_path / "words" / name / file).write_bytes(content)
    words = load_tokenizers(tmp_path / "words", spec)
    with pytest.raises(
        ValueError, match=rf"words/{name} is damaged \(.*\): copy .*again\.$"
    ) as told:
        getattr(words, f"{name}_ids")(["a red ring"])
    assert "\n" not in str(told.value)


def test_a_damaged_official_tokenizer_is_to_be_downloaded_again(tmp_path, monkeypatch):
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    monkeypatch.setattr(lib.tokenizers, "hf_hub_download", lambda repo, file, **_: tmp_path / file)
    told = rf"{tmp_path.name} is damaged .*: remove openai/clip-vit-large-patch14 from the .*cache"
    with pytest.raises(ValueError, match=told):
        load_tokenizers().clip_ids(["a red ring"])
