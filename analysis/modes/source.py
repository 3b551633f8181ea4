"""What conditions, what is started from, and what is guided away from.

That is texts, pictures, or what others computed of them; or what stands for "no picture".

Everything is checked when it is given; pictures are opened and encoded when a batch needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from analysis.modes.tensors import context_of, is_tensor_file, latents_of
from data.pictures import Picture, picture_files, pictures
from lib.checks import listed, texts
from lib.contexts import IMAGE_NULLS, Context
from lib.fingerprints import tensor_digest
from lib.images import fit
from lib.model import VersatileDiffusion

log = logging.getLogger(__name__)

TOWERS = {"image": "clip_vision", "text": "clip_text"}
"""Kind -> the component that encodes it."""


@dataclass(frozen=True)
class Sample:
    """One sample to make.

    Attributes:
        input: number of its input.
        value: number of its value along the strip.
        seed: of its noise.
        row: which of the n samples of its input.
    """

    input: int
    value: int
    seed: int
    row: int = 0


@dataclass(frozen=True)
class Source:
    """Texts, pictures, or their precomputed context: checked, and encoded when they are needed.

    Attributes:
        vd: the model.
        kind: "text" or "image".
        items: the texts or pictures; None if there is only their context.
        precomputed: their context, instead of encoding them.
        fit: how pictures become square (`lib.images.fit`).
    """

    vd: VersatileDiffusion
    kind: str
    items: list[str] | list[Picture] | None
    precomputed: Context | None = None
    fit: str = "squeeze"

    @classmethod
    def of(
        cls,
        vd: VersatileDiffusion,
        kind: str,
        inputs: Any,
        context: Any = None,
        fit: str = "squeeze",
    ) -> Source:
        """Check what was given.

        Args:
            vd: the model.
            kind: "text" or "image".
            inputs: texts or pictures, one or many, or a `Context` of that kind; None with
                `context`.
            context: precomputed, in whatever holds it (`analysis.modes.tensors`); inputs that are
                given, too, are then only what can be started from.
            fit: how pictures become square.

        Raises:
            ValueError: none, or one that cannot be used.
        """
        if isinstance(inputs, Context):
            inputs, context = None, inputs
        items = None
        if inputs is not None or context is None:
            if kind == "image":
                items = pictures([] if inputs is None else inputs)
            else:
                items = texts([] if inputs is None else inputs, "prompt")
        if context is None:
            if kind == "text":
                check_prompts(vd, items)
            return cls(vd, kind, items, None, fit)
        context = context_of(vd, context, kind, longer=True)  # contexts side by side
        if items is not None and len(items) != len(context):
            raise ValueError(
                f"context has {len(context)} samples for {len(items)} inputs: give one an input."
            )
        return cls(vd, kind, items, context, fit)

    def __len__(self) -> int:
        return len(self.items if self.precomputed is None else self.precomputed)

    def images(self, which: Sequence[int], size: int | tuple[int, int]) -> list[Image.Image]:
        """Pictures by their numbers; what is to be squeezed the encoder itself resizes."""
        opened = (self.items[j].open() for j in which)
        return [image if self.fit == "squeeze" else fit(image, size, self.fit) for image in opened]

    def context(self, samples: Sequence[Sample]) -> Context:
        """The context of each sample's input, encoded once; a single input is everybody's."""
        which = [0 if len(self) == 1 else sample.input for sample in samples]
        if self.precomputed is not None:
            return Context(self.kind, self.precomputed.tokens[which])
        used = sorted(set(which))
        if self.kind == "text":
            tokens = self.vd.text_context([self.items[j] for j in used]).tokens
        else:
            tokens = self.vd.image_context(self.images(used, self.vd.spec.clip.resize)).tokens
        return Context(self.kind, tokens[[used.index(j) for j in which]])

    def describe(self, j: int) -> dict[str, Any]:
        """What a record says of input j."""
        j = 0 if len(self) == 1 else j
        described: dict[str, Any] = {}
        if self.items is not None:
            item = self.items[j]
            described = {"prompt": item} if isinstance(item, str) else {"input": item.describe()}
        if self.precomputed is not None:
            digest = tensor_digest(self.precomputed.tokens[j])
            described[f"{self.kind}_context"] = {"kind": self.kind, "sha256": digest}
        return described


@dataclass(frozen=True)
class Start:
    """What denoising starts from, where `fidelity` says so: pictures or texts, or latents.

    Attributes:
        source: pictures or texts to encode; None with latents.
        latents: (inputs, ...) scaled latents.
    """

    source: Source | None
    latents: Tensor | None = None

    @classmethod
    def of(
        cls,
        vd: VersatileDiffusion,
        data: str,
        start: Any,
        shape: Sequence[int],
        count: int,
        fit: str,
    ) -> Start:
        """Check what was given: as many as there are inputs, or one for all.

        Raises:
            ValueError: another kind, shape or number.
        """
        held = list(start) if isinstance(start, (list, tuple)) else [start]
        numbers = all(is_tensor_file(part) for part in held)
        if hasattr(start, "__array__") and not isinstance(start, Image.Image):
            pixels = data == "image" and getattr(start, "ndim", 0) == 4 and start.shape[1] == 3
            numbers = not pixels
        if numbers:
            return cls(None, latents_of(start, shape, count, "start"))
        if data == "image" and all(isinstance(part, (str, Path)) for part in held):
            start = picture_files(held)
        source = Source.of(vd, data, start, fit=fit)
        if source.items is None:
            raise ValueError("start is a context: give a picture, a text, or latents.")
        if len(source) not in (1, count):
            raise ValueError(f"start has {len(source)} for {count} inputs: give one, or one each.")
        return cls(source)

    def encode(self, vd: VersatileDiffusion, which: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The latents to start from, by numbers of inputs; each input is encoded once."""
        if self.latents is not None:
            return self.latents[list(which)]
        which = [0 if len(self.source) == 1 else j for j in which]
        used = sorted(set(which))
        if self.source.kind == "text":
            encoded = vd.encode_text([self.source.items[j] for j in used])
        else:
            factor = vd.spec.image_vae.factor
            size = shape[2] * factor, shape[1] * factor
            images = self.source.images(used, size)
            encoded = vd.encode_image(images, width=size[0], height=size[1])
        return encoded[[used.index(j) for j in which]]

    def describe(self, j: int) -> Any:
        """What a record says of where input j starts."""
        if self.latents is not None:
            return {"sha256": tensor_digest(self.latents[j])}
        (described,) = self.source.describe(j).values()
        return described


