"""From latents to what a result holds: pictures, texts, or the tensors themselves.

| output | pictures | texts |
|---|---|---|
| "pil" | RGB pictures, 8 bit | strings |
| "tensor" | (B, 3, H, W) float32 in [0, 1], not rounded | (B, 1 + L) int64, ids of tokens |
| "latents" | (B, C, h, w) float32 | (B, D) float32 |

Latents are the scaled ones of x_0, as the sampler leaves them and `vd.decode_image` and
`vd.decode_text` take them. Ids start with <BOS> and are padded with <PAD> after <EOS> to the
longest that the model writes; `vd.tokenizers.gpt2_text` reads them. Tensors are on the CPU.

Results that hold latents can be decoded later, also after they were read again from disk:

>>> made = text_to_image(vd, "a red circle", n=4, seed=20, output="latents")
>>> paths = save(made)                                            # output/t2i/..., .safetensors
>>> pictures = decoded(vd, read(paths))                           # those that "pil" had given
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis.modes.options import Settings
from analysis.modes.sampling import draws
from analysis.results.result import Result, joined
from lib.fingerprints import fingerprint
from lib.images import to_pil, to_tensor
from lib.model import VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import SAMPLERS

OUTPUTS = ("pil", "tensor", "latents")
_FROM_RECORD = ("steps", "scale", "sampler", "eta", "fidelity", "interval", "noise", "spacing")

Finish = Callable[[list[Image.Image]], list[Image.Image]]


def check_output(output: str, finished: bool = False) -> None:
    """ValueError unless that output is known, and can be had of pictures that are `finished`."""
    if output not in OUTPUTS:
        raise ValueError(f"output is {output!r}: choose {', '.join(OUTPUTS)}.")
    if output == "latents" and finished:
        raise ValueError(
            "output is 'latents', but colours are matched on decoded pictures: leave the colour "
            "match out, or choose the output pil or tensor."
        )


def decode(
    vd: VersatileDiffusion,
    data: str,
    latents: Tensor,
    output: str = "pil",
    noise: SampleNoise | None = None,
    temperature: float | None = None,
    finish: Finish | None = None,
    shape: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What a `Result` holds of these latents.

    Args:
        vd: the model, with its decoder.
        data: "image" or "text".
        latents: (B, ...) scaled latents of x_0.
        output: one of `OUTPUTS`.
        noise: what texts are drawn with; needed above temperature 0.
        temperature: of texts; None is the model's default.
        finish: what is done to 8-bit pictures at last; tensors then go through 8 bit, too.
        shape: of one latent; None is the model's.

    Returns:
        "images", "texts" or "tensors", by the arguments' names of `Result`.

    Raises:
        ValueError: an unknown output, or latents that do not fit the model.
    """
    check_output(output, finish is not None)
    shape = shape or vd.latent_shape(data)
    if tuple(latents.shape[1:]) != tuple(shape):
        raise ValueError(f"Latents have shape {tuple(latents.shape)}: give (B, *{tuple(shape)}).")
    if output == "latents":
        return {"tensors": latents.detach().float().cpu()}
    if data == "text":
        if output == "pil":
            return {"texts": vd.decode_text(latents, noise, temperature)}
        return {"tensors": _padded(vd, vd.decode_tokens(latents, noise, temperature))}
    pixels = vd.decode_image(latents)
    if output == "tensor" and finish is None:
        return {"tensors": pixels.cpu()}
    images = to_pil(pixels)
    if finish is not None:
        images = finish(images)
    return {"tensors": to_tensor(images)} if output == "tensor" else {"images": images}


def _padded(vd: VersatileDiffusion, rows: list[list[int]]) -> Tensor:
    """Always the same width, so that batches of one job go together."""
    width, pad = 1 + vd.spec.text_vae.max_output, vd.tokenizers.pad
    ids = [row + [pad] * (width - len(row)) for row in rows]
    return torch.tensor(ids, dtype=torch.long).reshape(len(rows), width)


