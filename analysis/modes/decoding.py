"""From latents to what a result holds: pictures, texts, or the tensors themselves.

| output | pictures | texts |
|---|---|---|
| "pil" | RGB pictures, 8 bit | strings |
| "tensor" | (B, 3, H, W) float32 in [0, 1], not rounded | (B, 1 + L) int64, ids of tokens |
| "latents" | (B, C, h, w) float32 | (B, D) float32 |

Latents are the scaled ones of x_0, as the sampler leaves them and `vd.decode_image` and
`vd.decode_text` take them. Ids start with <BOS> and are padded with <PAD> after <EOS> to the
longest that the model writes; `vd.tokenizers.gpt2_text` reads them. Tensors are on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lib.images import to_pil, to_tensor
from lib.model import VersatileDiffusion
from lib.noise import SampleNoise

OUTPUTS = ("pil", "tensor", "latents")

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
