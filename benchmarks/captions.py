"""Captions at the released model's size: eight texts at once against one by one."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.full_size import compared, in_turns, random_model
from lib.contexts import Context
from lib.sampler import ddim

BATCH, TOKENS, STEPS = 8, 30, 5


@torch.no_grad()
def captions(args: Namespace) -> dict[str, Any]:
    """GPT-2 (30 tokens) and the text column (5 guided steps) for eight texts.

    GPT-2 without a cache is the released code's way: all tokens so far once more for each next one,
    text by text. It is timed for one text, times eight.
    """
    vd = random_model(("time_embed", "text_data", "image_context", "text_decoder"), args.dtype)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(BATCH, vd.spec.text_vae.latent, generator=generator).to(args.dtype)
    tokens = torch.randn(2, BATCH, 257, vd.spec.clip.projection, generator=generator).to(args.dtype)

    def read(rows: slice) -> list[list[int]]:
        # no token ends a text here: all have TOKENS
        how = {"bos": 1, "eos": -1, "max_tokens": TOKENS, "temperature": 0}
        return vd.text_decoder.generate(z[rows], **how)

    def read_without_cache() -> Tensor:
        ids = torch.ones(1, 1, dtype=torch.long)
        for _ in range(TOKENS):
            ids = torch.cat([ids, vd.text_decoder(ids, z[:1])[:, -1:].argmax(-1)], dim=1)
        return ids

    def column(rows: slice) -> None:
        given, null = (Context("image", part[rows]) for part in tokens)
        eps = vd.guided([(given, 1.0)], "text", 7.5, [null])
        x = z[rows].float()
        for _ in ddim(eps, x, vd.schedule, vd.schedule.timesteps(STEPS)):
            pass

    def each(run: object) -> None:
        for k in range(BATCH):
            run(slice(k, k + 1))

    everything = slice(None)
    gpt2 = in_turns(
        {"together": lambda: read(everything), "without cache": read_without_cache}, args.repeats
    )
    gpt2["without cache"] = {c: BATCH * s for c, s in gpt2["without cache"].items()}
    flow = in_turns(
        {"together": lambda: column(everything), "one by one": lambda: each(column)}, args.repeats
    )
    return {
        "GPT-2": {"seconds": gpt2, **compared(gpt2, "without cache", "together")},
        "text column": {"seconds": flow, **compared(flow, "one by one", "together")},
    }
