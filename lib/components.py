"""The parts that a model consists of: built by name, read from their files when first required."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lib.clip import ClipText, ClipVision
from lib.config import COMPONENTS, FLOWS, ModelSpec
from lib.devices import settle
from lib.kl_vae import KLDecoder, KLEncoder
from lib.lazy import Lazy
from lib.unet import ContextColumn, DataColumn, TimeEmbed

Read = Callable[[str, torch.device, torch.dtype], nn.Module]
"""Reads a component from its file: (name, device, dtype) -> module, or ValueError."""

_ATTRIBUTES = {f"{name}_column" if name.endswith("_context") else name: name for name in COMPONENTS}
"""Where a component is kept: contexts are *made* by methods of the context columns' names."""

TEXT_VAE = ("text_encoder", "text_decoder")
"""Its components: the only ones that are built of transformers' networks."""

optimus = Lazy("lib.optimus")
_reading = threading.RLock()  # two threads that need the same component read it once


def build(spec: ModelSpec, component: str) -> nn.Module:
    """A fresh, randomly initialised component; under `torch.device("meta")` just its structure.

    Raises:
        ValueError: not one of `lib.config.COMPONENTS`.
    """
    check_components([component])
    kind, _, role = component.partition("_")
    if component == "time_embed":
        return TimeEmbed(spec.unet)
    if role == "data":
        return DataColumn(kind, spec.unet)
    if role == "context":
        return ContextColumn(kind, spec.unet)
    if component in TEXT_VAE:
        # imported only here: transformers takes longer to import than a small model to sample
        kind = "OptimusEncoder" if role == "encoder" else "OptimusDecoder"
        return getattr(optimus, kind)(spec.text_vae)
    network, config = {
        "image_encoder": (KLEncoder, spec.image_vae),
        "image_decoder": (KLDecoder, spec.image_vae),
        "clip_text": (ClipText, spec.clip),
        "clip_vision": (ClipVision, spec.clip),
    }[component]
    return network(config)


class Structure(Mapping[str, nn.Module]):
    """Components by name, on `meta`: names and shapes of their parameters, no values."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec, self._built = spec, {}

    def __getitem__(self, name: str) -> nn.Module:
        """Built when it is first asked for."""
        if name not in self._built:
            with torch.device("meta"):
                self._built[name] = build(self._spec, name)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMPONENTS)

    def __len__(self) -> int:
        return len(COMPONENTS)


@lru_cache(maxsize=8)
def structure(spec: ModelSpec) -> Structure:
    """The one `Structure` of a spec."""
    return Structure(spec)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name and tensor of all that a checkpoint holds, and whether it came under another name."""
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        yield name, tensor, id(tensor) in seen
        seen.add(id(tensor))


def check_components(names: Iterable[str]) -> None:
    """ValueError unless all are names of components."""
    unknown = sorted(set(names) - set(COMPONENTS))
    if unknown:
        raise ValueError(
            f"Unknown components {', '.join(unknown)}: choose from {', '.join(COMPONENTS)}."
        )


def components_for(flows: tuple[str, ...] | list[str], encoders: bool = False) -> tuple[str, ...]:
    """The components that the given flows read, in the order of `COMPONENTS`.

    Text-to-image needs five (1.03 B parameters of the released model's 3.8 B). `encoders` adds the
    VAE encoders of the generated kinds, which only starting from a given picture or text
    ("fidelity", editing, reconstruction) needs.

    Raises:
        ValueError: an unknown flow.
    """
    needed = {"time_embed"}
    for flow in flows:
        if flow not in FLOWS:
            raise ValueError(f"There is no flow {flow!r}: choose from {', '.join(FLOWS)}.")
        data, context = FLOWS[flow]
        tower = "clip_text" if context == "text" else "clip_vision"
        needed |= {f"{data}_data", f"{context}_context", f"{data}_decoder", tower}
        if encoders:
            needed.add(f"{data}_encoder")
    return tuple(part for part in COMPONENTS if part in needed)


class Components(nn.Module):
    """Components by name, each in memory, or still in the file it is read from.

    They are attributes, too: `vd.clip_text` is `vd.component("clip_text")`. Only the context
    columns have other names there, `vd.image_context_column` and `vd.text_context_column`.

    Args:
        components: name (one of `lib.config.COMPONENTS`) -> module, those in memory already.
        read: reads any other when it is first required; None: there are no others.
        readable: names of those that `read` is able to read.
        device, dtype: of the components that are going to be read; by default as those in memory.
    """

    def __init__(
        self,
        components: Mapping[str, nn.Module],
        read: Read | None = None,
        readable: Sequence[str] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_components([*components, *readable])
        self._read, self._readable = read, frozenset(readable)
        for attribute, name in _ATTRIBUTES.items():
            if components.get(name) is not None:
                setattr(self, attribute, components[name])
        # an empty tensor that moves as the weights do, also while there are none
        place = torch.empty(0, device=device or self.device, dtype=dtype or self.dtype)
        self.register_buffer("_place", place, persistent=False)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the components in memory."""
        return tuple(name for at, name in _ATTRIBUTES.items() if at in self._modules)

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the components in memory, or in files that they can be read from."""
        return tuple(n for n in COMPONENTS if n in self.loaded or n in self._readable)

    @property
    def device(self) -> torch.device:
        """Where the weights are, or are going to be."""
        return self._first().device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision the weights are, or are going to be."""
        return self._first().dtype

    def component(self, name: str) -> nn.Module:
        """The component of that name (one of `lib.config.COMPONENTS`), read if it was not yet.

        Raises:
            ValueError: no such component, or this model does not have it; a damaged file.
        """
        check_components([name])
        attribute = name + "_column" * name.endswith("_context")
        with _reading:
            if attribute not in self._modules:
                if self._read is None:
                    raise ValueError(
                        f"This needs {name}, which this model was made without (it has "
                        f"{', '.join(self.loaded) or 'nothing'}): load a whole one."
                    )
                setattr(self, attribute, settle(self._read(name, self.device, self.dtype)))
        return self._modules[attribute]

    def require(self, *names: str) -> None:
        """Read those components that are not in memory yet.

        Raises:
            ValueError: one that this model does not have; a damaged file.
        """
        for name in names:
            self.component(name)

    def __getattr__(self, name: str) -> Any:
        """What `nn.Module` does not find: a component that was not read yet."""
        if name in _ATTRIBUTES and name not in self._modules:
            return self.component(_ATTRIBUTES[name])
        return super().__getattr__(name)

    def _first(self) -> Tensor:
        place = self._buffers.get("_place", torch.empty(0))
        return next(self.parameters(), place)
