"""What the frozen encoders say about the samples, computed once: latents and context tokens.

A training step of the flows then touches no encoder at all. Arrays are float16 on disk, memory
mapped, and appear whole or not at all; their names follow from the samples, from the encoders'
weights and sizes, and from the tokenizers, so that other encoders never meet old arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.arrays import kept_array, write_array
from data.samples import Samples, key_of
from lib.config import FLOWS
from lib.files import replacing
from lib.fingerprints import model_digests, sizes_digest
from lib.model import VersatileDiffusion
from training.stage import native_bf16

VIEWS = 3  # pictures of a sample, each jittered anew
CAPTIONS = 6  # captions of it that condition, and as many texts that answer them
REPLIES = 2  # texts that answer each of the samples' `words`
CHUNK = 256
ENCODERS = ("image_encoder", "text_encoder", "clip_text", "clip_vision")


@dataclass(frozen=True)
class Cache:
    """Encoded samples; every array's first axis is the sample, but for `word_tokens`.

    An array whose encoder was not loaded is None: enough for flows that do not use it.

    Attributes:
        image_latents: (n, VIEWS, C, h, w), scaled posterior means.
        image_tokens: (n, VIEWS, 1 + patches, D), CLIP contexts of the same pictures.
        text_latents: (n, CAPTIONS + REPLIES * words, D), scaled posterior means of the texts that
            are to be generated: first the answer to each caption, then those to each word.
        text_tokens: (n, CAPTIONS, positions, D), CLIP contexts of captions that condition.
        word_tokens: (words, positions, D), CLIP contexts of the samples' `words`.
        made: what they depend on: which samples, and the encoders' fingerprints.
        key: what a sample is called.
    """

    image_latents: np.ndarray | Tensor | None
    image_tokens: np.ndarray | Tensor | None
    text_latents: np.ndarray | Tensor | None
    text_tokens: np.ndarray | Tensor | None
    word_tokens: np.ndarray | Tensor | None = None
    made: dict[str, Any] = field(default_factory=dict)
    key: Callable[[int], str] = str

    def __len__(self) -> int:
        arrays = (self.image_latents, self.image_tokens, self.text_latents, self.text_tokens)
        return min(len(array) for array in arrays if array is not None)

    def on(self, device: torch.device, room: int | None = None) -> Cache:
        """The same arrays in a GPU's memory, if they take at most half of what is free there.

        Args:
            device: elsewhere they stay as they are, mapped from the disk.
            room: bytes that they may take instead.
        """
        if room is None:
            room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
        arrays = {name: a for name, a in vars(self).items() if isinstance(a, np.ndarray)}
        if sum(array.nbytes for array in arrays.values()) > room:
            return self
        moved = {name: torch.from_numpy(np.array(a)).to(device) for name, a in arrays.items()}
        return replace(self, **moved)


def taken(array: np.ndarray | Tensor, device: torch.device, *places: np.ndarray) -> Tensor:
    """Entries of an array, one for each of the places along its first axes, float32 on a device."""
    if isinstance(array, Tensor):
        return array[tuple(torch.from_numpy(p).to(array.device) for p in places)].float()
    return torch.from_numpy(array[places]).to(device).float()


@dataclass(frozen=True)
class Draw:
    """What one flow sees in one step.

    Attributes:
        rows: samples.
        data: which of a sample's latents is to be generated.
        context: which of its contexts conditions.
        words: which of the samples' words is asked besides, if any.
        dropped: where the null context stands in.
        t: timesteps.
    """

    rows: np.ndarray
    data: np.ndarray
    context: np.ndarray
    words: np.ndarray | None
    dropped: np.ndarray
    t: Tensor

    def __getitem__(self, part: slice) -> Draw:
        """Some of the samples."""
        return Draw(**{name: v if v is None else v[part] for name, v in vars(self).items()})


def drawn(
    flow: str,
    n: int,
    t: Tensor,
    rng: np.random.Generator,
    dropout: float,
    words: int = 0,
    same: float = 0.0,
) -> Draw:
    """What a flow sees of random samples.

    Args:
        flow: which of the four.
        n: how many samples there are.
        t: timesteps, one of each that is drawn.
        rng: decides.
        dropout: probability of the null context.
        words: how many words may be asked; 0 asks none.
        same: share of image variation that sees the very view that is generated.
    """
    size, (kind, conditions) = len(t), FLOWS[flow]
    context = rng.integers(VIEWS if conditions == "image" else CAPTIONS, size=size)
    asked = rng.integers(1, words, size=size) if words else None
    if kind == "image":
        data = rng.integers(VIEWS, size=size)
        if same and conditions == "image":
            data = np.where(rng.random(size) < same, context, data)
    elif conditions == "text":
        data = context  # the answer to that caption
    else:
        word = 0 if asked is None else asked
        data = CAPTIONS + REPLIES * word + rng.integers(REPLIES, size=size)
    return Draw(
        rows=rng.integers(n, size=size),
        data=data,
        context=context,
        words=asked,
        dropped=rng.random(size) < dropout,
        t=t,
    )


def fingerprint(vd: VersatileDiffusion, names: tuple[str, ...]) -> str:
    """Ten characters that change with the weights of the named components."""
    digest = hashlib.sha256()
    for name in names:
        for parameter in vd.component(name).parameters():
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:10]


def captions_of(samples: Samples, rows: range) -> list[list[str]]:
    """The captions of samples that condition, always the same: `CAPTIONS` lists of a text each."""
    return [samples.captions(rows, _stream(rows, 1, k)) for k in range(CAPTIONS)]


def answers_of(samples: Samples, rows: range) -> list[list[str]]:
    """What the text column learns to write about samples, always the same.

    An answer to each of their captions, then `REPLIES` to each of the samples' words.
    """
    asked = captions_of(samples, rows)
    asked += [[word] * len(rows) for word in samples.words for _ in range(REPLIES)]
    return [samples.targets(rows, _stream(rows, 2, k), texts) for k, texts in enumerate(asked)]


def build(
    vd: VersatileDiffusion, samples: Samples, folder: Path, encoders: Sequence[str] = ENCODERS
) -> Cache:
    """Encode all samples, or read what an earlier run encoded.

    Args:
        vd: the model that has them.
        samples: what is encoded.
        folder: where the arrays are kept.
        encoders: those that the flows to be trained need.
    """

    def views(encode: Callable[[Tensor], Tensor]) -> Callable[[range], Tensor]:
        def job(rows: range) -> Tensor:
            each = [samples.pictures(rows, _stream(rows, 0, k)) for k in range(VIEWS)]
            return torch.stack([encode(pictures) for pictures in each], 1)

        return job

    def texts(encode: Callable, of: Callable[..., list[list[str]]]) -> Callable[[range], Tensor]:
        return lambda rows: torch.stack([encode(part) for part in of(samples, rows)], 1)

    jobs: dict[str, tuple[str, Callable[[range], Tensor]]] = {
        "image_latents": ("image_encoder", views(vd.encode_image)),
        "image_tokens": ("clip_vision", views(lambda x: vd.image_context(x).tokens)),
        "text_latents": ("text_encoder", texts(vd.encode_text, answers_of)),
        "text_tokens": ("clip_text", texts(lambda x: vd.text_context(x).tokens, captions_of)),
    }
    jobs = {name: job for name, job in jobs.items() if job[0] in encoders}
    made = {encoder: fingerprint(vd, (encoder,)) for encoder, _ in jobs.values()}
    words = model_digests(vd).get("tokenizers")
    known = {"samples": len(samples), **samples.identity()} | made
    arrays = {}
    for name, (encoder, encode) in jobs.items():
        which = [samples.identity(), len(samples), VIEWS, CAPTIONS, REPLIES, made[encoder]]
        which += [sizes_digest(vd.spec, encoder), words if name.startswith("text") else None]
        digest = hashlib.sha256(json.dumps(which).encode()).hexdigest()[:12]
        path = Path(folder) / f"{name}-{digest}.npy"
        arrays[name] = _encoded(path, len(samples), encode, vd.device)
    if "clip_text" in encoders:
        with torch.inference_mode():
            arrays["word_tokens"] = vd.text_context(list(samples.words)).tokens.half().cpu().numpy()
    names = ("image_latents", "image_tokens", "text_latents", "text_tokens", "word_tokens")
    each = {name: arrays.get(name) for name in names}
    return Cache(**each, made=known, key=partial(key_of, samples))


def _stream(rows: range, kind: int, k: int) -> np.random.Generator:
    return np.random.default_rng((99, kind, k, rows.start))


def _encoded(
    path: Path, n: int, encode: Callable[[range], Tensor], device: torch.device
) -> np.ndarray:
    array = kept_array(path, n)
    if array is None:
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device))
        starts = tqdm(range(0, n, CHUNK), desc=path.name.split("-")[0])
        parts = (range(start, min(n, start + CHUNK)) for start in starts)
        with torch.inference_mode(), autocast, replacing() as temporary:
            encoded = (encode(rows).half().cpu().numpy() for rows in parts)
            write_array(temporary(path), n, encoded)
        array = kept_array(path, n)
    return array
