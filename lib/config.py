"""Sizes of every network, as frozen dataclasses: what a model *is*, apart from its weights.

Their default values are those of the released model; `lib.specs` has the models by name. A spec
turns into plain JSON and back (`to_dict`, `from_dict`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval, Len

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


# ranges far wider than any model needs: what is outside is a mistake, or fills the memory
Width = Annotated[int, Interval(ge=1, le=2**17)]
Count = Annotated[int, Interval(ge=1, le=2**20)]
Layers = Annotated[int, Interval(ge=0, le=256)]
Token = Annotated[int, Interval(ge=0, le=2**20)]
Mult = Annotated[int, Interval(ge=1, le=64)]
Levels = Annotated[tuple[Mult, ...], Len(1, 8)]
Side = Annotated[int, Interval(ge=1, le=2**12)]
Positive = Annotated[float, Interval(gt=0, le=1e6)]
Scale = Annotated[float, Interval(ge=0, le=1e6)]
Beta = Annotated[float, Interval(gt=0, lt=1)]
Activation = Literal["quick_gelu", "gelu"]


class Checked:
    """How `ModelSpec.from_dict` reads these classes: no unknown fields, no infinite numbers."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class UNetConfig(Checked):
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

    image_channels: Width = 4
    text_dim: Width = 768
    model_channels: Width = 320
    channel_mult: Levels = (1, 2, 4, 4)
    num_res_blocks: tuple[Layers, ...] = (2, 2, 2, 2)
    context_levels: tuple[bool, ...] = (True, True, True, False)
    second_dim: Mult = 4
    image_heads: Width = 8
    text_heads: Width = 8
    context_dim: Width = 768
    norm_groups: Width = 32

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
            _check_groups(width, self.norm_groups)


@dataclass(frozen=True)
class KLConfig(Checked):
    """The image VAE (`kl-f8`): f = patch * 2 ** (len(ch_mult) - 1), z_channels latent channels.

    `scale` brings latents to about unit variance: the diffuser sees `scale * z`. `patch` pixels a
    side are read and written as channels of one position (1 in the released model): a small VAE
    then spends its convolutions where they are wide enough to be fast.
    """

    ch: Width = 128
    ch_mult: Levels = (1, 2, 4, 4)
    num_res_blocks: Layers = 2
    z_channels: Width = 4
    embed_dim: Width = 4
    norm_groups: Width = 32
    scale: Positive = 0.18215
    patch: Mult = 1

    def __post_init__(self) -> None:
        for mult in (1, *self.ch_mult):
            _check_groups(self.ch * mult, self.norm_groups)

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class OptimusConfig(Checked):
    """The text VAE: BERT encodes, GPT-2 decodes, a vector of `latent` numbers between them.

    `bert_*` and `gpt2_*` are those networks' own sizes; `max_input` word pieces are read,
    `max_output` tokens written; `temperature` is the default of decoding (0 = most likely token);
    the diffuser sees `scale * z`.
    """

    latent: Width = 768
    hidden: Width = 768
    intermediate: Width = 3072
    layers: Layers = 12
    heads: Width = 12
    bert_vocab: Count = 28996
    bert_positions: Count = 512
    gpt2_hidden: Width = 768
    gpt2_layers: Layers = 12
    gpt2_heads: Width = 12
    gpt2_vocab: Count = 50260
    gpt2_positions: Count = 1024
    max_input: Count = 77
    max_output: Count = 30
    temperature: Scale = 1.0
    scale: Positive = 1.0

    def __post_init__(self) -> None:
        _check_heads("hidden", self.hidden, self.heads)
        _check_heads("gpt2_hidden", self.gpt2_hidden, self.gpt2_heads)
        # a text has a mark at both ends; the latent stands before what is written
        if self.max_input > self.bert_positions - 2 or self.max_output > self.gpt2_positions - 1:
            raise ValueError(
                f"max_input is {self.max_input} and max_output {self.max_output}, which does not "
                f"fit into {self.bert_positions} and {self.gpt2_positions} positions: give at most "
                f"{self.bert_positions - 2} and {self.gpt2_positions - 1}."
            )


@dataclass(frozen=True)
class ClipTextConfig(Checked):
    """CLIP's text tower: a causal transformer read at the end-of-text token."""

    hidden: Width = 768
    intermediate: Width = 3072
    layers: Layers = 12
    heads: Width = 12
    vocab: Count = 49408
    positions: Count = 77
    act: Activation = "quick_gelu"
    bos: Token = 49406
    eos: Token = 49407

    def __post_init__(self) -> None:
        _check_heads("hidden", self.hidden, self.heads)


@dataclass(frozen=True)
class ClipVisionConfig(Checked):
    """CLIP's vision tower: a ViT with a class token and one token a patch."""

    hidden: Width = 1024
    intermediate: Width = 4096
    layers: Layers = 24
    heads: Width = 16
    image_size: Side = 224
    patch_size: Side = 14
    act: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        _check_heads("hidden", self.hidden, self.heads)
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, image_size {self.image_size}: a patch is no "
                "larger than the picture."
            )

    @property
    def tokens(self) -> int:
        """Class token plus patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ClipConfig(Checked):
    """Both towers, the width they meet in, and the side pictures are resized to beforehand."""

    projection: Width = 768
    resize: Side = 512
    text: ClipTextConfig = field(default_factory=ClipTextConfig)
    vision: ClipVisionConfig = field(default_factory=ClipVisionConfig)


@dataclass(frozen=True)
class ModelSpec(Checked):
    """Everything that says which Versatile Diffusion this is, apart from the weights.

    `steps` and `scale_*` are the defaults of sampling: DDIM steps, and guidance for text and for
    image contexts.
    """

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    image_vae: KLConfig = field(default_factory=KLConfig)
    text_vae: OptimusConfig = field(default_factory=OptimusConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    image_size: Side = 512
    num_timesteps: Count = 1000
    beta_start: Beta = 8.5e-4
    beta_end: Beta = 1.2e-2
    steps: Count = 50
    scale_text: Scale = 7.5
    scale_image: Scale = 7.5

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
        self.latent_shape("image")  # of its own size

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
        """Rebuild a spec from `to_dict`'s output; every type, range and name is checked.

        Raises:
            ValueError: names the first field that is unknown, missing or not possible.
        """
        # only who reads a configuration pays for the import
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
        field = ".".join(["spec", *map(str, problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":  # a rule of a class here, which says all
            raise ValueError(f"{field}: {message}")
        shown = repr(problem["input"])
        shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
        raise ValueError(f"{field} is {shown}: {message[0].lower()}{message[1:]}.")


def _check_groups(width: int, groups: int) -> None:
    if groups < 1 or width % groups:
        raise ValueError(
            f"Width {width} cannot be split into {groups} GroupNorm groups: choose norm_groups "
            "that divides every level's width."
        )


def _check_heads(name: str, width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(
            f"{name} is {width}, which cannot be split into {heads} heads: choose a number of "
            "heads that divides it."
        )
