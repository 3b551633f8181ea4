"""Modules that take seconds to import, imported when something of them is first used.

`python -m analysis --help` lists every option of every mode, and needs none of torch for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """A module by its name; the first attribute that is read imports it.

    Example:
        >>> torch = Lazy("torch")
        >>> torch.zeros(2)                      # only here is torch imported
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