@dataclass(frozen=True)
class Nulls:
    """What is guided away from, where that is not the model's own null context.

    Attributes:
        text: contexts of texts, a row an input or one for all; None is the model's.
        image: "zeros", "black", "grey", or a context of one sample or one an input; None is the
            model's.
    """

    text: Source | None = None
    image: str | Source | None = None

    @classmethod
    def of(cls, vd: VersatileDiffusion, negative: Any, null: Any, count: int) -> Nulls:
        """Check a negative prompt (text, texts, context) and a null of pictures.

        Raises:
            ValueError: one that cannot be used, or another number than of inputs.
        """
        text: Source | None = None
        if _is_computed(negative):
            text = Source.of(vd, "text", None, negative)
        elif negative is not None:
            words = [negative] if isinstance(negative, str) else listed(negative, "prompts")
            if any(not blank(word) for word in words):
                check_prompts(vd, texts([w for w in words if w != ""], "negative prompt"))
            text = Source(vd, "text", words)
        image = null
        if _is_computed(null):
            image = Source.of(vd, "image", None, null)
        elif isinstance(null, str) and null not in IMAGE_NULLS and not Path(null).is_file():
            raise ValueError(
                f"null is {null!r}: choose zeros, black or grey, or give a picture, or an image "
                "context."
            )
        elif null is not None and null not in IMAGE_NULLS:
            image = Source.of(vd, "image", null)
        for name, source in (("negative_prompt", text), ("null", image)):
            if isinstance(source, Source) and len(source) not in (1, count):
                raise ValueError(
                    f"{name} has {len(source)} for {count} inputs: give one, or one each."
                )
        return cls(text, image)

    def instead(
        self, vd: VersatileDiffusion, data: str, contexts: Sequence[Context], samples: list[Sample]
    ) -> list[Context] | None:
        """One null for each context; None if the model's own will do.

        A negative text takes the place of pictures' nulls, too, where no text conditions.
        """
        if self.text is None and self.image is None:
            return None
        kinds = [context.kind for context in contexts]
        return [
            null.context(samples)
            if isinstance(null, Source)
            else vd.null_context(kind, data, len(samples), null)
            for kind, null in ((kind, self._of_kind(kind, kinds)) for kind in kinds)
        ]

    def _of_kind(self, kind: str, kinds: Sequence[str]) -> Source | str | None:
        """The null of a context of that kind, beside others of those kinds."""
        if kind == "text" or (self.image is None and "text" not in kinds):
            return self.text
        return self.image

    def needs(self, data: str, kinds: Sequence[str], guided: bool) -> set[str]:
        """Components that nulls of contexts of these kinds need."""
        needed: set[str] = set()
        for kind in kinds if guided else ():
            null = self._of_kind(kind, kinds)
            if isinstance(null, Source):
                kind, encoded = null.kind, null.precomputed is None
            else:
                own = null or IMAGE_NULLS[0 if data == "image" else 1]
                encoded = kind == "text" or own != "zeros"
            needed |= {f"{kind}_context", *([TOWERS[kind]] if encoded else [])}
        return needed

    def describe(self, j: int) -> dict[str, Any]:
        """What a record says of both, for input j."""
        out: dict[str, Any] = {"negative_prompt": None}
        if isinstance(self.image, Source):
            (out["null"],) = self.image.describe(j).values()
        elif self.image is not None:
            out["null"] = self.image
        if self.text is not None:
            (out["negative_prompt"],) = self.text.describe(j).values()
        return out


