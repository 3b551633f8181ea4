"""What the card of a model of drawn scenes says besides its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.measure.model_card import Card
from data.scenes.judge import JUDGE_FOLDER
from data.scenes.world import BACKGROUNDS, COLORS, HELD_OUT, RELATIONS, SHAPES, SIZES, STYLES


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)


_STEPS, _FEWER = ("sweep_steps", "t2i"), "all_minus_ddim_50"

CARD = Card(
    headlines=(
        ("text to image", "every attribute right", ("t2i", "test", "all")),
        ("", "of scenes with one object", ("t2i", "test", "one_object")),
        ("", "of scenes with two objects", ("t2i", "test", "two_objects")),
        ("", "of never-seen colour-shape pairs", ("t2i", "heldout", "all")),
        ("image variation", "every attribute kept", ("i2i", "semantics_kept", "all")),
        ("", "variety, 1 = real renders", ("i2i", "diversity_where_kept", "pixels_ratio")),
        ("image to text", "exactly the scene", ("i2t", "exact_scene")),
        ("", "a scene at all", ("i2t", "parsed")),
        ("text variation", "the same scene", ("t2t", "same_scene")),
        ("", "in other words than the input", ("t2t", "reworded")),
        ("image VAE", "reconstruction (PSNR)", ("reconstruction", "image", "psnr")),
        ("text VAE", "captions returned word for word", ("reconstruction", "text", "exact_match")),
    ),
    extras=(
        (
            "image variation",
            "every attribute kept, never-seen pairs",
            ("i2i", "heldout", "semantics_kept", "all"),
        ),
        ("image to text", "exactly the scene, never-seen pairs", ("i2t", "heldout", "exact_scene")),
        ("", "of these, scenes with one object", ("i2t", "heldout", "one_object")),
        ("", "of these, scenes with two objects", ("i2t", "heldout", "two_objects")),
        ("text variation", "the same scene, never-seen pairs", ("t2t", "heldout", "same_scene")),
        ("fewer steps", "20 of dpmpp_2m minus 50 of ddim", (*_STEPS, "dpmpp_2m, 20", _FEWER)),
        ("", "20 of heun minus 50 of ddim", (*_STEPS, "heun, 20", _FEWER)),
        (
            "visual search",
            "a caption finds its picture first",
            ("search", "text_to_image", "recall@1"),
        ),
        ("", "among the first 5", ("search", "text_to_image", "recall@5")),
        ("", "among the first 10", ("search", "text_to_image", "recall@10")),
        ("", "a picture finds another of its scene", ("search", "image_to_image", "recall@1")),
        ("", "among the first 5", ("search", "image_to_image", "recall@5")),
        ("", "among the first 10", ("search", "image_to_image", "recall@10")),
        ("captions", "exactly the scene, best of several", ("caption", "exact_scene")),
        ("", "the first of them", ("caption", "of_first", "exact_scene")),
        ("", "best minus first", ("caption", "best_minus_first")),
    ),
    inputs="scenes that training never saw",
    readers="What a picture shows is read by a classifier that gets at least {judge} of each "
    "attribute of real renders right; what a caption says, by a parser.",
    breakdown=(
        "Share right of each attribute, over the scenes that have it:",
        {
            "text to image": ("t2i", "test", "attributes"),
            "never-seen pairs": ("t2i", "heldout", "attributes"),
            "image variation": ("i2i", "semantics_kept", "attributes"),
            "image to text, where readable": ("i2t", "attributes_where_readable"),
        },
    ),
    origin="""\
It was trained from nothing by `training/`, on a world of drawn scenes, so
that the code can be run, tested and studied without the released model's gigabytes.""",
    world=f"""\
Renders and captions of random scenes, made by `data/scenes/` while training: no photographs, no
texts from elsewhere, no personal data.

| a scene has | |
|---|---|
| a background | {_listed(BACKGROUNDS)} |
| a style | {_listed(STYLES)} |
| one or two objects, each of a size, | {_listed(SIZES)} |
| a colour | {_listed(COLORS)} |
| and a shape | {_listed(SHAPES)} |
| a relation of the two | {_listed(RELATIONS)} |
| **never in training** | test and validation scenes; {_listed([" ".join(p) for p in HELD_OUT])} |

(The judge, which is no part of the model, has seen the pairs of the last line, but no test scene.)\
""",
    limits="""\
- It knows nothing but these scenes. A photograph, a drawing of anything else, or a word outside the
  captions' vocabulary gives a scene all the same, and one that means nothing.
- One or two objects, {side} x {side} pixels, English in the grammar of
  `data/scenes/captions.py`.
- The numbers above are about scenes, and about what this project's own classifier and parser read.
  They say nothing about the released model or about pictures of the real world.""",
    not_for="""\
It was never trained for, and must not be used for: pictures or descriptions of people or of the
real world, decisions about anybody or anything, comparisons of Versatile Diffusion with other
models.""",
    licence="MIT, as the code.",
    judge=JUDGE_FOLDER,
)
