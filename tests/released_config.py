"""A `ModelSpec` from the released configuration's own names: its networks, spelt as it does."""

from __future__ import annotations

from typing import Any

from lib.config import (
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    KLConfig,
    ModelSpec,
    OptimusConfig,
    UNetConfig,
)


def read_released(values: dict[str, Any], name: str = "custom") -> ModelSpec:
    """Read the released configuration's own names (`image_unet`, `text_unet`, `autokl`, ...).

    Args:
        values: the six parts; each holds the sizes as the released files spell them.
        name: what to call the model.

    Raises:
        ValueError: a part is missing, or the two columns do not share one plan.
    """
    parts = ("image_unet", "text_unet", "autokl", "bert", "gpt2", "clip")
    missing = [part for part in parts if part not in values]
    if missing:
        raise ValueError(
            f"The configuration lacks {', '.join(missing)}: it needs {', '.join(parts)}."
        )
    image, text, kl = values["image_unet"], values["text_unet"], values["autokl"]
    bert, gpt2, clip = values["bert"], values["gpt2"], values["clip"]
    levels = len(image["channel_mult"])
    context_levels = tuple(2**level in image["attention_resolutions"] for level in range(levels))
    res_blocks = _per_level(image["num_res_blocks"], levels)
    second_dim = _per_level(text["second_dim"], levels)
    own = (image["model_channels"], tuple(image["channel_mult"]))
    own += (res_blocks, context_levels, image["context_dim"])
    other = (text["model_channels"], tuple(text["channel_mult"]))
    other += (_per_level(text["num_noattn_blocks"], levels),)
    other += (tuple(map(bool, _per_level(text["with_attn"], levels))), text["context_dim"])
    if own != other:
        raise ValueError(
            f"The columns must share width, levels, blocks, context levels and context width "
            f"to exchange context layers; image_unet has {own}, text_unet {other}."
        )
    if len(set(second_dim)) != 1:
        raise ValueError(
            f"second_dim is {text['second_dim']}: skips concatenate on channels, so all "
            "levels need the same second dimension."
        )
    unet = UNetConfig(
        image_channels=image["in_channels"],
        text_dim=text["input_channels"],
        model_channels=image["model_channels"],
        channel_mult=tuple(image["channel_mult"]),
        num_res_blocks=res_blocks,
        context_levels=context_levels,
        second_dim=second_dim[0],
        image_heads=image["num_heads"],
        text_heads=text["num_heads"],
        context_dim=image["context_dim"],
    )
    text_vae = OptimusConfig(
        latent=bert["latent_size"],
        hidden=bert["hidden_size"],
        intermediate=bert["intermediate_size"],
        layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        bert_vocab=bert["vocab_size"],
        bert_positions=bert["max_position_embeddings"],
        gpt2_hidden=gpt2["n_embd"],
        gpt2_layers=gpt2["n_layer"],
        gpt2_heads=gpt2["n_head"],
        gpt2_vocab=gpt2["vocab_size"],
        gpt2_positions=gpt2["n_positions"],
        max_input=min(77, bert["max_position_embeddings"] - 2),
        max_output=min(30, gpt2["n_positions"] - 1),
    )
    return ModelSpec(
        name=name,
        unet=unet,
        image_vae=KLConfig(
            ch=kl["ch"],
            ch_mult=tuple(kl["ch_mult"]),
            num_res_blocks=kl["num_res_blocks"],
            z_channels=kl["z_channels"],
            embed_dim=kl["embed_dim"],
        ),
        text_vae=text_vae,
        clip=_clip_from_released(clip),
    )


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """One entry a level; the released code takes a single number for all levels, too."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels


def _clip_from_released(clip: dict[str, Any]) -> ClipConfig:
    text, vision = clip["text"], clip["vision"]
    return ClipConfig(
        projection=clip["projection_dim"],
        text=ClipTextConfig(
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            vocab=text["vocab_size"],
            positions=text["max_position_embeddings"],
            act=text["hidden_act"],
            bos=text["bos_token_id"],
            eos=text["eos_token_id"],
        ),
        vision=ClipVisionConfig(
            hidden=vision["hidden_size"],
            intermediate=vision["intermediate_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            act=vision["hidden_act"],
        ),
    )
