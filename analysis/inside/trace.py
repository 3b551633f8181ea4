"""Recording what happens inside the diffuser while it runs: attention maps, activations.

    with trace(vd) as t:
        text_to_image(vd, "a red circle above a blue square", seed=20)
    maps = heat_maps(t, "a red circle above a blue square", ["red circle", "blue"])

Nothing is patched. PyTorch calls hooks at the borders of modules, and the modules of `lib` have
their borders where there is something to see:

    time_embed           a call of eps begins, at timestep t
    data column          one block of the plan: how large are the activations?
    context column       one context layer under one context: which, conditional or null?
    attn1, attn2         self- and cross-attention: x and context, from which the hook computes
                         softmax(q k^T / sqrt(d)) once more

So the numbers that the model computes are the same with and without a recording, and without one
there is no hook: nothing is paid. A recording holds one generation of one batch; sample k of its
maps is sample k of the batch. `analysis.inside.heatmaps` lays them over the picture.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib.model import Context, VersatileDiffusion
from lib.transformer import Attention

log = logging.getLogger(__name__)

MAX_BYTES = 2**28
BRANCHES = ("cond", "null")
_ACTIVATION_BYTES = 256  # a record of a few numbers, as Python keeps it


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What one attention layer looked at in one call of eps.

    Attributes:
        step: how many timesteps were visited before.
        t: the timestep.
        layer: number of the context layer, in running order.
        attends: "cross" (to the context) or "self" (to the map itself).
        data: "image" or "text": what is generated.
        kind: "image" or "text": of the context, and so of the column.
        context: which of the mixed contexts, from 0.
        branch: "null" where this context is one to guide away from, "cond" otherwise.
        size: (H, W) of the feature map; its N = H W positions are the queries.
        weights: (B, N, M), or (B, heads, N, M), float16 on the CPU; sums to 1 over the M tokens.
    """

    step: int
    t: int
    layer: int
    attends: str
    data: str
    kind: str
    context: int
    branch: str
    size: tuple[int, int]
    weights: Tensor


@dataclass(frozen=True)
class Activation:
    """How large the output of one block was in one call of eps.

    Attributes:
        step, t: as in `AttentionMap`.
        block: "image_data.3", "text_context.0", ...: component, and number within it.
        branch: "null" where everything that conditioned the call is null, "cond" otherwise.
        mean, std: over batch, channels and positions.
        norm: Euclidean norm of a sample, averaged over the batch.
    """

    step: int
    t: int
    block: str
    branch: str
    mean: float
    std: float
    norm: float


