"""Every random number has an owner: one generator per sample.

Sample k is then the same alone, in any batch and on any device: numbers are drawn on the CPU, by
the sample's own generator, and moved.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


def draw_seed() -> int:
    """A fresh seed from the operating system, short enough to read out: 0 ... 2**31 - 1."""
    return secrets.randbelow(2**31)


def check_seed(seed: int) -> int:
    """Return the seed if a torch generator accepts it.

    Raises:
        ValueError: not an integer in 0 ... 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}: give an integer from 0 to 2**63 - 1.")
    return seed


class SampleNoise:
    """A batch of independent random streams, one a sample.

    Example:
        >>> a = SampleNoise([7, 8]).normal((4, 8, 8))
        >>> b = SampleNoise([8]).normal((4, 8, 8))
        >>> bool((a[1] == b[0]).all())
        True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = [check_seed(seed) for seed in seeds]
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 from N(0, 1)."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.generators])

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32 from [0, 1)."""
        return torch.stack([torch.rand(tuple(shape), generator=g) for g in self.generators])


def official_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """The released code's initial noise: `torch.manual_seed(seed + 100)`, one draw for the batch.

    Use it as initial latents to compare with old results; sample k depends on the batch here.

    Args:
        seed: as given to the released demo.
        shape: with the batch, e.g. (2, 4, 64, 64).
    """
    generator = torch.Generator().manual_seed(check_seed(seed) + 100)
    return torch.randn(tuple(shape), generator=generator)
