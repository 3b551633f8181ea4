"""The small model's tokenizers, and the spec that knows their sizes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from data.samples import Samples
from lib.config import ModelSpec
from lib.files import alone, replacing
from lib.tokenizers import Tokenizers, load_tokenizers
from training.tokenizers import train_tokenizers

MERGES = 8000
ROUNDS, CORPUS = 4, 20_000  # captions: every word and every wording many times


def vocabulary(
    spec: ModelSpec, samples: Samples, out: Path, kept: Path | None = None
) -> tuple[ModelSpec, Tokenizers]:
    """Tokenizers under `out/tokenizers` (made from captions on first use), and the spec they need.

    The merges end when every word of the captions is one token; any other text still tokenises, in
    pieces. The folder appears whole or not at all.

    Args:
        spec: sizes, those of the vocabularies to be settled here.
        samples: whose captions.
        out: model folder.
        kept: tokenizers of the model that training begins from; then none are made.
    """
    folder = Path(out) / "tokenizers"
    with alone(folder):
        if not folder.exists():
            _make(folder, samples, kept)
    sizes = load_tokenizers(folder).sizes()
    text = replace(
        spec.clip.text, vocab=sizes["clip.vocab"], bos=sizes["clip.bos"], eos=sizes["clip.eos"]
    )
    spec = replace(
        spec,
        clip=replace(spec.clip, text=text),
        text_vae=replace(
            spec.text_vae, bert_vocab=sizes["bert_vocab"], gpt2_vocab=sizes["gpt2_vocab"]
        ),
    )
    return spec, load_tokenizers(folder, spec)


def _make(folder: Path, samples: Samples, kept: Path | None) -> None:
    with replacing() as temporary:
        if kept is not None:
            shutil.copytree(kept, temporary(folder))
            return
        rng = np.random.default_rng(0)
        rounds = max(ROUNDS, -(-CORPUS // len(samples)))
        every = range(len(samples))
        corpus = (samples.captions(every, rng) for _ in range(rounds))
        texts = chain(samples.words, chain.from_iterable(corpus))
        train_tokenizers(texts, temporary(folder), MERGES)
