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

from lib.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from lib.images import to_pil, to_tensor
from lib.ops import attention

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class SelfAttention(nn.Module):
    """Multi-head self-attention; a text's tokens see only those before them."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attention(q, k, v, self.heads, self.causal, fused=not x.requires_grad))


class Perceptron(nn.Module):
    """`fc2(act(fc1(x)))`; quick_gelu is `x sigmoid(1.702 x)`."""

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.act == "quick_gelu" else F.gelu(h))


class Layer(nn.Module):
    """Self-attention, then a perceptron; each after a LayerNorm, each residual."""

    def __init__(self, tower: ClipTextConfig | ClipVisionConfig, causal: bool) -> None:
        super().__init__()
        self.self_attn = SelfAttention(tower.hidden, tower.heads, causal)
        self.layer_norm1 = nn.LayerNorm(tower.hidden)
        self.mlp = Perceptron(tower.hidden, tower.intermediate, tower.act)
        self.layer_norm2 = nn.LayerNorm(tower.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers of a tower, one after the other."""

    def __init__(self, tower: ClipTextConfig | ClipVisionConfig, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(tower, causal) for _ in range(tower.layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        for layer in self.layers:
            x = layer(x)
        return x


class TextEmbeddings(nn.Module):
    """Tokens and their positions."""

    def __init__(self, tower: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(tower.vocab, tower.hidden)
        self.position_embedding = _embedding(tower.positions, tower.hidden)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, C)."""
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class PatchEmbeddings(nn.Module):
    """A class token and one token a patch, and their positions."""

    def __init__(self, tower: ClipVisionConfig) -> None:
        super().__init__()
        size = tower.patch_size
        self.class_embedding = nn.Parameter(torch.empty(tower.hidden))
        self.patch_embedding = nn.Conv2d(3, tower.hidden, size, stride=size, bias=False)
        self.position_embedding = _embedding(tower.tokens, tower.hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + N, C)."""
        pixels = pixels.to(self.class_embedding.dtype)
        patches = rearrange(self.patch_embedding(pixels), "b c h w -> b (h w) c")
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class TextTower(nn.Module):
    """A causal transformer over the tokens of a text."""

    def __init__(self, tower: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(tower)
        self.encoder = Encoder(tower, causal=True)
        self.final_layer_norm = nn.LayerNorm(tower.hidden)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, C)."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


class VisionTower(nn.Module):
    """A transformer over the patches of a picture."""

    def __init__(self, tower: ClipVisionConfig) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(tower)
        self.pre_layrnorm = nn.LayerNorm(tower.hidden)  # spelt so in all files
        self.encoder = Encoder(tower, causal=False)
        self.post_layernorm = nn.LayerNorm(tower.hidden)

    def forward(self, pixels: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, 3, S, S), and (B, 1 + N, 1) what each token counts -> (B, 1 + N, C)."""
        h = self.embeddings(pixels)
        if weights is not None:
            h = h * weights.to(h)
        return self.post_layernorm(self.encoder(self.pre_layrnorm(h)))


class ClipText(nn.Module):
    """Text context encoder; parameters are named as in transformers (`text_model.*`, ...).

    Args:
        cfg: sizes.
    """

    def __init__(self, cfg: ClipConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.text_model = TextTower(cfg.text)
        self.text_projection = nn.Linear(cfg.text.hidden, cfg.projection, bias=False)
        _initialize(self, cfg.text)

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
        tokens = self.text_projection(self.text_model(ids))
        # padding repeats <end>: the first one is the text's
        end = is_end.int().argmax(dim=1)
        return tokens, tokens[torch.arange(len(ids), device=ids.device), end]


class ClipVision(nn.Module):
    """Image context encoder; parameters are named as in transformers (`vision_model.*`, ...).

    Args:
        cfg: sizes.
    """

    def __init__(self, cfg: ClipConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.vision_model = VisionTower(cfg.vision)
        self.visual_projection = nn.Linear(cfg.vision.hidden, cfg.projection, bias=False)
        _initialize(self, cfg.vision)

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
        size = self.cfg.vision.image_size
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(
                f"Pixels have shape {tuple(pixels.shape)}: give (B, 3, {size}, {size}), as "
                "preprocess_images makes them."
            )
        return self.visual_projection(self.vision_model(pixels, weights))  # (B, 1 + N, D)

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


def _embedding(count: int, width: int) -> nn.Embedding:
    """Without torch's own first values, for which it imports its compiler where none are kept."""
    return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)


@torch.no_grad()
def _initialize(module: nn.Module, tower: ClipTextConfig | ClipVisionConfig) -> None:
    """Where training starts: CLIP's own deviations, smaller where many residuals are summed."""
    if next(module.parameters()).is_meta:
        return
    into = (2 * tower.hidden * tower.layers) ** -0.5
    deviations = {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "fc2"), into),
        **dict.fromkeys(("out_proj", "text_projection", "visual_projection"), tower.hidden**-0.5),
        "fc1": (2 * tower.hidden) ** -0.5,
        **dict.fromkeys(("token_embedding", "position_embedding", "patch_embedding"), 0.02),
    }
    for name, parameter in module.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if leaf == "class_embedding":
            parameter.normal_(std=tower.hidden**-0.5)
        elif leaf == "bias":
            parameter.zero_()
        elif parameter.ndim > 1:
            parameter.normal_(std=deviations[layer.rpartition(".")[2]])


def _resize(image: Image.Image, size: int) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), Image.BICUBIC)
