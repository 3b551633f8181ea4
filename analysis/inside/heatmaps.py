"""Attention laid over the picture: where the model looked at which words.

    H_w(p) = mean over steps, layers and heads of  sum_{i in w} A_i(p)

A_i(p) is the share of attention that position p of a feature map pays to token i of the context.
The shares of the tokens that make up a word are *added*; every map is resized bilinearly to the
picture *before* maps of different layers are averaged, all with the same weight. So values are
shares of attention, 0 ... 1, and the maps of all tokens sum to 1 at every pixel.

Source: Tang et al., "What the DAAM: Interpreting Stable Diffusion Using Cross Attention", arXiv
2210.04885, who sum where we average.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.inside.trace import Trace
from lib.tokenizers import Tokenizers


def heat_maps(
    recording: Trace,
    text: str,
    words: Sequence[str],
    size: tuple[int, int] | None = None,
    sample: int = 0,
    **which: Any,
) -> dict[str, Tensor]:
    """One heat map a word.

    Args:
        recording: of a generation under a text context.
        text: its prompt.
        words: words or phrases in it (any case); one that occurs more than once counts everywhere
            it does, so "red circle" is told from "red square", but "red" is both.
        size: (H, W) of the result; None is the picture's.
        sample: number in the batch.
        which: context, branch, layers, steps, as `Trace.select` takes them.

    Returns:
        word -> (H, W) float32.

    Raises:
        ValueError: a word is not in the text, there are no such maps, the context is no text, or
            the recording is not complete.
    """
    if recording.vd.tokenizers is None:
        raise ValueError("The model has no tokenizers, so words have no tokens: use token_map.")
    where = {word: token_indices(recording.vd.tokenizers, text, word) for word in words}
    kind = recording.select(**which)[0].kind
    if kind != "text":
        raise ValueError(
            f"This context is of kind {kind!r}, so its tokens are no words: choose the one that is "
            "the text (context=), or use token_map."
        )
    return {word: token_map(recording, i, size, sample, **which) for word, i in where.items()}


def token_map(
    recording: Trace,
    tokens: Sequence[int],
    size: tuple[int, int] | None = None,
    sample: int = 0,
    **which: Any,
) -> Tensor:
    """The heat map of tokens by number, for contexts of any kind (a picture's are patches).

    Args:
        recording: of a generation.
        tokens: their attention is added up.
        size: (H, W) of the result; None is the picture's (for generated texts: the feature map's).
        sample: number in the batch.
        which: as `Trace.select` takes them. With attends="self", tokens are positions of the
            feature map itself: choose layers of one size.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: there are no such maps, the recording is not complete, or a number is too large.
    """
    chosen = recording.select(**which)
    batch = min(len(m.weights) for m in chosen)
    length = min(m.weights.shape[-1] for m in chosen)
    wrong = [i for i in tokens if not 0 <= i < length]
    if not tokens or wrong or not 0 <= sample < batch:
        raise ValueError(
            f"tokens {list(tokens)} of sample {sample}: choose from {length} tokens and {batch} "
            "samples, counted from 0."
        )
    if size is None:
        factor = recording.vd.spec.image_vae.factor if chosen[0].data == "image" else 1
        size = tuple(factor * max(m.size[axis] for m in chosen) for axis in (0, 1))
    total = torch.zeros(1, 1, *size)
    for layer in chosen:
        weights = layer.weights[sample].float()
        if weights.ndim == 3:  # heads were kept apart
            weights = weights.mean(dim=0)
        share = weights[:, list(tokens)].sum(dim=-1).view(1, 1, *layer.size)
        total += F.interpolate(share, size, mode="bilinear", align_corners=False)
    return total[0, 0] / len(chosen)


def token_indices(tokenizers: Tokenizers, text: str, word: str) -> list[int]:
    """Which of a text's CLIP tokens make up a word or phrase, wherever it occurs.

    Found by the characters that tokens stand for: a word of several tokens has all of them, and
    "ring" is not found within "string".

    Raises:
        ValueError: the text does not hold it.
    """
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    matches = re.finditer(pattern, text, re.IGNORECASE) if word.strip() else ()
    spans = [match.span() for match in matches]
    offsets = tokenizers.clip(text, return_offsets_mapping=True)["offset_mapping"]
    indices = [
        i
        for i, (start, end) in enumerate(offsets)
        if start < end and any(start < last and first < end for first, last in spans)
    ]
    if not indices:
        raise ValueError(f"{word!r} is not in {text!r}: choose from its words.")
    return indices