def default_batch(vd: VersatileDiffusion, data: str, shape: Sequence[int] | None = None) -> int:
    """Samples in memory at a time: 4 pictures of 512 x 512, up to 32 smaller ones or texts."""
    if data == "text":
        return 32
    _, height, width = shape or vd.latent_shape("image")
    return max(1, min(32, 1024**2 // (height * width * vd.spec.image_vae.factor**2)))


# ---------------------------------------------------------------------- results of latents


def decoded(vd: VersatileDiffusion, result: Result, output: str = "pil") -> Result:
    """Latents that a mode made, as the pictures or texts that it had made of them.

    Texts are drawn with what is left of each sample's random numbers after sampling, so these are
    the very texts that the mode gives without `output="latents"`.

    Args:
        vd: the model that made them, with its decoder.
        result: with `output="latents"`.
        output: "pil" or "tensor".

    Returns:
        The result that the mode gives for that output (up to rounding, as in any batch).

    Raises:
        ValueError: a result of something else, or of a decoder with other weights.
    """
    check_output(output)
    if result.tensors is None or result.record["output"] != "latents" or output == "latents":
        raise ValueError(f"{result!r} is decoded from latents to pil or tensor, and from no other.")
    data = "text" if result.tensors.ndim == 2 else "image"
    _check_decoder(vd, data, [result.record_of(k) for k in range(len(result))])
    shape = tuple(result.tensors.shape[1:])
    size, parts = default_batch(vd, data, shape), []
    for _, alike in groupby(range(len(result)), lambda k: _settings(result.record_of(k))):
        which = list(alike)
        for i in range(0, len(which), size):
            part = which[i : i + size]
            records = [result.record_of(k) for k in part]
            temperature = records[0].get("temperature")
            noise = _after_sampling(vd, records) if data == "text" else None
            made = decode(vd, data, result.tensors[part], output, noise, temperature, shape=shape)
            parts.append(Result(result.mode, {"samples": records}, **made))
    return replace(joined(parts), record={**result.record, "output": output})


def _settings(record: dict[str, Any]) -> list[Any]:
    """What samples have to share to be decoded together."""
    return [record.get(key) for key in (*_FROM_RECORD, "temperature", "noise_seed", "noise_batch")]


def _check_decoder(vd: VersatileDiffusion, data: str, records: Sequence[dict[str, Any]]) -> None:
    decoder = f"{data}_decoder"
    vd.require(decoder)
    ours = fingerprint(vd.component(decoder))
    for record in records:
        theirs = record["model"]["weights"].get(decoder, ours)
        if theirs != ours:
            raise ValueError(
                f"The latents were made for the {decoder} {theirs} of {record['model']['name']}, "
                f"{vd.spec.name} has {ours}: decode them with the model that made them."
            )


def _after_sampling(vd: VersatileDiffusion, records: Sequence[dict[str, Any]]) -> SampleNoise:
    """Random numbers of samples, where sampling has left them.

    Sampling is repeated without the model: what is drawn does not depend on what is predicted.
    """
    first = records[0]
    if "steps" not in first:  # nothing was sampled: a text that was encoded
        return SampleNoise([record["seed"] for record in records])
    how = Settings(**{key: first[key] for key in _FROM_RECORD if key in first})
    whole = range(first.get("noise_batch", 0))
    whole = [first.get("noise_seed", 0) + row for row in whole]
    noise = draws(how, [record["seed"] for record in records], whole, vd.device)
    x = noise.normal(vd.latent_shape("text"))
    timesteps = how.timesteps(vd.schedule)

    def nothing(x: Tensor, t: int) -> Tensor:
        return torch.zeros_like(x)

    for _ in SAMPLERS[how.sampler](nothing, x, vd.schedule, timesteps, eta=how.eta, noise=noise):
        pass
    return noise
