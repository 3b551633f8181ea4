"""What a parameter is called in every kind of file that Versatile Diffusion has been released as.

Our modules carry the names of the newer release, so most maps are a prefix. A *layout* is one way
of naming; `file_keys` goes from a component's parameter to its key in a file of that layout. That
is the only map there is: which parameter a key belongs to is found by making all keys (`inverse`).
The older names, which count containers instead of blocks, come from walking the plan.

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

from lib.components import structure
from lib.config import ModelSpec, UNetConfig
from lib.unet import PlanStep, plan

DIFFUSERS = ("image_unet", "text_unet", "vae")
LAYOUTS = ("official", "legacy", "kl-f8", "optimus-vae", "clip", *DIFFUSERS)

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

_OPTIONAL = re.compile(
    r"(?:^|\.)(?:h\.\d+\.attn\.(?:bias|masked_bias)|embeddings\.position_ids|logit_scale)$"
    # what trainings leave: losses, and the average of a training that went on
    r"|^(?:loss|model_ema)\."
    # CLIP is stored whole, once per kind of context: half of each copy is never used
    r"|^ctx\.text\.model\.(?:vision_model|visual_projection)\."
    r"|^ctx\.image\.model\.(?:text_model|text_projection)\."
)
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "ema_model.", "ema.")

# what stands before the image VAE's, the text VAE's and CLIP's own names
_ROOTS = {
    "official": {"image_vae": "vae.image.", "text_vae": "vae.text.", "clip": "ctx.{kind}.model."},
    "legacy": {"image_vae": "autokl.", "text_vae": "optimus.", "clip": "clip.model."},
    "kl-f8": {"image_vae": ""},
    "vae": {"image_vae": ""},
    "optimus-vae": {"text_vae": ""},
    "clip": {"clip": ""},
}

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


def detect(keys: Iterable[str]) -> tuple[str, str] | None:
    """The layout that a file's keys are in and what wraps them; None if it is none of `LAYOUTS`.

    Example:
        >>> detect(["module.vae.image.quant_conv.bias", "module.vae.image.quant_conv.weight"])
        ('official', 'module.')
    """
    keys = list(keys)
    marks = (
        ("official", ("diffuser.", "vae.image.", "vae.text.", "ctx.")),
        ("legacy", ("model.diffusion_model.", "autokl.", "optimus.", "clip.model.")),
        ("clip", ("text_model.", "vision_model.")),
        ("optimus-vae", ("encoder.embeddings.", "decoder.transformer.")),
        ("vae", ("encoder.down_blocks.", "decoder.up_blocks.")),
        ("kl-f8", ("encoder.down.", "decoder.up.")),
    )
    wrapper = ""
    while True:
        inner = [key.removeprefix(wrapper) for key in keys if key.startswith(wrapper)]
        for layout, prefixes in marks:
            if any(key.startswith(prefixes) for key in inner):
                return layout, wrapper
        more = (word for word in _WRAPPERS if any(key.startswith(word) for key in inner))
        word = next(more, None)
        if word is None:
            return None
        wrapper += word


def is_optional(layout: str, key: str) -> bool:
    """Whether a file may hold this key and nobody reads it."""
    # the global time embedding is stored with both columns; the image column's copy is read
    again = layout == "text_unet" and key.startswith("time_embedding.")
    return again or key in SCHEDULE_BUFFERS or bool(_OPTIONAL.search(key))


@lru_cache(maxsize=8)
def inverse(layout: str, spec: ModelSpec) -> dict[str, tuple[str, str]]:
    """Every key that a file of this layout may hold -> (component, parameter) it belongs to."""
    return {
        key: (component, name)
        for component, module in structure(spec).items()
        for name in module.state_dict()
        for key in file_keys(layout, spec, component, name)
    }


def file_keys(layout: str, spec: ModelSpec, component: str, name: str) -> tuple[str, ...]:
    """A parameter's key in a file of this layout.

    Args:
        layout: one of `LAYOUTS`.
        spec: sizes of the model; the older names depend on its plan.
        component: one of `lib.config.COMPONENTS`.
        name: the parameter's name in our module.

    Returns:
        The key; several where files spell it differently, the usual one first; none if files of
        this layout do not hold the component.

    Example:
        >>> file_keys("official", VD_FOUR_FLOW_V1_0, "image_data", "data_blocks.3.op.weight")
        ('diffuser.image.data_blocks.3.0.op.weight',)
    """
    kind, _, role = component.partition("_")
    if component == "time_embed":
        return _time_embed_keys(layout, name)
    if role in ("data", "context"):
        return _column_keys(layout, spec.unet, kind, role, name)
    roots = _ROOTS.get(layout, {})
    if kind == "clip" and "clip" in roots:
        return (roots["clip"].format(kind="text" if role == "text" else "image") + name,)
    root = roots.get(f"{kind}_vae")
    if root is None:
        return ()
    if layout == "vae":
        return _diffusers_vae_keys(role, len(spec.image_vae.ch_mult), name)
    if kind == "image":
        return (f"{root}{name}" if "quant_conv." in name else f"{root}{role}.{name}",)
    stem, rest = name.split(".", 1)
    if stem not in ("bert", "gpt2"):  # the projections of the latent
        rest = f"transformer.{name}" if role == "decoder" else name
    return (f"{root}{role}.{rest}",)


def _time_embed_keys(layout: str, name: str) -> tuple[str, ...]:
    index, leaf = name.split(".", 1)
    keys = {
        "official": f"diffuser.image.time_embed.{name}",
        "legacy": f"model.diffusion_model.time_embed.{name}",
        "image_unet": f"time_embedding.linear_{1 if index == '0' else 2}.{leaf}",
    }
    return (keys[layout],) if layout in keys else ()


def _column_keys(
    layout: str, config: UNetConfig, kind: str, column: str, name: str
) -> tuple[str, ...]:
    _, index, rest = name.split(".", 2)
    if layout == "official":
        # the released modules wrap every block in a sequence of one
        return (f"diffuser.{kind}.{column}_blocks.{index}.0.{rest}",)
    if layout == "legacy":
        place = _legacy_places(config)[column, int(index)]
        return (f"model.diffusion_model.unet_{kind}.{place}{rest}",)
    if layout == f"{kind}_unet":
        op, place = _diffusers_places(config)[column, int(index)]
        return (_diffusers_unet_key(op, place, kind, rest),)
    return ()


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


def _column(step: PlanStep) -> str:
    return "context" if step.op == "context" else "data"


@lru_cache(maxsize=8)
def _legacy_places(config: UNetConfig) -> dict[tuple[str, int], str]:
    """(column, block number) -> path, where the older release counts containers.

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
        places[_column(step), step.index] = {
            "in": "input_blocks.0.0.",
            "down": f"input_blocks.{containers['down']}.{slot}.",
            "mid": f"middle_block.{2 * place if step.op == 'residual' else 1}.",
            "up": f"output_blocks.{containers['up']}.{slot}.",
            "out": "out.",
        }[side]
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
        places[_column(step), step.index] = (step.op, path)
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
