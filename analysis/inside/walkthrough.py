"""Show-your-work twins: what the library computes, once more, with everything in between.

A twin takes what the library's function takes, computes the same by its own means, *asserts that
both agree*, and returns all intermediate results for looking at. So what a notebook shows of the
inside is true of the model that runs, and a formula printed here cannot drift from the code.

| twin | of | shows |
|---|---|---|
| `plan_of` | `lib.unet.plan`, `run` | the steps of a flow, and whose parameters each uses |
| `schedule_table` | `NoiseSchedule` | noise over time, and the timesteps visited |
| `ddim_step` | `lib.sampler.ddim` | one denoising step, term by term |
| `guidance_vectors` | `lib.sampler.guided` | lengths and angles of noise predictions over time |
| `mixing_layer_by_layer` | `lib.unet.mix` | what each context changes at each layer |
| `context_encoding` | `lib.clip` | contexts before and after normalisation |
| `focus_decomposition` | `analysis.modes.focus` | spectrum, and what is done to each band of it |
| `optimus_entrances` | `lib.optimus` | what the latent's two entrances tell GPT-2 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.inside.walkthrough_codes import (
    ContextEncoding,
    FocusDecomposition,
    OptimusEntrances,
    agree,
    context_encoding,
    focus_decomposition,
    optimus_entrances,
)
from analysis.inside.walkthrough_contexts import (
    Guidance,
    MixedLayer,
    guidance_vectors,
    mixing_layer_by_layer,
)
from lib.config import FLOWS
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import ddim

__all__ = [
    "ContextEncoding",
    "FocusDecomposition",
    "Guidance",
    "MixedLayer",
    "OptimusEntrances",
    "agree",
    "context_encoding",
    "ddim_step",
    "focus_decomposition",
    "guidance_vectors",
    "mixing_layer_by_layer",
    "optimus_entrances",
    "plan_of",
    "schedule_table",
]


# ---------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class PlanRow:
    """One step of a flow.

    Attributes:
        op: as in `lib.unet.PlanStep`, and "time" for the time embedding.
        component: whose block runs; None for saving and loading skips.
        index: the block's number in its component; -1 where it has none.
        level, width_in, width_out: as in `PlanStep`.
        parameters: of the block.
        flows: that run the same block: all four if it is shared, two if it is swapped.
    """

    op: str
    component: str | None
    index: int
    level: int
    width_in: int
    width_out: int
    parameters: int
    flows: tuple[str, ...]


@dataclass(frozen=True)
class FlowPlan:
    """A flow as the list of its steps.

    Attributes:
        flow: its name.
        rows: in running order, the time embedding first.
        parameters: component -> count; the time embedding is shared, the two columns are swapped.
    """

    flow: str
    rows: tuple[PlanRow, ...]
    parameters: dict[str, int]

    @property
    def total(self) -> int:
        """Parameters of the flow's diffuser (encoders and decoders not counted)."""
        return sum(self.parameters.values())


@torch.no_grad()
def plan_of(vd: VersatileDiffusion, flow: str) -> FlowPlan:
    """The steps of a flow with the parameters each uses, checked against a run.

    The network is run once on zeros while hooks write down which block really comes when, on maps
    of which width; that must be the plan. Parameters of the rows must add up to the components'.

    Args:
        vd: a model with that flow's columns.
        flow: one of `lib.config.FLOWS`.

    Raises:
        ValueError: there is no such flow.
        AssertionError: the run and the plan differ.
    """
    if flow not in FLOWS:
        raise ValueError(f"There is no flow {flow!r}: choose from {', '.join(FLOWS)}.")
    data, context = FLOWS[flow]
    names = ("time_embed", f"{data}_data", f"{context}_context")
    vd.require(*names)
    time, data_column, context_column = (vd.component(name) for name in names)
    width = vd.spec.unet.model_channels
    rows = [PlanRow("time", names[0], -1, -1, width, 4 * width, _count(time), tuple(FLOWS))]
    for step in vd.plan:
        name, block = None, None
        if step.op == "context":
            name, block = names[2], context_column.context_blocks[step.index]
        elif step.index >= 0:
            name, block = names[1], data_column.data_blocks[step.index]
        users = () if name is None else tuple(f for f, kinds in FLOWS.items() if _uses(name, kinds))
        sizes = (step.index, step.level, step.width_in, step.width_out)
        rows.append(PlanRow(step.op, name, *sizes, _count(block), users))

    ran: list[tuple[str, int, int, int]] = []
    handles = [
        vd.component(name).register_forward_hook(
            lambda module, args, out, name=name: ran.append(
                (name, args[0], args[1].shape[1], out.shape[1])
            )
        )
        for name in names[1:]
    ]
    try:
        tokens = torch.zeros(1, 1, vd.spec.unet.context_dim, device=vd.device)
        x = torch.zeros(1, *vd.latent_shape(data), device=vd.device)
        vd.eps(x, 0, [(Context(context, tokens), 1.0)])
    finally:
        for handle in handles:
            handle.remove()
    planned = []
    for row in rows[1:]:
        if row.component is not None:
            first = x.shape[1] if row.op == "in" else row.width_in
            last = x.shape[1] if row.op == "out" else row.width_out
            planned.append((row.component, row.index, first, last))
    if ran != planned:
        raise AssertionError(f"{flow} ran {ran}, the plan says {planned}")
    parameters = {name: sum(r.parameters for r in rows if r.component == name) for name in names}
    for name, count in parameters.items():
        if count != _count(vd.component(name)):
            raise AssertionError(f"{name}: {count} parameters in steps, not all that it has")
    return FlowPlan(flow, tuple(rows), parameters)


