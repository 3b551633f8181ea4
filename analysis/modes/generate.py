"""The four flows: pictures and texts from pictures and texts.

|  | from text | from picture |
|---|---|---|
| **picture** | `text_to_image` | `image_variation` |
| **text** | `text_variation` | `image_to_text` |

All four are one function, `analysis.modes.flows.flow_job`, with another data column and context column:
the flow's name says which. Common to all:

- *Inputs*: one or a list. `n` samples of each; results are ordered by input, then sample.
- *Seeds*: sample k of input j has the seed `seed + j * n + k`, and is the same alone, in any batch,
  on any device, up to the rounding of floating-point sums. `seed=None` draws one and records it.
- *Defaults* of steps and scale are the model's own (`vd.spec`).
- *Negative prompt*: a text to be guided away from, in place of the null context. Also a picture's
  context is guided away from it: the unconditional branch then has the text as its only context.
  An empty one is none.
- *Precomputed contexts* (`context`) take the place of encoding the inputs, which may then be None.
  *Initial latents* (`latents`) take the place of the seeds' noise, one a sample.
- *Noise*: "official" is that of the released code, to compare with its results: one draw for the n
  samples of an input (`analysis.modes.settings`). Every input then has the seeds seed ... seed + n - 1.
- *Output*: pictures (PIL) and strings; or a "tensor" of pixels in [0, 1] or of token ids; or the
  scaled "latents" of x_0, not decoded (`analysis.modes.decoding`). Saved tensors are read again, and
  latents decoded later, by `analysis.modes.latents`.
- *Step by step*: `analysis.modes.flows.flow_job` takes the same arguments after a flow's name, and its
  `.steps()` is a generator of the sampler's steps, to look on, to record, or to stop early.
- *Memory* is bounded by `batch_size` samples. Many samples are safer made by `analysis.modes.batch.make`,
  which saves every batch and goes on where it was interrupted.

    >>> vd = load("vd-mini")                                                  # lib.checkpoints.weights.load
    >>> result = text_to_image(vd, "a large red circle on a white background", n=4, seed=20)
    >>> save(result)                                                      # analysis.results.outputs.save
"""

from __future__ import annotations

from torch import Tensor

from analysis.modes.flows import Pictures, Texts, flow_job
from analysis.modes.inputs import known_options
from analysis.results import Result
from lib.model import Context, VersatileDiffusion


@known_options
def text_to_image(
    vd: VersatileDiffusion,
    texts: Texts | None = None,
    *,
    n: int = 1,
    seed: int | None = None,
    steps: int | None = None,
    scale: float | None = None,
    negative_prompt: str | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    interval: tuple[float, float] | None = None,
    context: Context | None = None,
    latents: Tensor | None = None,
    noise: str = "sample",
    output: str = "pil",
    batch_size: int | None = None,
    progress: bool = True,
) -> Result:
    """Pictures from texts.

    Args:
        vd: a model with the flow "t2i".
        texts: prompts; None with `context`.
        n: pictures a prompt.
        seed: of the first picture (see the module).
        steps: sampling steps, 1 to 500.
        scale: guidance, 0 or more; 1 is the plain conditional model.
        negative_prompt: what to guide away from.
        sampler: "ddim", or of second order "dpmpp_2m" or "heun" (`lib.sampler`).
        eta: 0 (deterministic) to 1 (fresh noise at every step); "ddim" only.
        interval: (low, high) timesteps between which to guide; None guides at all of them.
        context: precomputed text context, (inputs, tokens, width).
        latents: (inputs * n, C, h, w) initial noise.
        noise: "sample" or "official" (see the module).
        output: "pil", "tensor" or "latents" (see the module).
        batch_size: pictures in memory at a time.
        progress: show a bar.

    Returns:
        Pictures, `inputs * n` of them.

    Raises:
        TypeError: an option that there is not.
        ValueError: an empty or too long text, or an argument out of range.
    """
    job = flow_job(
        vd,
        "t2i",
        texts,
        n=n,
        seed=seed,
        steps=steps,
        scale=scale,
        negative_prompt=negative_prompt,
        sampler=sampler,
        eta=eta,
        interval=interval,
        context=context,
        latents=latents,
        noise=noise,
        output=output,
        batch_size=batch_size,
    )
    return job.result(progress)


