"""Show-your-work twins of what contexts do: guidance, and mixing at every layer.

See `analysis.inside.walkthrough`, which has all twins under one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.inside.twins import Twin, agree
from lib.guidance import guided
from lib.model import Context, Mix, VersatileDiffusion
from lib.sampler import Eps, Step, ddim

# ---------------------------------------------------------------------- guidance


@dataclass(frozen=True, eq=False)
class Guidance(Twin):
    """Noise predictions as vectors, (S, B) each: a row a step, noisiest first.

    Attributes:
        t: timesteps, (S,).
        scale: s of `eps = null + s (cond - null)`.
        cond, null, difference, guided: Euclidean norms per root of the dimension (a standard
            normal vector has 1).
        angle: between cond and null, in degrees.
        turn: between cond and guided, in degrees: what guidance adds.
        steps: what the sampler yielded.
    """

    t: list[int]
    scale: float
    cond: Tensor
    null: Tensor
    difference: Tensor
    guided: Tensor
    angle: Tensor
    turn: Tensor
    steps: list[Step]

    def rows(self) -> list[dict[str, Any]]:
        """A line a step, means over the batch."""
        names = ("cond", "null", "difference", "guided", "angle", "turn")
        return [
            {"t": t, **{name: getattr(self, name)[i] for name in names}}
            for i, t in enumerate(self.t)
        ]


@torch.no_grad()
def guidance_vectors(
    vd: VersatileDiffusion,
    contexts: Mix,
    data: str,
    scale: float,
    x: Tensor,
    timesteps: Sequence[int] | None = None,
    nulls: Sequence[Context] | None = None,
) -> Guidance:
    """Sample with guidance, and keep what the conditional and the null branch say at every step.

        eps = (1 - s) eps_null + s eps_cond

    Args:
        vd: the model.
        contexts: what conditions, with weights.
        data: "image" or "text": what is generated.
        scale: s; not 0 or 1, where only one branch is run.
        x: (B, ...) initial noise.
        timesteps: None is the model's default number of steps.
        nulls: what to guide away from; None is `vd.null_context`.

    Raises:
        ValueError: scale is 0 or 1.
        AssertionError: the library's guided prediction differs.
    """
    if scale in (0, 1):
        raise ValueError(f"scale is {scale}: with 0 or 1 there is one branch and nothing to see.")
    timesteps = timesteps or vd.schedule.timesteps(vd.spec.steps)
    against = nulls or [vd.null_context(c.kind, data, len(c)) for c, _ in contexts]
    weighted = [(null, weight) for null, (_, weight) in zip(against, contexts, strict=True)]
    said: dict[str, Tensor] = {}

    def branch(name: str, mix: Mix) -> Eps:
        def eps(x_t: Tensor, t: int) -> Tensor:
            said[name] = vd.eps(x_t, t, mix)
            return said[name]

        return eps

    x = x.to(vd.device, torch.float32)
    first = vd.guided(contexts, data, scale, nulls)(x, timesteps[-1])
    both = guided(branch("cond", contexts), branch("null", weighted), scale)
    steps, rows = [], []
    for step in ddim(both, x, vd.schedule, timesteps):
        cond, null = (said[name].cpu().double().flatten(1) for name in ("cond", "null"))
        eps = (1 - scale) * null + scale * cond
        agree(f"guided eps at t = {step.t}", eps, step.eps.flatten(1))
        root = cond.shape[1] ** 0.5
        norms = [v.norm(dim=1) / root for v in (cond, null, cond - null, eps)]
        rows.append([*norms, _degrees(cond, null), _degrees(cond, eps)])
        steps.append(step)
    agree("first guided eps", steps[0].eps, first)
    columns = (torch.stack(column) for column in zip(*rows, strict=True))
    return Guidance([step.t for step in steps], scale, *columns, steps)


def _degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors, exact also where it is small (Kahan): (B, n), (B, n) -> (B,)."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)))


# ---------------------------------------------------------------------- mixing


@dataclass(frozen=True, eq=False)
class MixedLayer:
    """What K contexts do at one context layer.

    Attributes:
        layer: its number.
        level: of the plan, 0 is the finest.
        weights: (K,) normalised.
        map_norm: (B,) norm of the map h before it.
        change_norms: (K, B) norms of layer_k(h, c_k) - h, before weighting.
        mixed_norm: (B,) norm of the mixed change.
        cosine: (K, K, B) between the contexts' changes: 1 where they pull the same way.
    """

    layer: int
    level: int
    weights: Tensor
    map_norm: Tensor
    change_norms: Tensor
    mixed_norm: Tensor
    cosine: Tensor


@dataclass(frozen=True, eq=False)
class Mixing(Twin):
    """What K contexts do at all context layers.

    Attributes:
        layers: in running order.
        kinds: "image" or "text" of each context.
        eps: the prediction, like x.
    """

    layers: list[MixedLayer]
    kinds: list[str]
    eps: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """A line a layer, means over the batch; the cosine is that of the first two contexts."""
        return [
            {
                "layer": m.layer,
                "level": m.level,
                "norm of the map": m.map_norm,
                **{f"change by {kind} {k}": m.change_norms[k] for k, kind in enumerate(self.kinds)},
                "mixed change": m.mixed_norm,
                **({"cosine": m.cosine[0, 1]} if len(self.kinds) > 1 else {}),
            }
            for m in self.layers
        ]


@torch.no_grad()
def mixing_layer_by_layer(vd: VersatileDiffusion, x: Tensor, t: int, contexts: Mix) -> Mixing:
    """Run the plan by hand and look at every context layer.

        h + sum_k w_k (layer_k(h, c_k) - h)  =  sum_k w_k layer_k(h, c_k),   sum_k w_k = 1

    The left side is how it is computed here, the right side how the library does.

    Args:
        vd: the model.
        x: (B, C, h, w) or (B, D) noisy latent.
        t: its timestep.
        contexts: what conditions, with weights.

    Raises:
        ValueError: as `vd.eps`.
        AssertionError: `vd.eps` predicts something else.
    """
    lib = vd.eps(x, t, contexts)
    data = vd.component("image_data" if x.ndim == 4 else "text_data")
    columns = [vd.component(f"{context.kind}_context") for context, _ in contexts]
    tokens = [context.tokens.to(x.device, vd.dtype) for context, _ in contexts]
    weights = torch.tensor([float(weight) for _, weight in contexts], dtype=torch.float64)
    weights = weights / weights.sum()
    emb = vd.time_embed(torch.full((len(x),), t, device=x.device))

    h, skips, layers = x.to(vd.dtype), [], []
    for step in vd.plan:
        if step.op == "save":
            skips.append(h)
        elif step.op == "load":
            h = torch.cat([h, skips.pop()], dim=1)
        elif step.op != "context":
            h = data(step.index, h, emb)
        else:
            pairs = zip(columns, tokens, strict=True)
            changes = torch.stack([column(step.index, h, c) - h for column, c in pairs])
            mixed = torch.einsum("k,k...->...", weights.to(changes), changes)
            flat = changes.cpu().double().flatten(2)  #                        (K, B, C H W)
            layers.append(
                MixedLayer(
                    step.index,
                    step.level,
                    weights,
                    h.cpu().double().flatten(1).norm(dim=1),
                    flat.norm(dim=2),
                    mixed.cpu().double().flatten(1).norm(dim=1),
                    F.cosine_similarity(flat[:, None], flat[None], dim=3),
                )
            )
            h = h + mixed
    agree("eps under mixed contexts", h.to(x.dtype), lib)
    return Mixing(layers, [context.kind for context, _ in contexts], h.to(x.dtype))
