"""CLIP contexts: a text or a picture as the sequence of tokens that the diffuser looks at.

CLIP was trained to compare *one* vector per text with one per picture. Versatile Diffusion keeps
the whole sequence: every token goes through CLIP's final projection, and all are divided by the
length of the one that CLIP would have compared,

    context = W h / |W h_pooled|        text: h after the final layer norm, pooled at <end of text>
                                        picture: h after post_layernorm, pooled at the class token

so the pooled token has length 1 and the others keep their size relative to it.

Source: Radford et al., arXiv 2103.00020 (CLIP); Xu et al., arXiv 2211.08332, section 3 (contexts).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from lib.buffers import materialize_after_load
from lib.config import ClipConfig
from lib.images import to_pil, to_tensor
from lib.optimus import check_attention

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipText(nn.Module):
    """Text context encoder; parameters are named as in transformers (`text_model.*`, ...).

    Args:
        cfg: sizes.
        attention: `"sdpa"` or `"eager"`, same numbers; the latter trains short sequences faster on
            a CPU.
    """

    def __init__(self, cfg: ClipConfig, attention: str = "sdpa"):
        super().__init__()
        self.cfg = cfg
        text = cfg.text
        clip = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=text.vocab,
                hidden_size=text.hidden,
                intermediate_size=text.intermediate,
                projection_dim=cfg.projection,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=text.positions,
                hidden_act=text.act,
                bos_token_id=text.bos,
                eos_token_id=text.eos,
                pad_token_id=text.eos,
                attn_implementation=check_attention(attention),
            )
        )
        self.text_model = clip.text_model
        self.text_projection = clip.text_projection
        materialize_after_load(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Context tokens of texts.

        Args:
            ids: (B, L) as `Tokenizers.clip_ids` makes them: <start>, text, <end>, padding.

        Returns:
            (B, L, D). The token at <end> has length 1.
        """
        tokens, pooled = self._project(ids)
        return tokens / pooled.norm(dim=-1)[:, None, None]

    def features(self, ids: Tensor) -> Tensor:
        """The one vector per text that CLIP compares: (B, L) -> (B, D), length 1."""
        return F.normalize(self._project(ids)[1], dim=-1)

    def _project(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        is_end = ids == self.cfg.text.eos
        if not bool(is_end.any(dim=1).all()):
            raise ValueError(
                f"A row of ids has no end-of-text token ({self.cfg.text.eos}): encode texts with "
                "the tokenizer that belongs to this model."
            )
        tokens = self.text_projection(self.text_model(input_ids=ids).last_hidden_state)
        # Padding repeats <end>: the first one is the text's. (transformers' own pooling falls back
        # to "the largest id" when the configuration says eos = 2, so it is not relied on.)
        end = is_end.int().argmax(dim=1)
        return tokens, tokens[torch.arange(len(ids), device=ids.device), end]


class ClipVision(nn.Module):
    """Image context encoder; parameters are named as in transformers (`vision_model.*`, ...).

    Args:
        cfg: sizes.
        attention: as in `ClipText`.
    """

    def __init__(self, cfg: ClipConfig, attention: str = "sdpa"):
        super().__init__()
        self.cfg = cfg
        vision = cfg.vision
        clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=vision.hidden,
                intermediate_size=vision.intermediate,
                projection_dim=cfg.projection,
                num_hidden_layers=vision.layers,
                num_attention_heads=vision.heads,
                image_size=vision.image_size,
                patch_size=vision.patch_size,
                hidden_act=vision.act,
                attn_implementation=check_attention(attention),
            )
        )
        self.vision_model = clip.vision_model
        self.visual_projection = clip.visual_projection
        materialize_after_load(self)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Context tokens of pictures: one global (class) token, then one per patch.

        A mask weighs the tokens where pictures enter the transformer (after the position
        embeddings, before the first layer norm) and again where the context leaves it.

        Args:
            pixels: (B, 3, S, S) as `preprocess_images` makes them, S = `cfg.vision.image_size`.
            mask: (B or 1, 1, H, W) in [0, 1], 1 = keep, at any size; see `token_weights`.

        Returns:
            (B, 1 + N, D), N = (S / patch size)^2. Without a mask the class token has length 1.

        Raises:
            ValueError: pixels or mask of a wrong shape, mask outside of [0, 1].
        """
        weights = None if mask is None else self.token_weights(mask, len(pixels))
        tokens = self._project(pixels, weights)
        tokens = tokens / tokens[:, :1].norm(dim=-1, keepdim=True)
        return tokens if weights is None else tokens * weights.to(tokens)

    def features(self, pixels: Tensor) -> Tensor:
        """The one vector per picture that CLIP compares: (B, 3, S, S) -> (B, D), length 1."""
        return F.normalize(self._project(pixels, None)[:, 0], dim=-1)

    def _project(self, pixels: Tensor, weights: Tensor | None) -> Tensor:
        vit, size = self.vision_model, self.cfg.vision.image_size
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(
                f"Pixels have shape {tuple(pixels.shape)}: give (B, 3, {size}, {size}), as "
                "preprocess_images makes them."
            )
        hidden = vit.embeddings(pixels)  #                                  (B, 1 + N, hidden)
        if weights is not None:
            hidden = hidden * weights.to(hidden)
        hidden = vit.encoder(inputs_embeds=vit.pre_layrnorm(hidden)).last_hidden_state
        return self.visual_projection(vit.post_layernorm(hidden))  #        (B, 1 + N, D)

    def token_weights(self, mask: Tensor, batch: int) -> Tensor:
        """What each token counts under a mask.

        The mask is resized bilinearly to the picture's size; a patch weighs the mean of the mask
        over it, the class token the mean of the whole mask.

        Args:
            mask: (batch or 1, 1, H, W) in [0, 1].
            batch: number of pictures.

        Returns:
            (batch, 1 + N, 1) float32.
        """
        if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[0] not in (1, batch):
            raise ValueError(f"The mask has shape {tuple(mask.shape)}: give ({batch}, 1, H, W).")
        mask = mask.float()
        if not (mask.min() >= 0 and mask.max() <= 1):
            raise ValueError("The mask has values outside of [0, 1]: give 1 to keep, 0 to remove.")
        size, patch = self.cfg.vision.image_size, self.cfg.vision.patch_size
        if tuple(mask.shape[2:]) != (size, size):
            mask = F.interpolate(mask, (size, size), mode="bilinear", align_corners=False)
        patches = rearrange(F.avg_pool2d(mask, patch), "b 1 h w -> b (h w) 1")
        weights = torch.cat([mask.mean(dim=(2, 3))[:, None], patches], dim=1)
        return weights.expand(batch, -1, -1)


def preprocess_images(images: Sequence[Image.Image] | Tensor, cfg: ClipConfig) -> Tensor:
    """Pictures -> what `ClipVision` takes.

    RGB on white, PIL bicubic to `cfg.resize` x `cfg.resize` (whatever the aspect), then CLIP's own:
    bicubic to the encoder's size, minus mean, over standard deviation. A step that would not change
    the size does not resample.

    Args:
        images: PIL pictures of any modes and sizes, or a float tensor (B, 3, H, W) in [0, 1].
        cfg: sizes.

    Returns:
        (B, 3, S, S) float32, S = `cfg.vision.image_size`.

    Raises:
        ValueError: nothing given, or something that is no picture (see `lib.images`).
    """
    pictures = to_pil(images)
    if not pictures:
        raise ValueError("There is no picture: give at least one.")
    size = cfg.vision.image_size
    pixels = to_tensor([_resize(_resize(p, cfg.resize), size) for p in pictures])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


def _resize(image: Image.Image, size: int) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), Image.BICUBIC)
