"""What the modes are given: contexts, latents, and options by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from lib.model import Context, VersatileDiffusion

P = ParamSpec("P")
R = TypeVar("R")


def known_options(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, but an option that it does not have is named with those that it has.

    Raises:
        TypeError: when it is called with such an option.
    """
    parameters = signature(function).parameters
    allowed = [name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY]

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        unknown = sorted(set(options) - set(parameters))
        if unknown:
            raise TypeError(
                f"{function.__name__} has no option {', '.join(unknown)}: choose from "
                f"{', '.join(allowed)}."
            )
        return function(*args, **options)

    return checked


def check_context(vd: VersatileDiffusion, context: Context, kind: str, count: int | None) -> None:
    """ValueError unless a precomputed context is of that kind and fits the model and the inputs."""
    if not isinstance(context, Context):
        raise ValueError(
            f"context is a {type(context).__name__}: give a lib.model.Context, for example "
            f'Context("{kind}", tokens).'
        )
    if context.kind != kind:
        raise ValueError(f"context is of kind {context.kind!r}: this mode takes {kind!r}.")
    batch, length, width = context.tokens.shape
    if count is not None and batch != count:
        raise ValueError(f"context has {batch} samples for {count} inputs: give one an input.")
    if not batch or not length or width != vd.spec.unet.context_dim:
        raise ValueError(
            f"context tokens have shape {tuple(context.tokens.shape)}: give (inputs, tokens, "
            f"{vd.spec.unet.context_dim}), with at least one input and token."
        )
    if not bool(torch.isfinite(context.tokens).all()):
        raise ValueError("context tokens hold NaN or infinite values: look where they come from.")


def check_latents(latents: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless these are finite initial latents of that shape."""
    if not isinstance(latents, Tensor) or tuple(latents.shape) != shape:
        given = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(
            f"latents: got {given}, need a tensor of shape {shape}: one initial latent a sample."
        )
    if not latents.is_floating_point() or not bool(torch.isfinite(latents).all()):
        raise ValueError("latents hold something else than finite floats: draw them from N(0, 1).")