@known_options
def image_variation(
    vd: VersatileDiffusion,
    images: Pictures | None = None,
    *,
    n: int = 1,
    seed: int | None = None,
    steps: int | None = None,
    scale: float | None = None,
    fidelity: float = 0.0,
    color_match: float | None = None,
    color_method: str = "mean_std",
    negative_prompt: str | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    interval: tuple[float, float] | None = None,
    context: Context | None = None,
    latents: Tensor | None = None,
    noise: str = "sample",
    output: str = "pil",
    batch_size: int | None = None,
    progress: bool = True,
) -> Result:
    """Other pictures with the same content.

    With `fidelity` f > 0, denoising does not start from noise but from the input's latent (the
    posterior's mean), noised to the `int(S (1 - f))`-th of S timesteps. Where that leaves no step
    (f = 1, or close to it) the result is the input, as the VAE decodes it.

    Args:
        vd: a model with the flow "i2i", and the image encoder if `fidelity` > 0.
        images: pictures or their files, of any mode and size; None with `context`.
        n: variations a picture.
        seed: of the first variation (see the module).
        steps, scale, sampler, eta, interval: as in `text_to_image`.
        fidelity: 0 (only the content) to 1 (the picture itself).
        color_match: None, or the share of its own colours that a variation keeps when the input's
            are put on it: 0 (all replaced) to 1.
        color_method: "mean_std" or "histogram", see `analysis.modes.color`.
        negative_prompt: a text to guide away from; needs the components clip_text and text_context.
        context: precomputed image context, (inputs, tokens, width). With `images` given, too, those
            serve `fidelity` and `color_match` alone.
        latents: (inputs * n, C, h, w) initial noise; with `fidelity`, what the input is noised by.
        noise, output: as in `text_to_image`; latents come before colours are matched.
        batch_size: pictures in memory at a time.
        progress: show a bar.

    Returns:
        Pictures, `inputs * n` of them.

    Raises:
        TypeError: an option that there is not.
        ValueError: a file that is missing or no picture, or an argument out of range.
    """
    job = flow_job(
        vd,
        "i2i",
        images,
        n=n,
        seed=seed,
        steps=steps,
        scale=scale,
        fidelity=fidelity,
        color_match=color_match,
        color_method=color_method,
        negative_prompt=negative_prompt,
        sampler=sampler,
        eta=eta,
        interval=interval,
        context=context,
        latents=latents,
        noise=noise,
        output=output,
        batch_size=batch_size,
    )
    return job.result(progress)


@known_options
def image_to_text(
    vd: VersatileDiffusion,
    images: Pictures | None = None,
    *,
    n: int = 1,
    seed: int | None = None,
    steps: int | None = None,
    scale: float | None = None,
    temperature: float | None = None,
    negative_prompt: str | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    interval: tuple[float, float] | None = None,
    context: Context | None = None,
    latents: Tensor | None = None,
    noise: str = "sample",
    output: str = "pil",
    batch_size: int | None = None,
    progress: bool = True,
) -> Result:
    """Texts that say what pictures show.

    Args:
        vd: a model with the flow "i2t".
        images: pictures or their files, of any mode and size; None with `context`.
        n: texts a picture.
        seed: of the first text (see the module).
        steps, scale, sampler, eta, interval: as in `text_to_image`.
        temperature: of decoding the text latent: 0 takes the most likely token; None is the
            model's default.
        negative_prompt: a text to guide away from; needs the components clip_text and text_context.
        context: precomputed image context, (inputs, tokens, width).
        latents: (inputs * n, D) initial noise.
        noise, output: as in `text_to_image`.
        batch_size: texts in memory at a time.
        progress: show a bar.

    Returns:
        Texts, `inputs * n` of them.

    Raises:
        TypeError: an option that there is not.
        ValueError: a file that is missing or no picture, or an argument out of range.
    """
    job = flow_job(
        vd,
        "i2t",
        images,
        n=n,
        seed=seed,
        steps=steps,
        scale=scale,
        temperature=temperature,
        negative_prompt=negative_prompt,
        sampler=sampler,
        eta=eta,
        interval=interval,
        context=context,
        latents=latents,
        noise=noise,
        output=output,
        batch_size=batch_size,
    )
    return job.result(progress)


@known_options
def text_variation(
    vd: VersatileDiffusion,
    texts: Texts | None = None,
    *,
    n: int = 1,
    seed: int | None = None,
    steps: int | None = None,
    scale: float | None = None,
    fidelity: float = 0.0,
    temperature: float | None = None,
    negative_prompt: str | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    interval: tuple[float, float] | None = None,
    context: Context | None = None,
    latents: Tensor | None = None,
    noise: str = "sample",
    output: str = "pil",
    batch_size: int | None = None,
    progress: bool = True,
) -> Result:
    """Other texts with the same content.

    Args:
        vd: a model with the flow "t2t", and the text encoder if `fidelity` > 0.
        texts: what to vary; None with `context`.
        n: variations a text.
        seed: of the first variation (see the module).
        steps, scale, negative_prompt, sampler, eta, interval: as in `text_to_image`.
        fidelity: 0 (only the content) to 1 (the text itself, as the text VAE decodes it), as in
            `image_variation`.
        temperature: as in `image_to_text`.
        context: precomputed text context, (inputs, tokens, width).
        latents: (inputs * n, D) initial noise.
        noise, output: as in `text_to_image`.
        batch_size: texts in memory at a time.
        progress: show a bar.

    Returns:
        Texts, `inputs * n` of them.

    Raises:
        TypeError: an option that there is not.
        ValueError: an empty or too long text, or an argument out of range.
    """
    job = flow_job(
        vd,
        "t2t",
        texts,
        n=n,
        seed=seed,
        steps=steps,
        scale=scale,
        fidelity=fidelity,
        temperature=temperature,
        negative_prompt=negative_prompt,
        sampler=sampler,
        eta=eta,
        interval=interval,
        context=context,
        latents=latents,
        noise=noise,
        output=output,
        batch_size=batch_size,
    )
    return job.result(progress)