def _is_computed(value: Any) -> bool:
    """Whether this is a context already, or a file of one."""
    return isinstance(value, Context) or hasattr(value, "shape") or is_tensor_file(value)


def paired(*sources: Source | None) -> int:
    """How many inputs there are: sources of one input serve with every input of the others.

    Raises:
        ValueError: numbers that do not fit.
    """
    counts = {len(source) for source in sources if source is not None} - {1}
    if len(counts) > 1:
        listed = " and ".join(
            f"{len(s)} {s.kind}{'' if len(s) == 1 else 's'}" for s in sources if s is not None
        )
        raise ValueError(
            f"There are {listed}: give as many of each, or a single one to go with all."
        )
    return counts.pop() if counts else 1


def check_prompts(vd: VersatileDiffusion, prompts: Sequence[str]) -> None:
    """ValueError that names the text that is longer than the encoder reads, if there is one.

    Words that a model of a small world has never read are named in a warning: it draws something
    nevertheless, and nothing of them.
    """
    if not prompts or vd.tokenizers is None:
        return
    vd.tokenizers.clip_ids(list(prompts))
    for prompt in prompts:
        unknown = vd.tokenizers.unknown_words(prompt)
        if unknown:
            known = sorted(vd.tokenizers.known_words)
            more = [f"and {len(known) - 100} more"] if len(known) > 100 else []
            words = ", ".join([*known[:100], *more])
            name, new = vd.spec.name, ", ".join(unknown)
            log.warning("%s has never read %s: it knows the words %s.", name, new, words)


def blank(text: Any) -> bool:
    """Whether this is no text: None, or nothing but spaces."""
    return text is None or (isinstance(text, str) and not text.strip())