@dataclass(eq=False, repr=False)
class Trace:
    """A recording of what `vd.eps` computes; its hooks go at the end of its block.

    Meanwhile both halves of guidance are computed one after the other: results differ from those
    without a recording by rounding.

    A context is told to be null by its tokens: those of `vd.null_context`, or of `nulls`. (A prompt
    "" is therefore null.) Where CLIP is not loaded, give `nulls`.

    Args:
        vd: the model that is recorded.
        layers: context layers to record attention of; None is all.
        branches: "cond", "null" or both.
        self_attention: also record the map's attention to itself (large: N x N a layer).
        heads: "mean" averages over heads, "all" keeps them apart.
        nulls: further contexts to guide away from (negative prompts), as the model is given them.
        max_bytes: what the recording may hold; what comes after is left out, and said.

    Attributes:
        maps: attention maps, in the order they were computed.
        activations: statistics of every block, in the order they ran.
        used_bytes: what the recording holds.
        complete: False once something did not fit into `max_bytes` any more.

    Raises:
        ValueError: an unknown branch or value of heads.
    """

    vd: VersatileDiffusion
    layers: Collection[int] | None = None
    branches: Collection[str] = BRANCHES
    self_attention: bool = False
    heads: str = "mean"
    nulls: Sequence[Context] = ()
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if set(self.branches) - set(BRANCHES) or isinstance(self.branches, str):
            raise ValueError(
                f"branches is {self.branches!r}: give a list of 'cond', 'null' or both."
            )
        if self.heads not in ("mean", "all"):
            raise ValueError(f"heads is {self.heads!r}: choose 'mean' or 'all'.")
        self.maps: list[AttentionMap] = []
        self.activations: list[Activation] = []
        self.used_bytes = 0
        self.complete = True
        self._known_nulls: dict[tuple[str, str], Tensor | None] = {}
        self._step, self._t, self._data = -1, None, "image"
        self._branch_of: dict[int, str] = {}  # position in the mix -> branch, of the current call
        self._turn: dict[int, int] = {}  # layer -> how many contexts it has read in this call
        self._here: AttentionMap | None = None  # where we are; its weights are not known yet
        self._pending: list[tuple[str, float, float, float]] = []
        self._handles: list[RemovableHandle] = []
        self._hooked: set[str] = set()

    def select(
        self,
        attends: str = "cross",
        context: int = 0,
        branch: str = "cond",
        layers: Collection[int] | None = None,
        steps: Collection[int] | None = None,
    ) -> list[AttentionMap]:
        """The maps of one context in one branch, to average over.

        Args:
            attends, context, branch: as in `AttentionMap`.
            layers, steps: numbers; None is all.

        Raises:
            ValueError: there are none, or the recording is not complete.
        """
        if not self.complete:
            raise ValueError(
                f"The recording stopped at {self.max_bytes} bytes, so an average would leave out "
                "the last steps: record fewer layers or branches, or allow more (max_bytes)."
            )
        chosen = [
            m
            for m in self.maps
            if (m.attends, m.context, m.branch) == (attends, context, branch)
            and (layers is None or m.layer in layers)
            and (steps is None or m.step in steps)
        ]
        if not chosen:
            there = sorted({(m.attends, m.context, m.branch) for m in self.maps})
            raise ValueError(
                f"No {attends}-attention to context {context}, branch {branch!r}, was recorded in "
                f"these layers and steps; there are {there or 'no maps at all'}."
            )
        return chosen

    # ------------------------------------------------------------------ hooks

    def _hook_columns(self) -> None:
        """Hooks at columns that are in memory and have none yet: some are read later."""
        for name in {*self.vd.loaded} - self._hooked:
            kind, _, what = name.partition("_")
            if what not in ("data", "context"):
                continue
            column, hook = self.vd.component(name), self._handles.append
            self._hooked.add(name)
            hook(column.register_forward_hook(partial(self._after_block, name)))
            if what == "data":
                continue
            hook(column.register_forward_pre_hook(partial(self._before_context, kind)))
            for layer in column.context_blocks:
                for block in layer.transformer_blocks:
                    cross, itself = (partial(self._after_attention, w) for w in ("cross", "self"))
                    hook(block.attn2.register_forward_hook(cross))
                    if self.self_attention:
                        hook(block.attn1.register_forward_hook(itself))

    def _begin(self, module: nn.Module, args: tuple) -> None:
        self._finish()
        self._hook_columns()
        t = int(args[0].flatten()[0])
        self._step += t != self._t  # conditional and null branch are at the same timestep
        self._t = t

    def __enter__(self) -> Trace:
        self.vd.require("time_embed")
        self._handles.append(self.vd.time_embed.register_forward_pre_hook(self._begin))
        self._hook_columns()
        # branches are told apart by call
        self._shortcuts, self.vd.shortcuts = self.vd.shortcuts, False
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.vd.shortcuts = self._shortcuts
        self._finish()

    def _finish(self) -> None:
        """Hand over the statistics of a call: only now is its branch known."""
        null = bool(self._branch_of) and set(self._branch_of.values()) == {"null"}
        branch = "null" if null else "cond"
        for block, mean, std, norm in self._pending if branch in self.branches else ():
            if self._fits(_ACTIVATION_BYTES):
                where = self._step, self._t, block, branch
                self.activations.append(Activation(*where, mean, std, norm))
        self._pending, self._branch_of, self._turn = [], {}, {}

    @torch.no_grad()
    def _after_block(self, column: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        if column.endswith("_data"):
            self._data = column.removesuffix("_data")
        y = output.float().flatten(1)
        numbers = y.mean().item(), y.std().item(), y.norm(dim=1).mean().item()
        self._pending.append((f"{column}.{args[0]}", *numbers))

    def _before_context(self, kind: str, module: nn.Module, args: tuple) -> None:
        layer, h, tokens = args
        turn = self._turn.get(layer, 0)
        self._turn[layer] = turn + 1
        if turn not in self._branch_of:
            self._branch_of[turn] = "null" if self._is_null(kind, tokens) else "cond"
        branch, size = self._branch_of[turn], tuple(h.shape[2:])
        where = (self._step, self._t, layer, "", self._data, kind, turn, branch, size)
        self._here = AttentionMap(*where, torch.empty(0))

    @torch.no_grad()
    def _after_attention(
        self, attends: str, module: Attention, args: tuple, output: Tensor
    ) -> None:
        here, (x, context) = self._here, args
        wanted = self.layers is None or here.layer in self.layers
        if here.branch not in self.branches or not wanted:
            return
        apart = self.heads == "all"
        heads = module.heads if apart else 1
        # asked before computing: what does not fit is not computed either
        if self._fits(2 * len(x) * heads * x.shape[1] * context.shape[1]):
            weights = attention_weights(module, x, context, apart).half().cpu()
            self.maps.append(replace(here, attends=attends, weights=weights))

    def _fits(self, size: int) -> bool:
        """Whether `size` more bytes may be kept; from the first that may not, none are."""
        if self.complete and self.used_bytes + size > self.max_bytes:
            self.complete = False
            log.warning("the recording is full (%d bytes): the rest is left out", self.max_bytes)
        self.used_bytes += size if self.complete else 0
        return self.complete

    def _is_null(self, kind: str, tokens: Tensor) -> bool:
        """Told by what the context *is*, whatever the order in which a sampler calls."""
        if kind == "image" and self._data == "image" and not bool(tokens.any()):
            return True
        candidates = [null.tokens for null in self.nulls if null.kind == kind]
        if (kind, self._data) not in self._known_nulls:
            self._known_nulls[kind, self._data] = self._default_null(kind)
        default = self._known_nulls[kind, self._data]
        return any(_alike(tokens, null) for null in [*candidates, default] if null is not None)

    def _default_null(self, kind: str) -> Tensor | None:
        needed = "clip_text" if kind == "text" else "clip_vision"
        known = needed in self.vd.available
        if not known or (kind == "text" and self.vd.tokenizers is None):
            return None
        return self.vd.null_context(kind, self._data, 1).tokens


def trace(vd: VersatileDiffusion, **options: Any) -> Trace:
    """Record what `vd.eps` computes within the `with` block of what is returned.

    Args:
        vd: the model.
        options: layers, branches, self_attention, heads, nulls, max_bytes, as `Trace` has them.

    Raises:
        ValueError: as `Trace`.
    """
    return Trace(vd, **options)


def attention_weights(module: Attention, x: Tensor, context: Tensor, all_heads: bool) -> Tensor:
    """`softmax(q k^T / sqrt(d))`, what `lib.ops.attention` weighs values by.

    Args:
        module: whose queries and keys.
        x: (B, N, C) what asks.
        context: (B, M, D) what is looked at.
        all_heads: keep heads apart, or average them (one at a time, to bound memory).

    Returns:
        (B, heads, N, M) or (B, N, M), float32.
    """
    q, k = module.to_q(x).float(), module.to_k(context).float()
    q, k = (rearrange(y, "b n (h d) -> h b n d", h=module.heads) for y in (q, k))
    each = ((a * a.shape[-1] ** -0.5 @ b.mT).softmax(dim=-1) for a, b in zip(q, k, strict=True))
    if all_heads:
        return torch.stack(list(each), dim=1)
    return sum(each) / module.heads


def _alike(tokens: Tensor, null: Tensor) -> bool:
    """Whether every sample is this null context, up to the rounding of another batch size."""
    if tokens.shape[1:] != null.shape[1:] or len(null) not in (1, len(tokens)):
        return False
    tolerance = 1e-4 if tokens.dtype == torch.float32 else 2e-2
    off = (tokens.float() - null.to(tokens).float()).abs().max()
    return bool(off <= tolerance * null.float().abs().max())
