"""What a parameter is called in every kind of file that Versatile Diffusion has been released as.

Our modules carry the names of the newer release, so most maps are a prefix. A *layout* is one way
of naming; `file_keys` goes from a component's parameter to its key in a file of that layout,
`owner` back from a key to the component that it belongs to. Both follow from the model's structure
alone: the older names, which count containers instead of blocks, come from walking the plan.

| layout | what it is | keys |
|---|---|---|
| official | vd-four-flow-v1-0*.pth | `diffuser.*`, `vae.*`, `ctx.*` |
| legacy | vd-four-flow-v1-0*-deprecated.pth | `model.diffusion_model.*`, `autokl.*`, ... |
| kl-f8 | kl-f8.pth, the image VAE alone | `encoder.*`, `decoder.*`, `quant_conv.*`, ... |
| optimus-vae | optimus-vae.pth, the text VAE alone | `encoder.*`, `decoder.*` |
| clip | CLIP as transformers names it | `text_model.*`, `vision_model.*`, ... |
| image_unet, text_unet, vae | parts of a diffusers folder | diffusers' own |

Our own layout (one file a component, keys = parameter names) needs no map.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from lib.config import ModelSpec, UNetConfig
from lib.unet import PlanStep, plan

DIFFUSERS = ("image_unet", "text_unet", "vae")
LAYOUTS = ("official", "legacy", "kl-f8", "optimus-vae", "clip", *DIFFUSERS)

OPTIONAL = "optional"
"""Owner of a key that a file may hold and nobody reads."""

SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
)
"""Tables that released checkpoints carry along; `NoiseSchedule` computes them."""

_OPTIONAL_PATTERN = re.compile(
    r"(?:^|\.)(?:h\.\d+\.attn\.(?:bias|masked_bias)|embeddings\.position_ids|logit_scale)$"
)

# layout -> component -> prefixes of its keys in a file
_PREFIXES: dict[str, dict[str, tuple[str, ...]]] = {
    "official": {
        "time_embed": ("diffuser.image.time_embed.",),
        "image_data": ("diffuser.image.data_blocks.",),
        "text_data": ("diffuser.text.data_blocks.",),
        "image_context": ("diffuser.image.context_blocks.",),
        "text_context": ("diffuser.text.context_blocks.",),
        "image_encoder": ("vae.image.encoder.", "vae.image.quant_conv."),
        "image_decoder": ("vae.image.decoder.", "vae.image.post_quant_conv."),
        "text_encoder": ("vae.text.encoder.",),
        "text_decoder": ("vae.text.decoder.",),
        "clip_text": ("ctx.text.model.text_model.", "ctx.text.model.text_projection."),
        "clip_vision": ("ctx.image.model.vision_model.", "ctx.image.model.visual_projection."),
        # CLIP is stored whole, once per kind of context: half of each copy is never used
        OPTIONAL: (
            "ctx.text.model.vision_model.",
            "ctx.text.model.visual_projection.",
            "ctx.image.model.text_model.",
            "ctx.image.model.text_projection.",
        ),
    },
    "legacy": {
        "time_embed": ("model.diffusion_model.time_embed.",),
        "image_encoder": ("autokl.encoder.", "autokl.quant_conv."),
        "image_decoder": ("autokl.decoder.", "autokl.post_quant_conv."),
        "text_encoder": ("optimus.encoder.",),
        "text_decoder": ("optimus.decoder.",),
        "clip_text": ("clip.model.text_model.", "clip.model.text_projection."),
        "clip_vision": ("clip.model.vision_model.", "clip.model.visual_projection."),
    },
    "kl-f8": {
        "image_encoder": ("encoder.", "quant_conv."),
        "image_decoder": ("decoder.", "post_quant_conv."),
    },
    "optimus-vae": {"text_encoder": ("encoder.",), "text_decoder": ("decoder.",)},
    "clip": {
        "clip_text": ("text_model.", "text_projection."),
        "clip_vision": ("vision_model.", "visual_projection."),
    },
    "image_unet": {"time_embed": ("time_embedding.",)},
    # the global time embedding is stored with both columns; the image column's copy is read
    "text_unet": {OPTIONAL: ("time_embedding.",)},
    "vae": {
        "image_encoder": ("encoder.", "quant_conv."),
        "image_decoder": ("decoder.", "post_quant_conv."),
    },
}

# what stands before the image VAE's, the text VAE's and CLIP's own names
_ROOTS = {
    "official": {"image_vae": "vae.image.", "text_vae": "vae.text.", "clip": "ctx.{kind}.model."},
    "legacy": {"image_vae": "autokl.", "text_vae": "optimus.", "clip": "clip.model."},
    "kl-f8": {"image_vae": ""},
    "vae": {"image_vae": ""},
    "optimus-vae": {"text_vae": ""},
    "clip": {"clip": ""},
}

_COLUMNS = ("image_data", "text_data", "image_context", "text_context")
_VAES = ("image_encoder", "image_decoder")
_TEXT_VAES = ("text_encoder", "text_decoder")

# a residual block's layers in diffusers' words
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {
    "norm": ("group_norm",),
    "q": ("to_q", "query"),
    "k": ("to_k", "key"),
    "v": ("to_v", "value"),
    "proj_out": ("to_out.0", "proj_attn"),
}


def detect(keys: Iterable[str]) -> str | None:
    """The layout that a file's keys are in, or None if it is none of `LAYOUTS`."""
    keys = set(keys)
    marks = (
        ("official", ("diffuser.", "vae.image.", "vae.text.", "ctx.")),
        ("legacy", ("model.diffusion_model.", "autokl.", "optimus.", "clip.model.")),
        ("clip", ("text_model.", "vision_model.")),
        ("optimus-vae", ("encoder.embeddings.", "decoder.transformer.")),
        ("vae", ("encoder.down_blocks.", "decoder.up_blocks.")),
        ("kl-f8", ("encoder.down.", "decoder.up.")),
    )
    for layout, prefixes in marks:
        if any(key.startswith(prefixes) for key in keys):
            return layout
    return None


