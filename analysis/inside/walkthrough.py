"""Show-your-work twins: what the library computes, once more, with everything in between.

A twin takes what the library's function takes, computes the same by its own means, *asserts that
both agree*, and returns all intermediate results, which a notebook shows as a table. So what is
shown of the inside is true of the model that runs, and a formula printed here cannot drift from the
code. Those of contexts and codes stand in `walkthrough_contexts` and `walkthrough_codes`.

| twin | of | shows |
|---|---|---|
| `plan_of` | `lib.unet.plan`, `run` | the steps of a flow, and whose parameters each uses |
| `schedule_table` | `NoiseSchedule` | noise over time, and the timesteps visited |
| `ddim_step` | `lib.sampler.ddim` | one denoising step, term by term |
| `guidance_vectors` | `lib.guidance.guided` | lengths and angles of noise predictions over time |
| `mixing_layer_by_layer` | `lib.unet.mix` | what each context changes at each layer |
| `context_encoding` | `lib.clip` | contexts before and after normalisation |
| `focus_decomposition` | `analysis.modes.focus` | spectrum, and what is done to each band of it |
| `optimus_entrances` | `lib.optimus` | what the latent's two entrances tell GPT-2 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analysis.inside.twins import Twin, agree, count_text, root_mean_square
from analysis.inside.walkthrough_codes import (
    context_encoding,
    focus_decomposition,
    optimus_entrances,
)
from analysis.inside.walkthrough_contexts import guidance_vectors, mixing_layer_by_layer
from lib.config import FLOWS
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import ddim
from lib.unet import PlanStep

__all__ = [
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
        step: what is done, as `lib.unet` plans it; its op is "time" for the time embedding.
        component: whose block runs; None for saving and loading skips.
        parameters: of the block.
        flows: that run the same block: all four if it is shared, two if it is swapped.
    """

    step: PlanStep
    component: str | None
    parameters: int
    flows: tuple[str, ...]


@dataclass(frozen=True)
class FlowPlan(Twin):
    """A flow as the list of its steps.

    Attributes:
        flow: its name.
        steps: in running order, the time embedding first.
        parameters: component -> count; the time embedding is shared, the two columns are swapped.
    """

    flow: str
    steps: tuple[PlanRow, ...]
    parameters: dict[str, int]

    @property
    def total(self) -> int:
        """Parameters of the flow's diffuser (encoders and decoders not counted)."""
        return sum(self.parameters.values())

    def title(self) -> str:
        """How much is shared, how much swapped in."""
        shared, *swapped = map(count_text, self.parameters.values())
        return f"{self.flow}: {shared} shared by all flows, {' + '.join(swapped)} swapped in"

    def rows(self) -> list[dict[str, Any]]:
        """A line a step."""
        return [
            {
                "step": row.step.op,
                "weights of": row.component or "",
                "level": str(row.step.level) if row.step.level >= 0 else "",
                "width": f"{row.step.width_in or 'latent'} > {row.step.width_out or 'latent'}"
                if row.component
                else "",
                "parameters": count_text(row.parameters) if row.component else "",
                "used by": " ".join(row.flows),
            }
            for row in self.steps
        ]


