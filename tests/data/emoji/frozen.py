"""What stands in for a network whose package is not installed: it sees a few colours."""

import torch
from torch import nn


class Colors(nn.Module):
    """Maps by the names that are asked for, each of mean colours in four cells."""

    GAINS = (0.5, 2.0)

    def __init__(self, size, side, blocks):
        super().__init__()
        self.blocks = blocks
        self.register_buffer("gain", torch.linspace(*self.GAINS, len(blocks) + 1))

    def forward(self, pictures):
        cells = nn.functional.adaptive_avg_pool2d(pictures, 2)
        names = (*self.blocks, "last")
        return {name: cells * gain for name, gain in zip(names, self.gain, strict=True)}
