"""Show-your-work twins: what the library computes, once more, with everything in between.

A twin takes what the library's function takes, computes the same by its own means, *asserts that
both agree*, and returns all intermediate results, which a notebook shows as a table. So what is
shown of the inside is true of the model that runs, and a formula printed here cannot drift from the
code. Those of contexts and codes stand in `walkthrough_codes`.

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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.inside.twins import Twin, agree, count_text, root_mean_square
from analysis.inside.walkthrough_codes import (
    context_encoding,
    focus_decomposition,
    mixing_layer_by_layer,
    optimus_entrances,
)
from lib.config import FLOWS
from lib.guidance import guided
from lib.model import Context, Mix, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import Eps, ddim
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


class PlanRow(NamedTuple):
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


@torch.no_grad()
def plan_of(vd: VersatileDiffusion, flow: str) -> Twin:
    """The steps of a flow with the parameters each uses, checked against a run.

    The network is run once on zeros while hooks write down which block really comes when, on maps
    of which width; that must be the plan. Parameters of the steps must add up to the components'.

    Args:
        vd: a model with that flow's columns.
        flow: one of `lib.config.FLOWS`.

    Returns:
        steps: a `PlanRow` each, in running order, the time embedding first.
        parameters: component -> count; the time embedding is shared, the two columns are swapped.
        total: parameters of the flow's diffuser (encoders and decoders not counted).

    Raises:
        ValueError: there is no such flow.
        AssertionError: the run and the plan differ.
    """
    if flow not in FLOWS:
        raise ValueError(f"There is no flow {flow!r}: choose from {', '.join(FLOWS)}.")
    data, context = FLOWS[flow]
    names = time_name, data_name, context_name = "time_embed", f"{data}_data", f"{context}_context"
    vd.require(*names)
    users = {
        None: (),
        time_name: tuple(FLOWS),
        data_name: tuple(f for f, kinds in FLOWS.items() if kinds[0] == data),
        context_name: tuple(f for f, kinds in FLOWS.items() if kinds[1] == context),
    }
    blocks = {
        data_name: vd.component(data_name).data_blocks,
        context_name: vd.component(context_name).context_blocks,
    }
    width = vd.spec.unet.model_channels
    first = PlanStep("time", -1, -1, width, 4 * width)
    steps = [PlanRow(first, time_name, _count(vd.time_embed), users[time_name])]
    for step in vd.plan:
        name = context_name if step.op == "context" else data_name if step.index >= 0 else None
        count = _count(blocks[name][step.index]) if name else 0
        steps.append(PlanRow(step, name, count, users[name]))

    x = torch.zeros(1, *vd.latent_shape(data), device=vd.device)
    channels = x.shape[1]  # what the plan leaves open, at either end
    planned = [
        (name, step.index, step.width_in or channels, step.width_out or channels)
        for step, name, *_ in steps[1:]
        if name is not None
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
    parameters = {name: sum(r.parameters for r in steps if r.component == name) for name in names}
    for name, count in parameters.items():
        if count != _count(vd.component(name)):
            raise AssertionError(f"{name}: {count} parameters in steps, not all that it has")
    shared, *swapped = map(count_text, parameters.values())
    return Twin(
        [_plan_line(row) for row in steps],
        f"{flow}: {shared} shared by all flows, {' + '.join(swapped)} swapped in",
        steps=steps,
        parameters=parameters,
        total=sum(parameters.values()),
    )


def _plan_line(row: PlanRow) -> dict[str, str]:
    step = row.step
    width = f"{step.width_in or 'latent'} > {step.width_out or 'latent'}"
    return {
        "step": step.op,
        "weights of": row.component or "",
        "level": str(step.level) if step.level >= 0 else "",
        "width": width if row.component else "",
        "parameters": count_text(row.parameters) if row.component else "",
        "used by": " ".join(row.flows),
    }


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------------- noise


def schedule_table(vd: VersatileDiffusion, steps: int | None = None) -> Twin:
    """`log alpha_bar_t = sum_{s <= t} log(1 - beta_s)`, sqrt(beta) linear in t.

    Args:
        vd: any model.
        steps: of the subsequence; None is the model's default.

    Returns:
        beta: noise added at each of the T timesteps; this and the next four are (T,) float64.
        alpha_bar: share of the signal's variance that is left.
        signal, noise: sqrt(alpha_bar) and sqrt(1 - alpha_bar), the factors of x_0 and eps in x_t.
        log_snr: log(alpha_bar / (1 - alpha_bar)).
        timesteps: that a sampler visits, ascending.
        alpha, alpha_prev: (S,) alpha_bar there, and at the timestep denoised to.

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
    columns = {
        "beta": beta,
        "alpha_bar": alpha_bar,
        "signal": alpha_bar.sqrt(),
        "noise": (1 - alpha_bar).sqrt(),
        "log_snr": alpha_bar.log() - torch.log1p(-alpha_bar),
    }
    rows = [{"t": t, **{k: v[t] for k, v in columns.items()}} for t in reversed(timesteps)]
    return Twin(rows, **columns, timesteps=timesteps, alpha=alpha, alpha_prev=alpha_prev)