def owner(layout: str, spec: ModelSpec, key: str) -> str | None:
    """The component that a file's key belongs to, `OPTIONAL`, or None for a key nobody knows.

    Args:
        layout: one of `LAYOUTS`.
        spec: sizes of the model; the older names depend on its plan.
        key: as it stands in the file.
    """
    if key in SCHEDULE_BUFFERS or _OPTIONAL_PATTERN.search(key):
        return OPTIONAL
    for component, prefixes in _PREFIXES[layout].items():
        if key.startswith(prefixes):
            return component
    if layout in ("legacy", "image_unet", "text_unet"):
        for place, component in _containers(layout, spec.unet).items():
            if key.startswith(place):
                return component
    return None


def file_keys(layout: str, spec: ModelSpec, component: str, name: str) -> tuple[str, ...]:
    """A parameter's key in a file of this layout.

    Args:
        layout: one of `LAYOUTS`.
        spec: sizes of the model.
        component: one of `lib.config.COMPONENTS`.
        name: the parameter's name in our module.

    Returns:
        The key; several where files spell it differently, the usual one first; none if files of
        this layout do not hold the component.

    Example:
        >>> file_keys("official", VD_FOUR_FLOW_V1_0, "image_data", "data_blocks.3.op.weight")
        ('diffuser.image.data_blocks.3.0.op.weight',)
    """
    if component in _COLUMNS or component == "time_embed":
        key = _diffuser_key(layout, spec.unet, component, name)
        return () if key is None else (key,)
    roots = _ROOTS.get(layout, {})
    if component in _VAES and "image_vae" in roots:
        side = component.removeprefix("image_")
        if layout == "vae":
            return _diffusers_vae_keys(side, len(spec.image_vae.ch_mult), name)
        middle = "" if "quant_conv." in name else f"{side}."
        return (f"{roots['image_vae']}{middle}{name}",)
    if component in _TEXT_VAES and "text_vae" in roots:
        side = component.removeprefix("text_")
        stem, rest = name.split(".", 1)
        if stem not in ("bert", "gpt2"):  # the projections of the latent
            rest = f"transformer.{name}" if side == "decoder" else name
        return (f"{roots['text_vae']}{side}.{rest}",)
    if component in ("clip_text", "clip_vision") and "clip" in roots:
        kind = "text" if component == "clip_text" else "image"
        return (roots["clip"].format(kind=kind) + name,)
    return ()


def _diffuser_key(layout: str, config: UNetConfig, component: str, name: str) -> str | None:
    if component == "time_embed":
        if layout == "image_unet":
            index, rest = name.split(".", 1)
            return f"time_embedding.linear_{'1' if index == '0' else '2'}.{rest}"
        prefixes = _PREFIXES[layout].get("time_embed")
        return prefixes[0] + name if prefixes else None
    kind, column = component.split("_")
    _, index, rest = name.split(".", 2)
    if layout == "official":
        # the released modules wrap every block in a sequence of one
        return f"diffuser.{kind}.{column}_blocks.{index}.0.{rest}"
    if layout == "legacy":
        op_places = _legacy_places(config)
        return f"model.diffusion_model.unet_{kind}.{op_places[column, int(index)][1]}{rest}"
    if layout == f"{kind}_unet":
        op, place = _diffusers_places(config)[column, int(index)]
        return _diffusers_unet_key(op, place, kind, rest)
    return None


