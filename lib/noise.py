"""Every random number has an owner: one generator per sample.

Sample k is then the same alone, in any batch and on any device: numbers are drawn on the CPU, by
the sample's own generator, and moved. Only `OfficialNoise` is shared, to compare with old results.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
OFFSET = 100
"""What the released code adds to every seed."""


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


class OfficialNoise(SampleNoise):
    """The released code's random numbers: one generator a batch, seeded with seed + 100.

    Every draw is one for the whole batch, of which these samples take their rows. So sample k
    depends on how large its batch is, but not on which of its rows are worked on together.

    Args:
        seed: as given to the released demo.
        batch: samples of the whole batch.
        rows: which of them these are, from 0, in any order, also repeated; None is all.
        device: where numbers are drawn. The released code draws where its model is, and a GPU
            draws others than a CPU.

    Raises:
        ValueError: a seed that torch would not take, or a row that the batch does not have.

    Example:
        >>> a = OfficialNoise(20, 4).normal((4, 8, 8))
        >>> b = OfficialNoise(20, 4, rows=[2]).normal((4, 8, 8))
        >>> bool((a[2] == b[0]).all())
        True
    """

    def __init__(
        self,
        seed: int,
        batch: int,
        rows: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        check_seed(check_seed(seed) + OFFSET)
        self.batch, self.rows = batch, list(range(batch) if rows is None else rows)
        if not all(0 <= row < batch for row in self.rows):
            raise ValueError(f"rows are {self.rows}: choose from 0 ... {batch - 1}, the batch's.")
        self.seeds = [seed] * len(self.rows)
        self.generators = [torch.Generator(device).manual_seed(seed + OFFSET)]

    def __len__(self) -> int:
        return len(self.rows)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 from N(0, 1): the rows of the next draw, on the CPU."""
        return self._rows_of(torch.randn, shape)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32 from [0, 1): the rows of the next draw, on the CPU."""
        return self._rows_of(torch.rand, shape)

    def _rows_of(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        (generator,) = self.generators
        whole = draw((self.batch, *shape), generator=generator, device=generator.device)
        return whole.cpu()[self.rows]
