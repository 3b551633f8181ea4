"""Versatile Diffusion: contexts in, latents out, and the way from pictures and texts to both.

    context   what conditions: tokens of a text or of a picture      text_context, image_context
    latent    what is generated: a map (picture) or a vector (text)  encode_*, decode_*
    eps       the noise in a noisy latent under any mix of contexts  eps

Which way data flow through the network is decided by the *shapes and kinds of the arguments* alone:
four flows, mixes of contexts, and text generated from picture and text are one call of `eps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lib.clip import preprocess_images
from lib.components import Components
from lib.config import ModelSpec
from lib.contexts import Context, Mix, check_inputs, opposed, stacked, which_null
from lib.devices import give_back_freed_memory
from lib.guidance import guided
from lib.images import fit, to_rgb, to_tensor
from lib.kl_vae import sample_posterior
from lib.noise import SampleNoise
from lib.sampler import Eps
from lib.schedule import NoiseSchedule
from lib.tokenizers import Tokenizers
from lib.transformer import Kept
from lib.unet import plan, run

TOGETHER = 2**15
"""Numbers in latents, both halves counted, up to which these are one batch: 32 pictures of vd-mini,
or one of 512 x 512. Small ones gain (`python -m benchmarks halves`), large ones cost memory."""


class VersatileDiffusion(Components):
    """The whole model; its components are read from their files when something first requires them.

    Args:
        spec: sizes and defaults.
        components: name (one of `lib.config.COMPONENTS`) -> module.
        tokenizers: the three vocabularies; needed for texts only.
        more: where components that are not given come from (`lib.components.Components`); without
            it this model has no others.

    Attributes:
        shortcuts: whether `guided` may compute both its halves as one batch, and the keys and
            values of contexts once a run: not for who looks on, or changes layers on the way.

    Example:
        >>> vd = load("vd-mini")                                            # lib.checkpoints.load
        >>> context = vd.text_context(["a red circle on a white background"])
        >>> x_T = SampleNoise([20]).normal(vd.latent_shape("image"))
        >>> eps = vd.guided([(context, 1.0)], "image", scale=3.0)
        >>> for step in ddim(eps, x_T, vd.schedule, vd.schedule.timesteps(50)): ...
        >>> picture = vd.decode_image(step.x)                               # (1, 3, 64, 64)
    """

    def __init__(
        self,
        spec: ModelSpec,
        components: Mapping[str, nn.Module],
        tokenizers: Tokenizers | None = None,
        **more: Any,
    ) -> None:
        super().__init__(components, **more)
        self.spec = spec
        self.schedule = NoiseSchedule(spec.num_timesteps, spec.beta_start, spec.beta_end)
        self.tokenizers = tokenizers
        self.plan = plan(spec.unet)
        self.shortcuts = True

    def latent_shape(
        self, kind: str, height: int | None = None, width: int | None = None
    ) -> tuple[int, ...]:
        """Shape of one latent without batch: `ModelSpec.latent_shape`."""
        return self.spec.latent_shape(kind, height, width)

    # ------------------------------------------------------------------ contexts

    @torch.no_grad()
    def text_context(self, texts: Sequence[str]) -> Context:
        """CLIP tokens of texts, (B, L, D), each normalised by its pooled token.

        Raises:
            ValueError: a text is longer than the encoder reads.
        """
        self.require("clip_text")
        ids = self._tokenizers().clip_ids(list(texts))
        return Context("text", self.clip_text(ids.to(self.device)))

    @torch.no_grad()
    def image_context(
        self, images: Sequence[Image.Image] | Tensor, masks: Tensor | None = None
    ) -> Context:
        """CLIP tokens of pictures, (B, 1 + N, D): the class token, then one token a patch.

        Args:
            images: PIL pictures of any mode and size, or (B, 3, H, W) in [0, 1].
            masks: (B, 1, H, W) in [0, 1], 1 = keep; tokens are weighted by it.
        """
        self.require("clip_vision")
        pixels = preprocess_images(images, self.spec.clip).to(self.device, self.dtype)
        if masks is not None:
            masks = masks.to(pixels)
        return Context("image", self.clip_vision(pixels, masks))

    @torch.no_grad()
    def null_context(self, kind: str, data: str, batch: int, null: str | None = None) -> Context:
        """What "no context" means, by kind of context and kind of data generated.

        Text contexts: CLIP(""). Image contexts: all zeros when an image is generated, CLIP of a
        black image when text is (the released model was trained so).

        Args:
            kind: of the context it stands in for.
            data: what is generated.
            batch: B.
            null: of an image context, instead of that default: "zeros" (no picture at all), or
                "black" or "grey" (CLIP of a picture of that colour; grey is 0.5).

        Raises:
            ValueError: a null that there is not, or one for a text context.
        """
        null = which_null(kind, data, null)
        if null is None:
            return self.text_context([""]).repeat(batch)
        if null != "zeros":
            side = self.spec.clip.resize
            pixels = torch.full((1, 3, side, side), 0.0 if null == "black" else 0.5)
            return self.image_context(pixels).repeat(batch)
        shape = (batch, self.spec.clip.vision.tokens, self.spec.clip.projection)
        return Context("image", torch.zeros(shape, device=self.device, dtype=self.dtype))

    # ------------------------------------------------------------------ latents

    @torch.no_grad()
    def encode_image(
        self,
        images: Sequence[Image.Image] | Tensor,
        noise: SampleNoise | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Pictures -> scaled latents (B, C, H/f, W/f).

        Args:
            images: PIL pictures, or (B, 3, H, W) in [0, 1] with sides that are multiples of the
                VAE's factor.
            noise: draws the posterior sample, as the released code does; None takes the mean.
            height, width: in pixels, what PIL pictures are resized to; None is the model's size.
        """
        self.require("image_encoder")
        if not isinstance(images, Tensor):
            size = (width or self.spec.image_size, height or self.spec.image_size)
            images = to_tensor([fit(to_rgb(image), size) for image in images]).contiguous()
        factor = self.spec.image_vae.factor
        if images.ndim != 4 or images.shape[1] != 3 or any(s % factor for s in images.shape[2:]):
            raise ValueError(
                f"Images have shape {tuple(images.shape)}: give (batch, 3, height, width) with "
                f"sides that are multiples of {factor}."
            )
        mean, logvar = self.image_encoder(images.to(self.device, self.dtype))
        if noise is not None:
            mean = sample_posterior(mean, logvar, noise.normal(mean.shape[1:]).to(mean))
        return mean * self.spec.image_vae.scale

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> pictures (B, 3, f h, f w) in [0, 1], float32.

        Raises:
            FloatingPointError: the latents are too large for the decoder's precision.
        """
        self.require("image_decoder")
        give_back_freed_memory()
        z = latents.to(self.device, self.dtype) / self.spec.image_vae.scale
        pixels = self.image_decoder.decode(z).float()
        if bool(pixels.isnan().any()):  # clamped: what overflowed on the way is NaN, or white
            raise FloatingPointError(
                f"Decoding a picture left the range of {self.dtype}: use float32, or smaller "
                "latents."
            )
        return pixels

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> scaled latents (B, D), the posterior's mean."""
        self.require("text_encoder")
        ids = self._tokenizers().bert_ids(list(texts))
        mean, _ = self.text_encoder(ids.to(self.device))
        return mean * self.spec.text_vae.scale

    @torch.no_grad()
    def decode_text(
        self,
        latents: Tensor,
        noise: SampleNoise | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> list[str]:
        """Scaled latents (B, D) -> texts.

        Args:
            latents: what the text column generated, or `encode_text` gave.
            noise: where sampling draws from; needed above temperature 0.
            temperature: 0 takes the most likely token; None is the model's default.
            max_tokens: longest text in tokens; None is the model's default.
        """
        ids = self.decode_tokens(latents, noise, temperature, max_tokens)
        return self._tokenizers().gpt2_text(ids)

    @torch.no_grad()
    def decode_tokens(
        self,
        latents: Tensor,
        noise: SampleNoise | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """Scaled latents (B, D) -> ids of tokens, <BOS> first; arguments as in `decode_text`."""
        self.require("text_decoder")
        config, words = self.spec.text_vae, self._tokenizers()
        return self.text_decoder.generate(
            latents.to(self.device, self.dtype) / config.scale,
            bos=words.bos,
            eos=words.eos,
            max_tokens=config.max_output if max_tokens is None else max_tokens,
            temperature=config.temperature if temperature is None else temperature,
            noise=noise,
        )

    # ------------------------------------------------------------------ similarity

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """CLIP's one vector a text, (B, D), unit norm."""
        self.require("clip_text")
        ids = self._tokenizers().clip_ids(list(texts))
        return self.clip_text.features(ids.to(self.device)).float()

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image] | Tensor) -> Tensor:
        """CLIP's one vector a picture, (B, D), unit norm: a dot product with a text is a score."""
        self.require("clip_vision")
        pixels = preprocess_images(images, self.spec.clip).to(self.device, self.dtype)
        return self.clip_vision.features(pixels).float()

    # ------------------------------------------------------------------ diffusion

    def eps(self, x: Tensor, t: Tensor | int, contexts: Mix) -> Tensor:
        """The noise in x_t, under any mix of contexts; `guided` computes it as this does.

            x (B, C, h, w)  image latent  -> image data column
            x (B, D)        text latent   -> text data column
            contexts        each read by its kind's context column, mixed at every context layer

        Args:
            x: noisy latent at timestep t.
            t: one timestep, or (B,) of them.
            contexts: [(context, weight), ...], at least one; weights are normalised to sum 1.

        Returns:
            Predicted noise, like x.

        Raises:
            ValueError: no context, a weight that is not positive, batches that differ, or a
                component that was not loaded.
        """
        check_inputs(self.spec, x, contexts)
        return self._eps(x, t, contexts)

    def _eps(
        self, x: Tensor, t: Tensor | int, contexts: Mix, kept: Sequence[Kept] | None = None
    ) -> Tensor:
        """The same of contexts whose batch is a multiple of x's, for each half of it."""
        data = "image" if x.ndim == 4 else "text"
        self.require("time_embed", f"{data}_data", *(f"{c.kind}_context" for c, _ in contexts))
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        columns = [
            (self.component(f"{c.kind}_context"), c.tokens.to(x.device, self.dtype), weight)
            for c, weight in contexts
        ]
        data = getattr(self, f"{data}_data")
        return run(self.plan, data, columns, x.to(self.dtype), self.time_embed(t), kept).to(x.dtype)

    def guided(
        self,
        contexts: Mix,
        data: str,
        scale: float,
        nulls: Sequence[Context] | None = None,
        interval: tuple[float, float] | None = None,
    ) -> Eps:
        """Noise prediction with classifier-free guidance, ready for a sampler.

        Args:
            contexts: what conditions, with weights.
            data: "image" or "text": what is generated.
            scale: guidance; 1 is the plain conditional model.
            nulls: one context each to guide away from (a negative prompt); None takes
                `null_context`.
            interval: (low, high), the timesteps between which to guide; None: guide at every
                timestep.

        Returns:
            (x_t, t) -> eps. With `shortcuts`, both halves are one batch if small (`TOGETHER`) and
            alike in tokens, and keys of contexts are computed once where no gradients flow.

        Raises:
            ValueError: another number of nulls than of contexts.
        """
        contexts = list(contexts)
        if nulls is None and scale != 1:
            nulls = [self.null_context(c.kind, data, len(c)) for c, _ in contexts]
        against = opposed(contexts, nulls or [])
        together = stacked(against, contexts)

        def predictor(mix: Mix) -> Eps:
            kept = [{} for _ in mix]

            def predict(x: Tensor, t: int) -> Tensor:
                check_inputs(self.spec, x, contexts if mix is together else mix)  # of one half
                short = self.shortcuts and not torch.is_grad_enabled()
                return self._eps(x, t, mix, kept if short else None)

            return predict

        cond, null, both = map(predictor, (contexts, against, together or []))

        def halves(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            if together and self.shortcuts and 2 * x.numel() <= TOGETHER:
                return both(x, t).chunk(2)
            return null(x, t), cond(x, t)

        return guided(cond, null, scale, interval, halves)

    # ------------------------------------------------------------------ checks

    def _tokenizers(self) -> Tokenizers:
        if self.tokenizers is None:
            raise ValueError(
                f"{self.spec.name} was built without tokenizers, so it reads and writes no text: "
                "load it from a folder that has tokenizers/, or pass precomputed contexts."
            )
        return self.tokenizers
