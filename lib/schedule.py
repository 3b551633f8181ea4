"""The noise schedule, and the subsequences that samplers visit."""

from __future__ import annotations

import torch
from torch import Tensor

SPACINGS = ("exact", "released")
"""How timesteps are chosen for a number of steps (`NoiseSchedule.timesteps`)."""


class NoiseSchedule:
    """`alpha_bar[t] = prod_{s <= t} (1 - beta[s])` with betas linear in their square root.

    `beta = linspace(sqrt(beta_start), sqrt(beta_end), T) ** 2`, in float64 on the CPU: the table
    has a thousand entries, and rounding it is the cheapest way to lose parity.

    Attributes:
        alpha_bar: (T,) float64, decreasing from about 0.999 to about 0.005.

    Source: Ho et al. 2020, equation 4; the square-root spacing is latent diffusion's.
    """

    def __init__(
        self, num_timesteps: int = 1000, beta_start: float = 8.5e-4, beta_end: float = 1.2e-2
    ) -> None:
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"betas from {beta_start} to {beta_end}: need 0 < beta_start <= beta_end < 1."
            )
        root = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64)
        self.betas = root**2
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)

    @property
    def num_timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alpha_bar)

    def timesteps(self, steps: int, spacing: str = "exact") -> list[int]:
        """An even subsequence of the timesteps, ascending (50 steps: 1, 21, ..., 981).

        "exact" is `floor(k T / steps) + 1` for k = 0 ... steps - 1. "released" is what the released
        code takes, `range(0, T, floor(T / steps)) + 1`: the same where steps divides T, else more
        steps than asked for (31 instead of 30); those that would run past the table are left out.

        Raises:
            ValueError: another spacing; steps outside 1 ... T - 1, or outside 1 ... T / 2 in the
                released spacing (beyond that the shift by one leaves the table).
        """
        if spacing not in SPACINGS:
            raise ValueError(f"spacing is {spacing!r}: choose {' or '.join(SPACINGS)}.")
        last = self.num_timesteps - 1 if spacing == "exact" else self.num_timesteps // 2
        if not 1 <= steps <= last:
            raise ValueError(f"steps is {steps}: choose 1 to {last} sampling steps.")
        if spacing == "exact":
            return [k * self.num_timesteps // steps + 1 for k in range(steps)]
        return list(range(1, self.num_timesteps, self.num_timesteps // steps))

    def ddim_alphas(self, timesteps: list[int]) -> tuple[Tensor, Tensor]:
        """`alpha_bar` at each timestep of a subsequence, and at the one before it.

        The one before the first is `alpha_bar[0]`, not 1: the last denoising step does not remove
        all noise.

        Returns:
            (alphas, alphas_prev), each (len(timesteps),) float64.
        """
        alphas = self.alpha_bar[timesteps]
        return alphas, torch.cat([self.alpha_bar[:1], alphas[:-1]])

    def add_noise(self, x_0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """`x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps` (Ho et al. 2020, equation 4).

        Args:
            x_0, eps: (B, ...).
            t: one timestep, or (B,) of them.
        """
        t = torch.as_tensor(t).cpu().expand(x_0.shape[0])
        shape = (-1,) + (1,) * (x_0.ndim - 1)
        a = self.alpha_bar[t].view(shape)
        signal, noise = a.sqrt().to(x_0), (1 - a).sqrt().to(x_0)
        return signal * x_0 + noise * eps
