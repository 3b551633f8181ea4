"""What is guided away from: negative prompts, and what stands for "no picture"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.modes.source import Sample, Source, blank, check_prompts
from analysis.modes.tensors import is_tensor_file
from lib.checks import listed, texts
from lib.model import Context, VersatileDiffusion


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
        if negative is not None:
            computed = isinstance(negative, Context) or hasattr(negative, "shape")
            if computed or is_tensor_file(negative):
                text = Source.of(vd, "text", None, negative)
            else:
                words = [negative] if isinstance(negative, str) else listed(negative, "prompts")
                if any(not blank(word) for word in words):
                    check_prompts(vd, texts([w for w in words if w != ""], "negative prompt"))
                text = Source(vd, "text", words)
        image = null
        if null is not None and not (isinstance(null, str) and null in ("zeros", "black", "grey")):
            if isinstance(null, Context) or hasattr(null, "shape") or is_tensor_file(null):
                image = Source.of(vd, "image", None, null)
            elif isinstance(null, str) and not Path(null).is_file():
                raise ValueError(
                    f"null is {null!r}: choose zeros, black or grey, or give a picture, or an "
                    "image context."
                )
            else:
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
        mixed = any(context.kind == "text" for context in contexts)
        return [self._one(vd, data, context, samples, mixed) for context in contexts]

    def _one(
        self,
        vd: VersatileDiffusion,
        data: str,
        context: Context,
        samples: list[Sample],
        mixed: bool,
    ) -> Context:
        if context.kind == "text":
            if self.text is None:
                return vd.null_context("text", data, len(samples))
            return self.text.context(samples)
        if isinstance(self.image, Source):
            return self.image.context(samples)
        if self.image is None and self.text is not None and not mixed:
            return self.text.context(samples)
        return vd.null_context("image", data, len(samples), null=self.image)

    def needs(self, data: str, kinds: Sequence[str], guided: bool) -> set[str]:
        """Components that nulls of contexts of these kinds need."""
        if not guided:
            return set()
        needed: set[str] = set()
        negative_of_images = self.text is not None and self.image is None and "text" not in kinds
        if "text" in kinds or negative_of_images:
            if self.text is None or self.text.precomputed is None:
                needed.add("clip_text")
            needed.add("text_context")
        if "image" in kinds and not negative_of_images:
            encoded = isinstance(self.image, Source) and self.image.precomputed is None
            if (
                encoded
                or self.image in ("black", "grey")
                or (self.image is None and data == "text")
            ):
                needed.add("clip_vision")
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
