"""Files of weights: any released layout in, this project's own layout out."""

from lib.checkpoints.loading import load
from lib.checkpoints.saving import save

__all__ = ["load", "save"]
