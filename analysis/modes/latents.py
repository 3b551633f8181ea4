"""Results that hold latents, decoded later, also after they were read again from disk.

>>> made = text_to_image(vd, "a red circle", n=4, seed=20, output="latents")
>>> paths = save(made)                                            # output/t2i/..., .safetensors
>>> pictures = decoded(vd, read(paths))                           # those that "pil" had given
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from analysis.modes.build import default_batch
from analysis.modes.decoding import check_output, decode
from analysis.modes.sampling import Sampling
from analysis.results.result import Result, joined
from lib.fingerprints import fingerprint
from lib.model import VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import SAMPLERS

_FROM_RECORD = ("steps", "scale", "sampler", "eta", "fidelity", "interval", "noise", "spacing")


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
    how = Sampling(**{key: first[key] for key in _FROM_RECORD if key in first})
    whole = range(first.get("noise_batch", 0))
    whole = [first.get("noise_seed", 0) + row for row in whole]
    noise = how.draws([record["seed"] for record in records], whole, vd.device)
    x = noise.normal(vd.latent_shape("text"))
    timesteps = how.timesteps(vd.schedule)

    def nothing(x: Tensor, t: int) -> Tensor:
        return torch.zeros_like(x)

    for _ in SAMPLERS[how.sampler](nothing, x, vd.schedule, timesteps, eta=how.eta, noise=noise):
        pass
    return noise
