"""Sizes of every network, as frozen dataclasses: what a model *is*, apart from its weights.

Their default values are those of the released model; `lib.specs` has the models by name. A spec
turns into plain JSON and back (`to_dict`, `from_dict`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lib.checks import whole_number

COMPONENTS = (
    "time_embed",
    "image_data",
    "text_data",
    "image_context",
    "text_context",
    "image_encoder",
    "image_decoder",
    "text_encoder",
    "text_decoder",
    "clip_text",
    "clip_vision",
)
"""The parts a model is loaded by; a flow needs five of them (see `components_for`)."""

FLOWS = {
    "t2i": ("image", "text"),
    "i2i": ("image", "image"),
    "i2t": ("text", "image"),
    "t2t": ("text", "text"),
}
"""Flow -> (kind of thing generated, kind of thing that conditions)."""


@dataclass(frozen=True)
class UNetConfig:
    """The four-flow UNet: one plan of steps, two data columns, two context columns.

    Attributes:
        image_channels: channels of an image latent (B, C, h, w).
        text_dim: width of a text latent (B, text_dim).
        model_channels: width at level 0; the time embedding is 4 times as wide.
        channel_mult: width of level l is `model_channels * channel_mult[l]`.
        num_res_blocks: residual blocks of each level (one more on the way up).
        context_levels: whether a level's blocks are followed by a context layer.
        second_dim: tokens per text feature map (B, width, second_dim, 1), same at every level.
        image_heads, text_heads: attention heads in the image / text context column.
        context_dim: width of the context tokens of both kinds.
        norm_groups: groups of every GroupNorm.
    """

    image_channels: int = 4
    text_dim: int = 768
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    context_levels: tuple[bool, ...] = (True, True, True, False)
    second_dim: int = 4
    image_heads: int = 8
    text_heads: int = 8
    context_dim: int = 768
    norm_groups: int = 32

    def __post_init__(self) -> None:
        levels = len(self.channel_mult)
        if len(self.num_res_blocks) != levels or len(self.context_levels) != levels:
            raise ValueError(
                f"channel_mult has {levels} levels, num_res_blocks {len(self.num_res_blocks)} and "
                f"context_levels {len(self.context_levels)}: give one entry a level to each."
            )
        widths = [self.model_channels * mult for mult in self.channel_mult]
        attending = [w for w, attends in zip(widths, self.context_levels, strict=True) if attends]
        # the middle has a context layer, too; a level without blocks keeps the width it is given
        changed = [w for w, blocks in zip(widths, self.num_res_blocks, strict=True) if blocks]
        middle = changed[-1] if changed else self.model_channels
        for heads in (self.image_heads, self.text_heads):
            for width in (*attending, middle):
                if heads < 1 or width % heads:
                    raise ValueError(
                        f"Width {width} cannot be split into {heads} heads: choose a number of "
                        "heads that divides the width of every level with context layers and of "
                        "the middle."
                    )
        for width in widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"Width {width} cannot be split into {self.norm_groups} GroupNorm groups: "
                    "choose norm_groups that divides every level's width."
                )


@dataclass(frozen=True)
class KLConfig:
    """The image VAE (`kl-f8`): f = patch * 2 ** (len(ch_mult) - 1), z_channels latent channels.

    `scale` brings latents to about unit variance: the diffuser sees `scale * z`. `patch` pixels a
    side are read and written as channels of one position (1 in the released model): a small VAE
    then spends its convolutions where they are wide enough to be fast.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    norm_groups: int = 32
    scale: float = 0.18215
    patch: int = 1

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class OptimusConfig:
    """The text VAE: BERT encodes, GPT-2 decodes, a vector of `latent` numbers between them.

    `bert_*` and `gpt2_*` are those networks' own sizes; `max_input` word pieces are read,
    `max_output` tokens written; `temperature` is the default of decoding (0 = most likely token);
    the diffuser sees `scale * z`.
    """

    latent: int = 768
    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    heads: int = 12
    bert_vocab: int = 28996
    bert_positions: int = 512
    gpt2_hidden: int = 768
    gpt2_layers: int = 12
    gpt2_heads: int = 12
    gpt2_vocab: int = 50260
    gpt2_positions: int = 1024
    max_input: int = 77
    max_output: int = 30
    temperature: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True)
class ClipTextConfig:
    """CLIP's text tower: a causal transformer read at the end-of-text token."""

    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    heads: int = 12
    vocab: int = 49408
    positions: int = 77
    act: str = "quick_gelu"
    bos: int = 49406
    eos: int = 49407


