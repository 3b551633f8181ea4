"""Muon: matrices are moved by their orthogonalised momentum, everything else by AdamW.

For a weight seen as an (m, n) matrix, with gradient G_t and momentum mu:

    M_t = mu M_{t-1} + (1 - mu) G_t,    U_t = (1 - mu) G_t + mu M_t
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(m, n)) O(U_t)

where O replaces all singular values by about 1: every direction of a matrix moves equally far, the
rare ones too. The factor gives an update the root mean square that AdamW's has (0.2), so one
learning rate serves both. A convolution's kernel is an (out, in x height x width) matrix.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; factor and
decay of Liu et al. 2025, "Muon is scalable for LLM training", section 2.2. (`torch.optim.Muon`
takes no kernels of convolutions, and one matrix after the other.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""`a s + b s^3 + c s^5` takes every s in (0, 1] to about 1 within `ITERATIONS`."""
ITERATIONS = 5
LONG = 8
"""From this ratio of the sides on, iterating on the small Gram matrix is cheaper."""
EPS = 1e-8


def orthogonalised(x: Tensor) -> Tensor:
    """(N, m, n) matrices with all their singular values brought to about 1 (0.7 to 1.2).

    The iteration `X <- (a I + b X X^T + c (X X^T)^2) X` of Newton and Schulz's kind, in bfloat16.
    Singular values below a thousandth of the matrix's norm stay smaller. Of long matrices the
    factor before X is worked out by itself, in float32: it is a polynomial of the first `X X^T`.
    """
    a, b, c = QUINTIC
    if x.shape[-2] > x.shape[-1]:
        return orthogonalised(x.mT).mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    if x.shape[-1] < LONG * x.shape[-2]:
        for _ in range(ITERATIONS):
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x.float()
    square = x.float() @ x.float().mT  # rounded, it had negative eigenvalues, and they explode
    one = torch.eye(x.shape[-2], device=x.device)
    factor = one.expand_as(square)
    for _ in range(ITERATIONS):
        step = torch.baddbmm(square, square, square, beta=b, alpha=c) + a * one
        factor, square = step @ factor, step @ square @ step
    return (factor.bfloat16() @ x).float()


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions, AdamW for the others.

    Args:
        parameters: what is trained.
        lr: learning rate of both.
        betas: AdamW's.
        weight_decay: share of a weight that `lr` takes off.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(list(parameters), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on the gradients that the parameters have."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            matrices: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - lr * decay)
                rows = len(parameter) if parameter.ndim > 1 else 1
                columns = parameter.numel() // max(rows, 1)
                if min(rows, columns) > 1:
                    matrices.setdefault((rows, columns), []).append(parameter)
                else:
                    self._adam(parameter, lr, group["betas"])
            for shape, alike in matrices.items():
                moves = orthogonalised(torch.stack([self._momentum(p).view(shape) for p in alike]))
                for parameter, move in zip(alike, moves, strict=True):
                    parameter.add_(move.view_as(parameter), alpha=-lr * 0.2 * max(shape) ** 0.5)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM).contiguous()

    def _adam(self, parameter: Tensor, lr: float, betas: tuple[float, float]) -> None:
        state, grad = self.state[parameter], parameter.grad
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - betas[0])
        state["square"].lerp_(grad.square(), 1 - betas[1])
        first, second = (1 - beta ** state["step"].item() for beta in betas)
        size = (state["square"] / second).sqrt_().add_(EPS)
        parameter.addcdiv_(state["mean"] / first, size, value=-lr)
