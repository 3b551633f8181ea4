"""The configuration files of a diffusers folder: a model's sizes from them, and them from sizes.

One table serves both ways: which field of which file is which field of our `ModelSpec`. What
diffusers can set and this model has fixed is written with its value, and a folder in which it has
another value is refused. So is a model that diffusers' classes cannot express.

A folder written here also holds `versatile_diffusion.json`, the whole `ModelSpec`: diffusers has no
words for the text VAE, and none for the defaults of sampling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.checks import read_json
from lib.config import ModelSpec
from lib.specs import VD_FOUR_FLOW_V1_0

OWN_SPEC = "versatile_diffusion.json"

# file -> its fields -> (field of ModelSpec, diffusers' or transformers' default)
_FIELDS: dict[str, dict[str, tuple[str, Any]]] = {
    "image_unet/config.json": {
        "in_channels": ("unet.image_channels", 4),
        "cross_attention_dim": ("unet.context_dim", 1280),
        "norm_num_groups": ("unet.norm_groups", 32),
        "layers_per_block": ("unet.num_res_blocks", 2),
        "attention_head_dim": ("unet.image_heads", 8),  # so diffusers calls the number of heads
    },
    "text_unet/config.json": {
        "in_channels": ("unet.text_dim", 768),
        "attention_head_dim": ("unet.text_heads", 8),
        "second_dim": ("unet.second_dim", 4),  # no field of diffusers, where it is always 4
    },
    "vae/config.json": {
        "latent_channels": ("image_vae.embed_dim", 4),
        "layers_per_block": ("image_vae.num_res_blocks", 1),
        "norm_num_groups": ("image_vae.norm_groups", 32),
        "scaling_factor": ("image_vae.scale", 0.18215),
    },
    "text_encoder/config.json": {
        "hidden_size": ("clip.text.hidden", 512),
        "intermediate_size": ("clip.text.intermediate", 2048),
        "num_hidden_layers": ("clip.text.layers", 12),
        "num_attention_heads": ("clip.text.heads", 8),
        "vocab_size": ("clip.text.vocab", 49408),
        "max_position_embeddings": ("clip.text.positions", 77),
        "hidden_act": ("clip.text.act", "quick_gelu"),
        "bos_token_id": ("clip.text.bos", 49406),
        "eos_token_id": ("clip.text.eos", 49407),
        "projection_dim": ("clip.projection", 512),
    },
    "image_encoder/config.json": {
        "hidden_size": ("clip.vision.hidden", 768),
        "intermediate_size": ("clip.vision.intermediate", 3072),
        "num_hidden_layers": ("clip.vision.layers", 12),
        "num_attention_heads": ("clip.vision.heads", 12),
        "image_size": ("clip.vision.image_size", 224),
        "patch_size": ("clip.vision.patch_size", 32),
        "hidden_act": ("clip.vision.act", "quick_gelu"),
        "projection_dim": ("clip.projection", 512),
    },
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": ("num_timesteps", 1000),
        "beta_start": ("beta_start", 1e-4),
        "beta_end": ("beta_end", 0.02),
    },
}
_UNET = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "transformer_layers_per_block": 1,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "num_class_embeds": None,
    "time_embedding_type": "positional",
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}
_FIXED: dict[str, dict[str, Any]] = {
    "image_unet/config.json": {**_UNET, "mid_block_type": "UNetMidBlock2DCrossAttn"},
    "text_unet/config.json": {**_UNET, "mid_block_type": "UNetMidBlockFlatCrossAttn"},
    "vae/config.json": {
        "in_channels": 3,
        "out_channels": 3,
        "act_fn": "silu",
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    },
    "text_encoder/config.json": {"layer_norm_eps": 1e-5},
    "image_encoder/config.json": {"layer_norm_eps": 1e-5},
    "scheduler/scheduler_config.json": {
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
    },
}
_CLASSES = {
    "image_unet/config.json": {"_class_name": "UNet2DConditionModel"},
    "text_unet/config.json": {"_class_name": "UNetFlatConditionModel"},
    "vae/config.json": {"_class_name": "AutoencoderKL"},
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
    },
    "image_encoder/config.json": {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "DDIMScheduler",
        # the timesteps and the last step of this project, see lib.schedule
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
}
_LIBRARIES = {
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "image_feature_extractor": ("transformers", "CLIPImageProcessor"),
    "image_unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_unet": ("versatile_diffusion", "UNetFlatConditionModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def configurations(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Every configuration file of a model's diffusers folder: path -> JSON values.

    Raises:
        ValueError: diffusers' classes have no words for this model.
    """
    unet, vae, size = spec.unet, spec.image_vae, spec.image_size
    cannot = {
        "channel_mult that does not begin with 1": unet.channel_mult[0] != 1,
        "levels without blocks": 0 in unet.num_res_blocks or not vae.num_res_blocks,
        "a VAE whose ch_mult does not begin with 1": vae.ch_mult[0] != 1,
        "a VAE that reads patches": vae.patch != 1,
        "z_channels other than embed_dim": vae.z_channels != vae.embed_dim,
    }
    if any(cannot.values()):
        raise ValueError(
            f"{spec.name} cannot be written for diffusers, whose classes do not know "
            f"{', '.join(what for what, holds in cannot.items() if holds)}: choose layout own or "
            "official."
        )
    files: dict[str, dict[str, Any]] = {}
    for path, fields in _FIELDS.items():
        values = {name: _get(spec, field) for name, (field, _) in fields.items()}
        files[path] = {**_CLASSES[path], **_FIXED[path], **values}
    for kind, end in (("image", "2D"), ("text", "Flat")):
        config = files[f"{kind}_unet/config.json"]
        blocks = [f"{'CrossAttn' * crosses}{{}}Block{end}" for crosses in unet.context_levels]
        config |= {
            "block_out_channels": [unet.model_channels * mult for mult in unet.channel_mult],
            "layers_per_block": list(unet.num_res_blocks),
            "cross_attention_dim": unet.context_dim,
            "norm_num_groups": unet.norm_groups,
            "down_block_types": [block.format("Down") for block in blocks],
            "up_block_types": [block.format("Up") for block in reversed(blocks)],
        }
    text = files["text_unet/config.json"]
    text["in_channels"] = text["out_channels"] = [unet.text_dim, 1, 1]
    files["image_unet/config.json"] |= {
        "out_channels": unet.image_channels,
        "sample_size": size // vae.factor,
    }
    levels = len(vae.ch_mult)
    files["vae/config.json"] |= {
        "block_out_channels": [vae.ch * mult for mult in vae.ch_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": size,
    }
    return files


def other_files(spec: ModelSpec, folders: list[str]) -> dict[str, dict[str, Any]]:
    """The rest of a folder's JSON files: the index of its parts, what prepares pictures and texts.

    Args:
        spec: the model.
        folders: names of the parts that there are.
    """
    from lib.clip import MEAN, STD

    side = spec.clip.vision.image_size
    parts = {name: _LIBRARIES[name] for name in sorted(folders)}
    return {
        "model_index.json": {"_class_name": "VersatileDiffusionPipeline", **parts},
        OWN_SPEC: spec.to_dict(),
        "image_feature_extractor/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "resample": 3,  # bicubic
            "image_mean": MEAN,
            "image_std": STD,
        },
    }