@dataclass(frozen=True)
class ClipVisionConfig:
    """CLIP's vision tower: a ViT with a class token and one token a patch."""

    hidden: int = 1024
    intermediate: int = 4096
    layers: int = 24
    heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    act: str = "quick_gelu"

    @property
    def tokens(self) -> int:
        """Class token plus patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, the width they meet in, and the side pictures are resized to beforehand."""

    projection: int = 768
    resize: int = 512
    text: ClipTextConfig = field(default_factory=ClipTextConfig)
    vision: ClipVisionConfig = field(default_factory=ClipVisionConfig)


@dataclass(frozen=True)
class ModelSpec:
    """Everything that says which Versatile Diffusion this is, apart from the weights.

    `steps` and `scale_*` are the defaults of sampling: DDIM steps, and guidance for text and for
    image contexts.
    """

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    image_vae: KLConfig = field(default_factory=KLConfig)
    text_vae: OptimusConfig = field(default_factory=OptimusConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    image_size: int = 512
    num_timesteps: int = 1000
    beta_start: float = 8.5e-4
    beta_end: float = 1.2e-2
    steps: int = 50
    scale_text: float = 7.5
    scale_image: float = 7.5

    def __post_init__(self) -> None:
        if self.unet.context_dim != self.clip.projection:
            raise ValueError(
                f"The UNet takes contexts of width {self.unet.context_dim}, CLIP gives "
                f"{self.clip.projection}: make the two equal."
            )
        if self.unet.text_dim != self.text_vae.latent:
            raise ValueError(
                f"The text column takes latents of width {self.unet.text_dim}, the text VAE gives "
                f"{self.text_vae.latent}: make the two equal."
            )
        if self.unet.image_channels != self.image_vae.embed_dim:
            raise ValueError(
                f"The image column takes {self.unet.image_channels} latent channels, the image VAE "
                f"gives {self.image_vae.embed_dim}: make the two equal."
            )

    def latent_shape(
        self, kind: str, height: int | None = None, width: int | None = None
    ) -> tuple[int, ...]:
        """Shape of one latent: (C, height / f, width / f) for "image", (D,) for "text".

        Args:
            kind: "image" or "text".
            height, width: of the picture in pixels; None is the model's own size.

        Raises:
            ValueError: another kind, a size for a text, or a side that is no multiple of
                `size_unit`.
        """
        if kind not in ("image", "text"):
            raise ValueError(f"There is no latent of kind {kind!r}: ask for 'image' or 'text'.")
        if kind == "text":
            if height is not None or width is not None:
                raise ValueError("A text has no height and no width: leave both out.")
            return (self.unet.text_dim,)
        sides = []
        for name, side in (("height", height), ("width", width)):
            side = self.image_size if side is None else whole_number(name, side)
            if side % self.size_unit:
                raise ValueError(
                    f"{name} is {side}, which {self.name} cannot make: its networks halve pictures "
                    f"several times, so choose a multiple of {self.size_unit}."
                )
            sides.append(side // self.image_vae.factor)
        return (self.unet.image_channels, *sides)

    @property
    def size_unit(self) -> int:
        """Sides of pictures are multiples of it: VAE factor, times 2 for each level but one."""
        return self.image_vae.factor * 2 ** (len(self.unet.channel_mult) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Rebuild a spec from `to_dict`'s output; an unknown or missing field is a ValueError."""
        return _build(cls, values, where="spec")


_NESTED = {
    "unet": UNetConfig,
    "image_vae": KLConfig,
    "text_vae": OptimusConfig,
    "clip": ClipConfig,
    "text": ClipTextConfig,
    "vision": ClipVisionConfig,
}


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"{where} has unknown fields {', '.join(unknown)}; "
            f"known are {', '.join(sorted(known))}."
        )
    built = {}
    for key, value in values.items():
        if key in _NESTED and isinstance(value, dict):
            value = _build(_NESTED[key], value, where=f"{where}.{key}")
        built[key] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}.") from error


def components_for(flows: tuple[str, ...] | list[str], encoders: bool = False) -> tuple[str, ...]:
    """The components that the given flows read, in the order of `COMPONENTS`.

    Text-to-image needs five (1.03 B parameters of the released model's 3.8 B). `encoders` adds the
    VAE encoders of the generated kinds, which only starting from a given picture or text
    ("fidelity", editing, reconstruction) needs.

    Raises:
        ValueError: an unknown flow.
    """
    needed = {"time_embed"}
    for flow in flows:
        if flow not in FLOWS:
            raise ValueError(f"There is no flow {flow!r}: choose from {', '.join(FLOWS)}.")
        data, context = FLOWS[flow]
        tower = "clip_text" if context == "text" else "clip_vision"
        needed |= {f"{data}_data", f"{context}_context", f"{data}_decoder", tower}
        if encoders:
            needed.add(f"{data}_encoder")
    return tuple(part for part in COMPONENTS if part in needed)