def ddim_step(
    vd: VersatileDiffusion,
    x: Tensor,
    eps: Tensor,
    timesteps: Sequence[int],
    eta: float = 0.0,
    seeds: Sequence[int] = (),
) -> Twin:
    """The step from the last timestep of a subsequence to the one before it, in float64.

    Args:
        vd: any model (its schedule counts).
        x: (B, ...) latent at the last timestep.
        eps: its predicted noise.
        timesteps: ascending; cut it to look at an earlier step.
        eta: share of fresh noise.
        seeds: one a sample, for eta > 0.

    Returns:
        t, t_prev: from which timestep to which.
        a, a_prev, sigma: alpha_bar at both, and the size of fresh noise.
        x, eps: the latent at t, and its predicted noise; tensors are float64 on the CPU.
        x0: (x - sqrt(1 - a) eps) / sqrt(a), the estimate of the clean latent.
        towards: sqrt(a_prev) x0.
        direction: sqrt(1 - a_prev - sigma^2) eps, the noise that is still in.
        fresh: sigma z.
        x_prev: towards + direction + fresh.

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
    terms = {
        "x_t": x,
        "eps": e,
        "x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)": x0,
        "sqrt(alpha_bar') x_0": towards,
        "sqrt(1 - alpha_bar' - sigma^2) eps": direction,
        "sigma z": fresh,
        "their sum, x_t'": x_prev,
    }
    return Twin(
        [{"term": k, "norm / root of dimension": root_mean_square(v)} for k, v in terms.items()],
        f"t = {t}, alpha_bar {a:.4f}, to t' = {t_prev}, {a_prev:.4f}",
        t=t, t_prev=t_prev, a=a, a_prev=a_prev, sigma=sigma, x=x, eps=e, x0=x0, towards=towards,
        direction=direction, fresh=fresh, x_prev=x_prev,
    )  # fmt: skip


# ---------------------------------------------------------------------- guidance


@torch.no_grad()
def guidance_vectors(
    vd: VersatileDiffusion,
    contexts: Mix,
    data: str,
    scale: float,
    x: Tensor,
    timesteps: Sequence[int] | None = None,
    nulls: Sequence[Context] | None = None,
) -> Twin:
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

    Returns:
        t: timesteps, (S,), noisiest first.
        scale: s.
        cond, null, difference, guided: (S, B) Euclidean norms of the predictions per root of the
            dimension (a standard normal vector has 1).
        angle: (S, B) between cond and null, in degrees.
        turn: (S, B) between cond and guided, in degrees: what guidance adds.
        steps: what the sampler yielded.

    Raises:
        ValueError: scale is 0 or 1.
        AssertionError: the library's guided prediction differs by more than its precision.
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
    agree("first guided eps", steps[0].eps, first, None if vd.dtype.itemsize >= 4 else 5e-2)
    names = ("cond", "null", "difference", "guided", "angle", "turn")
    columns = dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))
    t = [step.t for step in steps]
    lines = [{"t": at, **{k: v[i] for k, v in columns.items()}} for i, at in enumerate(t)]
    return Twin(lines, t=t, scale=scale, steps=steps, **columns)


def _degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors, exact also where it is small (Kahan): (B, n), (B, n) -> (B,)."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)))
