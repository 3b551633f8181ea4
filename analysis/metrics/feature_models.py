"""Feature functions for evaluation: what turns pictures and texts into vectors to be compared.

| given as | network | texts |
|---|---|---|
| `open_clip:NAME/TAG`, `open_clip:NAME/FILE` | any CLIP of open_clip, by tag or from a file | yes |
| `open_clip:local-dir:FOLDER`, `open_clip:hf-hub:ID` | one with its own configuration | yes |
| `inception`, `inception:FILE` | Inception v3, the 2048 numbers before its classifier | no |
| `dinov2:FOLDER-OR-ID` | DINOv2, its class token | no |

Vectors have the length that the network gives them: Frechet and kernel distances depend on it,
cosines do not. Texts that are too long lose their end. Weights are recognised by `fingerprint`, so
a report says which ones it stands on. The CLIP of a model that is measured is no network of others:
`analysis.folders.encoders.own_clip`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lib.fingerprints import fingerprint

# Versatile Diffusion is conditioned on OpenAI's ViT-L/14 and trained on LAION-2B. Distances in
# that CLIP's own space would reward what the model was steered by; this one has other weights,
# another size and other data (DataComp), and is small enough for a CPU.
DEFAULT = "open_clip:ViT-B-32/datacomp_xl_s13b_b90k"

_SCHEMAS = ("hf-hub:", "local-dir:")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
_CHOICES = (
    "own, open_clip:NAME/TAG-OR-FILE, open_clip:local-dir:FOLDER, inception[:FILE], "
    "dinov2:FOLDER-OR-ID"
)


@dataclass(frozen=True)
class FeatureModel:
    """One vector a picture and a text, in the same space, and what a report has to say of them.

    Attributes:
        name: for the report; distances of different functions do not compare.
        images: pictures -> (B, D).
        texts: texts -> (B, D), or None if the function knows pictures only.
        weights: fingerprint.
        resize: what happens to a picture before the network sees it.
    """

    name: str
    images: Callable[[Sequence[Image.Image]], Tensor]
    texts: Callable[[Sequence[str]], Tensor] | None = None
    weights: str = ""
    resize: str = ""

    def describe(self) -> dict[str, str]:
        """For protocols."""
        return {"name": self.name, "weights": self.weights, "resize": self.resize}


def load_features(spec: str, device: str | torch.device = "cpu") -> FeatureModel:
    """Load a feature function.

    Args:
        spec: as in the table above.
        device: where the network goes.

    Raises:
        ValueError: another name, no such weights, or weights that do not fit.
    """
    kind, _, where = spec.partition(":")
    if kind == "open_clip" and where:
        return open_clip(where, device)
    if kind == "inception":
        return inception(where or None, device)
    if kind == "dinov2" and where:
        return dinov2(where, device)
    raise ValueError(f"features are {spec!r}: choose {_CHOICES}.")


def shortened(text: str, function: Callable[[str], Any]) -> tuple[str, Any]:
    """A text without as much of its end as a function refuses, and what the function makes of it.

    Args:
        text: any.
        function: raises ValueError if a text is too long.

    Raises:
        ValueError: not even the empty text is taken.
    """
    words = text.split()
    short = text
    while True:
        try:
            return short, function(short)
        except ValueError:
            if not words:
                raise
            words = words[: len(words) * 3 // 4]
            short = " ".join(words)


# ---------------------------------------------------------------------- networks of others


def open_clip(where: str, device: str | torch.device = "cpu") -> FeatureModel:
    """A CLIP of the library open_clip.

    Args:
        where: "NAME/TAG", "NAME/FILE", "local-dir:FOLDER" (open_clip_config.json and weights), or
            "hf-hub:ID". A file of weights is taken with the architecture's default preprocessing,
            a tag or folder with its own; OpenAI's weights need a NAME ending in "-quickgelu".
        device: where the network goes.

    Raises:
        ValueError: no such architecture, tag or file, or weights that do not fit or cannot be had.
    """
    import open_clip as library  # slow to import: only who measures with it waits

    if where.startswith(_SCHEMAS):
        name, pretrained, shown = where, None, where.split(":", 1)[0] + ":" + Path(where).name
    else:
        name, _, pretrained = where.partition("/")
        shown = f"{name}/{Path(pretrained).name}"
        if name not in library.list_models():
            raise ValueError(f"open_clip has no {name!r}: choose of open_clip.list_models().")
        tags = library.list_pretrained_tags_by_model(name)
        if pretrained not in tags and not Path(pretrained).is_file():
            what = "file" if pretrained.endswith(_WEIGHTS) else "tag or file"
            raise ValueError(
                f"open_clip:{where} names no {what} of weights: give open_clip:{name}/FILE, or a "
                f"tag of {', '.join(tags) or 'another architecture'}."
            )

    def read() -> tuple[nn.Module, Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
        model, transform = library.create_model_from_pretrained(
            name, pretrained or None, precision="fp32", device=device, weights_only=True
        )
        return model, transform, library.get_tokenizer(name)

    model, transform, tokenizer = _loaded(f"open_clip:{where}", read)
    model.eval()

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([transform(picture) for picture in pictures])
        return model.encode_image(pixels.to(device)).float()

    @torch.no_grad()
    def texts(captions: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(captions)).to(device)).float()

    return FeatureModel(
        f"OpenCLIP {shown}", images, texts, fingerprint(model), _steps(transform.transforms)
    )


def inception(file: str | None = None, device: str | torch.device = "cpu") -> FeatureModel:
    """Inception v3, the pooled features before its classifier, (B, 2048).

    Args:
        file: weights; None downloads torchvision's, which were trained on ImageNet by others than
            those of published FIDs: such distances compare with each other only. A file in the
            layout of the port of the original (1008 classes) is recognised, and makes FIDs as
            published, up to the resize.
        device: where the network goes.

    Raises:
        ValueError: weights that do not fit or cannot be had.
    """
    from analysis.metrics.inception import (  # torchvision is slow to import
        inception_pool,
        load_inception,
    )

    spec = f"inception:{file}" if file else "inception"
    model, kind = _loaded(spec, lambda: load_inception(file))
    model.to(device)

    def images(pictures: Sequence[Image.Image]) -> Tensor:
        return inception_pool(model, pictures)

    name = f"Inception v3, {kind}"
    resize = "to 299 a side whatever the aspect, bicubic with antialiasing"
    return FeatureModel(name, images, None, fingerprint(model), resize)


def dinov2(where: str, device: str | torch.device = "cpu") -> FeatureModel:
    """DINOv2, its class token after the last norm, (B, hidden).

    Args:
        where: a folder as `save_pretrained` of transformers writes it, with its
            preprocessor_config.json, or an id of the hub.
        device: where the network goes.

    Raises:
        ValueError: another network, or weights that are incomplete or cannot be had.
    """
    from transformers import AutoImageProcessor, AutoModel, PretrainedConfig

    def read() -> tuple[nn.Module, Callable[..., Any]]:
        # never the code that a folder brings along (its `auto_map`), nor a question about it
        safe = {"trust_remote_code": False}
        config, _ = PretrainedConfig.get_config_dict(where)
        if "auto_map" in config:
            raise ValueError(
                "its config.json has an auto_map, which would run code of that folder; take the "
                "same network without one"
            )
        if not str(config.get("model_type")).startswith("dinov2"):
            raise ValueError(f"it is a {config.get('model_type')}")
        model, info = AutoModel.from_pretrained(where, output_loading_info=True, **safe)
        if info["missing_keys"]:
            raise ValueError(f"its file lacks {', '.join(sorted(info['missing_keys'])[:3])} ...")
        return model, AutoImageProcessor.from_pretrained(where, **safe)

    model, processor = _loaded(f"dinov2:{where}", read)
    model.to(device).eval()

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return model(pixel_values=pixels.to(device)).last_hidden_state[:, 0].float()

    size = dict(processor.size)
    cut = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    resize = f"its own: to {size}" + (f", the middle {cut} of it" if cut else "")
    return FeatureModel(f"DINOv2 {Path(where).name}", images, None, fingerprint(model), resize)


def _loaded(spec: str, read: Callable[[], Any]) -> Any:
    """What `read` loads; the many errors of libraries and downloads as one sentence.

    A network may be made of parts of transformers', which asks on the terminal whether to run the
    code that a folder brings along, if it waits at all for an answer. Here it does not.
    """
    from transformers import dynamic_module_utils as code

    seconds, code.TIME_OUT_REMOTE_CODE = code.TIME_OUT_REMOTE_CODE, 0
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # they log at length what the one sentence says
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # every library fails in its own way
        first = str(error).strip().splitlines() or [type(error).__name__]
        if "trust_remote_code" in str(error):
            first = ["it would run code that its folder brings along, which is never done"]
        raise ValueError(
            f"features {spec} cannot be loaded ({first[0][:200]}): check name and weights; without "
            "a network, give a file or folder that lies here, or 'own'."
        ) from error
    finally:
        code.TIME_OUT_REMOTE_CODE = seconds
        logging.disable(level)


def _steps(transforms: Sequence[Any]) -> str:
    """The steps of a torchvision preprocessing in one line."""
    return ", ".join(
        " ".join(str(step).split()) for step in transforms if isinstance(step, nn.Module)
    )
