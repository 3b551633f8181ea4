"""Everything a model can be asked to make: one function a mode, in the order of the README."""

# ruff: noqa: I001, F401  the order of these lines is the order of the table
from analysis.modes.flows import text_to_image, image_variation, image_to_text, text_variation
from analysis.modes.mix import blend, describe, dual_guided
from analysis.modes.focus import focus
from analysis.modes.interpolate import interpolate
from analysis.modes.edit import edit, latent_edit
from analysis.modes.encode import encode
from analysis.modes.table import MODES

__all__ = ["MODES", *(mode.function.__name__ for mode in MODES.values())]
