"""The models: the released one, written down once, and those that this repository trains."""

from __future__ import annotations

from dataclasses import replace

from lib.config import (
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    KLConfig,
    ModelSpec,
    OptimusConfig,
    UNetConfig,
)

VD_FOUR_FLOW_V1_0 = ModelSpec(name="vd-four-flow-v1-0")
"""The released model: 3.8 B parameters, 512 x 512 pictures."""

VD_MINI = replace(
    VD_FOUR_FLOW_V1_0,
    name="vd-mini",
    image_size=64,
    scale_text=2.0,
    scale_image=2.5,
    unet=UNetConfig(
        image_channels=8,
        text_dim=64,
        model_channels=64,
        channel_mult=(1, 2, 2),
        num_res_blocks=(1, 1, 1),
        context_levels=(True, True, False),
        second_dim=3,
        image_heads=4,
        text_heads=4,
        context_dim=128,
        norm_groups=16,
    ),
    image_vae=KLConfig(
        ch=16,
        ch_mult=(1, 2, 4, 6),
        num_res_blocks=1,
        z_channels=8,
        embed_dim=8,
        norm_groups=4,
        scale=1.0,
    ),
    text_vae=OptimusConfig(
        latent=64,
        hidden=128,
        intermediate=512,
        layers=3,
        heads=4,
        bert_vocab=1000,
        bert_positions=64,
        gpt2_hidden=128,
        gpt2_layers=3,
        gpt2_heads=4,
        gpt2_vocab=1000,
        gpt2_positions=64,
        max_input=60,
        max_output=32,
        temperature=0.0,
    ),
    clip=ClipConfig(
        projection=128,
        resize=64,
        text=ClipTextConfig(
            hidden=128, intermediate=512, layers=3, heads=4, vocab=1000, positions=32, bos=0, eos=1
        ),
        vision=ClipVisionConfig(
            hidden=128, intermediate=512, layers=4, heads=4, image_size=64, patch_size=8
        ),
    ),
)
"""The model this repository trains from nothing on scenes of 64 x 64 pixels.

Vocabulary sizes and latent scales are settled by training and stand in its `config.json`.
"""

VD_EMOJI = replace(
    VD_MINI,
    name="vd-emoji",
    unet=replace(VD_MINI.unet, image_channels=16, second_dim=2),
    image_vae=KLConfig(
        ch=128,
        ch_mult=(1, 1),
        num_res_blocks=2,
        z_channels=16,
        embed_dim=16,
        norm_groups=16,
        scale=1.0,
        patch=4,
    ),
    scale_text=3.0,
    scale_image=3.0,
)
"""The model this repository trains from nothing on drawings of 64 x 64 pixels by eight artists."""