def _uses(component: str, kinds: tuple[str, str]) -> bool:
    return component in (f"{kinds[0]}_data", f"{kinds[1]}_context")


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------------- noise


@dataclass(frozen=True, eq=False)
class ScheduleTable:
    """The noise schedule, (T,) float64 each, and a subsequence of it, (S,).

    Attributes:
        beta: noise added at a timestep.
        alpha_bar: share of the signal's variance that is left.
        signal, noise: sqrt(alpha_bar) and sqrt(1 - alpha_bar), the factors of x_0 and eps in x_t.
        log_snr: log(alpha_bar / (1 - alpha_bar)).
        timesteps: that a sampler visits, ascending.
        alpha, alpha_prev: alpha_bar there, and at the timestep denoised to.
    """

    beta: Tensor
    alpha_bar: Tensor
    signal: Tensor
    noise: Tensor
    log_snr: Tensor
    timesteps: list[int]
    alpha: Tensor
    alpha_prev: Tensor


def schedule_table(vd: VersatileDiffusion, steps: int | None = None) -> ScheduleTable:
    """`log alpha_bar_t = sum_{s <= t} log(1 - beta_s)`, sqrt(beta) linear in t.

    Args:
        vd: any model.
        steps: of the subsequence; None is the model's default.

    Raises:
        AssertionError: `vd.schedule` has other numbers.
    """
    spec, steps = vd.spec, steps or vd.spec.steps
    total = spec.num_timesteps
    t = torch.arange(total, dtype=torch.float64)
    root = spec.beta_start**0.5 + (spec.beta_end**0.5 - spec.beta_start**0.5) * t / (total - 1)
    beta = root.square()
    alpha_bar = torch.log1p(-beta).cumsum(0).exp()
    agree("alpha_bar", alpha_bar, vd.schedule.alpha_bar, 1e-10)
    stride = total // steps
    timesteps = [k for k in range(1, total) if (k - 1) % stride == 0]
    alpha = alpha_bar[timesteps]
    alpha_prev = alpha_bar[[0, *timesteps[:-1]]]
    if timesteps != vd.schedule.ddim_timesteps(steps):
        raise AssertionError(f"timesteps: {timesteps} here")
    for twin, lib in zip((alpha, alpha_prev), vd.schedule.ddim_alphas(timesteps), strict=True):
        agree("alphas of the subsequence", twin, lib, 1e-10)
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    log_snr = alpha_bar.log() - torch.log1p(-alpha_bar)
    return ScheduleTable(beta, alpha_bar, signal, noise, log_snr, timesteps, alpha, alpha_prev)


@dataclass(frozen=True, eq=False)
class DDIMStep:
    """One step, term by term; tensors like x, float64 on the CPU.

    Attributes:
        t, t_prev: from which timestep to which.
        a, a_prev, sigma: alpha_bar at both, and the size of fresh noise.
        x0: (x - sqrt(1 - a) eps) / sqrt(a), the estimate of the clean latent.
        towards: sqrt(a_prev) x0.
        direction: sqrt(1 - a_prev - sigma^2) eps, the noise that is still in.
        fresh: sigma z.
        x_prev: towards + direction + fresh.
    """

    t: int
    t_prev: int
    a: float
    a_prev: float
    sigma: float
    x0: Tensor
    towards: Tensor
    direction: Tensor
    fresh: Tensor
    x_prev: Tensor


def ddim_step(
    vd: VersatileDiffusion,
    x: Tensor,
    eps: Tensor,
    timesteps: Sequence[int],
    eta: float = 0.0,
    seeds: Sequence[int] = (),
) -> DDIMStep:
    """The step from the last timestep of a subsequence to the one before it, in float64.

    Args:
        vd: any model (its schedule counts).
        x: (B, ...) latent at the last timestep.
        eps: its predicted noise.
        timesteps: ascending; cut it to look at an earlier step.
        eta: share of fresh noise.
        seeds: one a sample, for eta > 0.

    Raises:
        AssertionError: `lib.sampler.ddim` goes elsewhere.
    """
    noise = SampleNoise(seeds) if eta > 0 else None
    lib = next(ddim(lambda x_t, t: eps, x, vd.schedule, timesteps, eta, noise))
    t, t_prev = timesteps[-1], (timesteps[-2] if len(timesteps) > 1 else 0)
    a, a_prev = (vd.schedule.alpha_bar[k].item() for k in (t, t_prev))
    x, e = x.cpu().double(), eps.cpu().double()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)) ** 0.5
    z = SampleNoise(seeds).normal(x.shape[1:]).double() if eta > 0 else torch.zeros_like(x)
    x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
    towards, direction, fresh = a_prev**0.5 * x0, (1 - a_prev - sigma**2) ** 0.5 * e, sigma * z
    x_prev = towards + direction + fresh
    agree("x0", x0, lib.x0)
    agree("x_prev", x_prev, lib.x)
    return DDIMStep(t, t_prev, a, a_prev, sigma, x0, towards, direction, fresh, x_prev)
