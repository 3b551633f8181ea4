"""The small model's tokenizers, and the spec that knows their sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.scenes.captions import write
from data.scenes.world import sample_scene
from lib.config import ModelSpec
from lib.tokenizers import Tokenizers, load_tokenizers
from training.tokenizers import train_tokenizers

CORPUS = 20_000  # captions: every word and every wording of the world many times


def vocabulary(spec: ModelSpec, out: Path) -> tuple[ModelSpec, Tokenizers]:
    """Tokenizers under `out/tokenizers` (made from captions on first use), and the spec they need.

    The merges end when every word of the world is one token; any other text still tokenises, in
    pieces.
    """
    folder = Path(out) / "tokenizers"
    if not folder.exists():
        rng = np.random.default_rng(0)
        train_tokenizers((write(sample_scene(rng), rng) for _ in range(CORPUS)), folder)
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