@torch.no_grad()
def plan_of(vd: VersatileDiffusion, flow: str) -> FlowPlan:
    """The steps of a flow with the parameters each uses, checked against a run.

    The network is run once on zeros while hooks write down which block really comes when, on maps
    of which width; that must be the plan. Parameters of the steps must add up to the components'.

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
    names = time_name, data_name, context_name = (
        "time_embed",
        f"{data}_data",
        f"{context}_context",
    )
    vd.require(*names)
    time, data_column, context_column = (vd.component(name) for name in names)
    users = {
        None: (),
        time_name: tuple(FLOWS),
        data_name: tuple(f for f, kinds in FLOWS.items() if kinds[0] == data),
        context_name: tuple(f for f, kinds in FLOWS.items() if kinds[1] == context),
    }
    width = vd.spec.unet.model_channels
    first = PlanStep("time", -1, -1, width, 4 * width)
    blocks: list[tuple[PlanStep, str | None, nn.Module | None]] = [(first, time_name, time)]
    for step in vd.plan:
        if step.op == "context":
            blocks.append((step, context_name, context_column.context_blocks[step.index]))
        elif step.index >= 0:
            blocks.append((step, data_name, data_column.data_blocks[step.index]))
        else:
            blocks.append((step, None, None))
    rows = [PlanRow(step, name, _count(block), users[name]) for step, name, block in blocks]

    x = torch.zeros(1, *vd.latent_shape(data), device=vd.device)
    planned = [
        (
            row.component,
            row.step.index,
            x.shape[1] if row.step.op == "in" else row.step.width_in,
            x.shape[1] if row.step.op == "out" else row.step.width_out,
        )
        for row in rows[1:]
        if row.component is not None
    ]
    ran: list[tuple[str, int, int, int]] = []
    handles = [
        vd.component(name).register_forward_hook(
            lambda module, args, out, name=name: ran.append(
                (name, args[0], args[1].shape[1], out.shape[1])
            )
        )
        for name in (data_name, context_name)
    ]
    try:
        tokens = torch.zeros(1, 1, vd.spec.unet.context_dim, device=vd.device)
        vd.eps(x, 0, [(Context(context, tokens), 1.0)])
    finally:
        for handle in handles:
            handle.remove()
    if ran != planned:
        raise AssertionError(f"{flow} ran {ran}, the plan says {planned}")
    parameters = {name: sum(r.parameters for r in rows if r.component == name) for name in names}
    for name, count in parameters.items():
        if count != _count(vd.component(name)):
            raise AssertionError(f"{name}: {count} parameters in steps, not all that it has")
    return FlowPlan(flow, tuple(rows), parameters)


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------------- noise


@dataclass(frozen=True, eq=False)
class ScheduleTable(Twin):
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

    def rows(self) -> list[dict[str, Any]]:
        """A line for each timestep visited, noisiest first."""
        names = ("beta", "alpha_bar", "signal", "noise", "log_snr")
        return [
            {"t": t, **{name: getattr(self, name)[t] for name in names}}
            for t in reversed(self.timesteps)
        ]


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
    timesteps = [int(k * total / steps) + 1 for k in range(steps)]
    if timesteps != vd.schedule.timesteps(steps):
        raise AssertionError(f"timesteps: {timesteps} here")
    alpha, alpha_prev = alpha_bar[timesteps], alpha_bar[[0, *timesteps[:-1]]]
    for twin, lib in zip((alpha, alpha_prev), vd.schedule.ddim_alphas(timesteps), strict=True):
        agree("alphas of the subsequence", twin, lib, 1e-10)
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    log_snr = alpha_bar.log() - torch.log1p(-alpha_bar)
    return ScheduleTable(beta, alpha_bar, signal, noise, log_snr, timesteps, alpha, alpha_prev)


@dataclass(frozen=True, eq=False)
class DDIMStep(Twin):
    """One step, term by term; tensors are float64 on the CPU.

    Attributes:
        t, t_prev: from which timestep to which.
        a, a_prev, sigma: alpha_bar at both, and the size of fresh noise.
        x, eps: the latent at t, and its predicted noise.
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
    x: Tensor
    eps: Tensor
    x0: Tensor
    towards: Tensor
    direction: Tensor
    fresh: Tensor
    x_prev: Tensor

    def title(self) -> str:
        """From where to where."""
        return f"t = {self.t}, alpha_bar {self.a:.4f}, to t' = {self.t_prev}, {self.a_prev:.4f}"

    def rows(self) -> list[dict[str, Any]]:
        """A line a term: how long it is."""
        terms = {
            "x_t": self.x,
            "eps": self.eps,
            "x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)": self.x0,
            "sqrt(alpha_bar') x_0": self.towards,
            "sqrt(1 - alpha_bar' - sigma^2) eps": self.direction,
            "sigma z": self.fresh,
            "their sum, x_t'": self.x_prev,
        }
        return [
            {"term": k, "norm / root of dimension": root_mean_square(v)} for k, v in terms.items()
        ]


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
    return DDIMStep(t, t_prev, a, a_prev, sigma, x, e, x0, towards, direction, fresh, x_prev)