def read_spec(folder: Path) -> ModelSpec:
    """A model's sizes from the configuration files in its diffusers folder.

    Parts that are not there, and what no part says, have the released model's values.

    Raises:
        ValueError: a file is damaged, a value is not possible, or it says of the model what is not
            so in this project's.
    """
    if (folder / OWN_SPEC).is_file():
        return checked(read_json(folder / OWN_SPEC), folder / OWN_SPEC)
    files = {path: read_json(folder / path) for path in _FIELDS if (folder / path).is_file()}
    values = VD_FOUR_FLOW_V1_0.to_dict() | {"name": folder.resolve().name}
    for path, config in files.items():
        for name, (field, default) in _FIELDS[path].items():
            _set(values, field, config.get(name, default))
    unet, vae, clip = values["unet"], values["image_vae"], values["clip"]
    if config := files.get("image_unet/config.json"):
        where = folder / "image_unet/config.json"
        widths = _widths(config, where)
        crosses = [str(name).startswith("Cross") for name in config.get("down_block_types", ())]
        unet |= {
            "model_channels": widths[0],
            "channel_mult": [width // widths[0] for width in widths],
            "context_levels": crosses or [True] * (len(widths) - 1) + [False],
            "num_res_blocks": _each(unet["num_res_blocks"], len(widths)),
            "image_heads": _same(unet["image_heads"]),
        }
    unet["text_dim"], unet["text_heads"] = map(_same, (unet["text_dim"], unet["text_heads"]))
    values["text_vae"]["latent"] = unet["text_dim"]
    if config := files.get("vae/config.json"):
        widths = _widths(config, folder / "vae/config.json")
        vae |= {
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "z_channels": vae["embed_dim"],
        }
        size = files.get("image_unet/config.json", {}).get("sample_size")
        if isinstance(size, int):
            values["image_size"] = clip["resize"] = size * 2 ** (len(widths) - 1)
    _special_tokens(clip["text"], folder)
    spec = checked(values, folder)
    _compare(folder, files, spec)
    return spec


def _compare(folder: Path, files: dict[str, dict[str, Any]], spec: ModelSpec) -> None:
    """Refuse a folder that says something else than what would be written for its model."""
    for path, written in configurations(spec).items():
        config = files.get(path, {})
        # not about the weights, in the words of another program, or said by the tokenizer
        passed = (*_CLASSES[path], "sample_size", "bos_token_id", "eos_token_id")
        for name, value in written.items():
            own = config.get(name, value)
            count = max(len(x) if isinstance(x, list) else 1 for x in (own, value))
            if name not in passed and _each(own, count) != _each(value, count):
                raise ValueError(
                    f"{folder / path} says {name} {str(own)[:60]}, where a Versatile Diffusion has "
                    f"{value}: give the folder of one."
                )


def _special_tokens(text: dict[str, Any], folder: Path) -> None:
    """Ids of both ends of a text, where the tokenizer says them.

    CLIP's old configuration files say 0 and 2, which no text contains.
    """
    path = folder / "tokenizer" / "vocab.json"
    words = read_json(path) if path.is_file() else {}
    text["bos"] = words.get("<|startoftext|>", text["bos"])
    text["eos"] = words.get("<|endoftext|>", text["eos"])


def _widths(config: dict[str, Any], where: Path) -> list[int]:
    widths = config.get("block_out_channels")
    good = isinstance(widths, list) and all(type(w) is int and w > 0 for w in widths) and widths
    if not good or any(width % widths[0] for width in widths):
        raise ValueError(
            f"{where} says block_out_channels {str(widths)[:60]}: each has to be a multiple of the "
            "first one."
        )
    return widths


def _each(value: Any, length: int) -> list[Any]:
    """One entry a level: diffusers takes a single number for all, too."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * length


def _same(value: Any) -> Any:
    """The number that a list of equal ones repeats, or that a shape [number, 1, 1] begins with."""
    listed = value if isinstance(value, list) and value else [value, None]
    same = listed[1:] == [1, 1] or listed.count(listed[0]) == len(listed)
    return listed[0] if same else value


def checked(values: dict[str, Any], where: Path) -> ModelSpec:
    """`ModelSpec.from_dict`, whose errors say where the values are from."""
    try:
        return ModelSpec.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _get(spec: Any, field: str) -> Any:
    for name in field.split("."):
        spec = getattr(spec, name)
    return list(spec) if isinstance(spec, tuple) else spec


def _set(values: dict[str, Any], field: str, value: Any) -> None:
    *outer, name = field.split(".")
    for part in outer:
        values = values[part]
    values[name] = value