def _walk(config: UNetConfig) -> Iterator[tuple[PlanStep, str, int]]:
    """Every step with parameters, on which side of the UNet it is, and its place in its level.

    The side is "in", "down", "mid", "up" or "out"; the place counts residual blocks (a context
    layer has its block's).
    """
    steps = plan(config)
    first_load = next(i for i, step in enumerate(steps) if step.op == "load")
    place = {"down": -1, "mid": -1, "up": -1}
    level = {"down": 0, "up": -1}
    for i, step in enumerate(steps):
        if step.op in ("save", "load"):
            continue
        if step.op in ("in", "out"):
            yield step, step.op, 0
            continue
        side = "up" if i > first_load else "mid" if i >= first_load - 3 else "down"
        if side != "mid" and step.level != level[side]:
            level[side], place[side] = step.level, -1
        place[side] += step.op == "residual"
        yield step, side, place[side]


@lru_cache(maxsize=8)
def _legacy_places(config: UNetConfig) -> dict[tuple[str, int], tuple[str, str]]:
    """(column, block number) -> (step, path), where the older release counts containers.

    On the way down every residual block (with its context layer) and every resampling step is a
    container; on the way up resampling shares the container of the block before it.
    """
    places = {}
    containers, slot = {"down": 0, "up": -1}, 0
    for step, side, place in _walk(config):
        if side in containers:
            opens = step.op == "residual" or (side == "down" and step.op == "down")
            containers[side] += opens
            slot = 0 if opens else slot + 1
        path = {
            "in": "input_blocks.0.0.",
            "down": f"input_blocks.{containers['down']}.{slot}.",
            "mid": f"middle_block.{2 * place if step.op == 'residual' else 1}.",
            "up": f"output_blocks.{containers['up']}.{slot}.",
            "out": "out.",
        }[side]
        column = "context" if step.op == "context" else "data"
        places[column, step.index] = (step.op, path)
    return places


@lru_cache(maxsize=8)
def _diffusers_places(config: UNetConfig) -> dict[tuple[str, int], tuple[str, str]]:
    """(column, block number) -> (step, path) in diffusers' UNets."""
    places = {}
    last = len(config.channel_mult) - 1
    for step, side, place in _walk(config):
        level = last - step.level if side == "up" else step.level
        block = "mid_block" if side == "mid" else f"{side}_blocks.{level}"
        path = {
            "in": "conv_in.",
            "out": "conv_",
            "residual": f"{block}.resnets.{place}.",
            "context": f"{block}.attentions.{place}.",
            "down": f"{block}.downsamplers.0.",
            "up": f"{block}.upsamplers.0.",
        }[step.op]
        column = "context" if step.op == "context" else "data"
        places[column, step.index] = (step.op, path)
    return places


def _diffusers_unet_key(op: str, place: str, kind: str, rest: str) -> str:
    layer, _, leaf = rest.rpartition(".")
    if op == "residual":
        return f"{place}{_RESNET[layer]}.{leaf}"
    if op == "out":
        return f"{place}{'norm_out' if layer == '0' else 'out'}.{leaf}"
    if op in ("down", "up"):
        return f"{place}conv.{leaf}" if kind == "image" else f"{place}{leaf}"
    return place + rest


@lru_cache(maxsize=32)
def _containers(layout: str, config: UNetConfig) -> dict[str, str]:
    """Path of every block in a file -> the component it belongs to."""
    legacy = layout == "legacy"
    places = _legacy_places(config) if legacy else _diffusers_places(config)
    kinds = ("image", "text") if legacy else (layout.removesuffix("_unet"),)
    containers = {}
    for kind in kinds:
        root = f"model.diffusion_model.unet_{kind}." if legacy else ""
        for (column, _), (op, path) in places.items():
            ends = ("norm_out.", "out.") if op == "out" and not legacy else ("",)
            containers.update({f"{root}{path}{end}": f"{kind}_{column}" for end in ends})
    return containers


def _diffusers_vae_keys(side: str, levels: int, name: str) -> tuple[str, ...]:
    """The image VAE in diffusers' words; attention layers were renamed once, so two spellings."""
    if "quant_conv." in name:
        return (name,)
    parts = name.split(".")
    leaf = parts[-1]
    if parts[0] in ("down", "up"):
        level = int(parts[1]) if parts[0] == "down" else levels - 1 - int(parts[1])
        path = f"{side}.{parts[0]}_blocks.{level}."
        if parts[2] == "block":
            layer = parts[4].replace("nin_shortcut", "conv_shortcut")
            return (f"{path}resnets.{parts[3]}.{layer}.{leaf}",)
        return (f"{path}{parts[2]}rs.0.conv.{leaf}",)
    if parts[0] == "mid":
        if parts[1] == "attn_1":
            path = f"{side}.mid_block.attentions.0."
            return tuple(f"{path}{layer}.{leaf}" for layer in _ATTENTION[parts[2]])
        number = int(parts[1].removeprefix("block_")) - 1
        return (f"{side}.mid_block.resnets.{number}.{parts[2]}.{leaf}",)
    return (f"{side}.{parts[0].replace('norm_out', 'conv_norm_out')}.{leaf}",)
