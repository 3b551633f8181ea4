"""Stand-ins for the applications, whose effect on scenes is known exactly. They draw no noise."""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageOps

from analysis.measure.scene_inputs import counterpart
from data.scenes.captions import canonical_caption, parse
from data.scenes.world import ATTRIBUTE_VALUES, Scene
from tests.analysis.known_models import tagged


def pictures(scenes, seeds=None):
    seeds = range(len(scenes)) if seeds is None else seeds
    images = [tagged(scene, [seed, 1]) for scene, seed in zip(scenes, seeds, strict=True)]
    return SimpleNamespace(images=images, texts=[], record=None)


def switched(a, b, u):
    """The background is b's from 0.25 on, the style from 0.5, all else from 0.75."""
    things = b if u >= 0.75 else a
    return Scene(
        (b if u >= 0.25 else a).background,
        (b if u >= 0.5 else a).style,
        things.things,
        things.relation,
    )


class Exact:
    """Each application does just what it promises, as suddenly as can be."""

    def image_variation(self, vd, images, fidelity, **how):
        return SimpleNamespace(
            images=[Image.blend(x, ImageOps.invert(x), (1 - fidelity) / 2) for x in images]
        )

    def text_to_image(self, vd, texts, seed, **how):
        return pictures([parse(text) for text in texts], range(seed, seed + len(texts)))

    def focus(self, vd, images, levels, **how):
        scenes = []
        for image in images:
            a = image.info["scene"]
            b = counterpart(a, np.random.default_rng(0))
            look, content = Scene(b.background, b.style, a.things, a.relation), b
            content = Scene(a.background, a.style, b.things, b.relation)
            scenes += [look if v < 0.5 else content if v > 0.5 else a for v in levels]
        return pictures(scenes)

    def dual_guided(self, vd, images, texts, strength, **how):
        assert {how["scale_text"], how["scale_image"]} == {vd.spec.scale_text, vd.spec.scale_image}
        pairs = [(x.info["scene"], parse(t)) for x, t in zip(images, texts, strict=True)]
        return pictures([switched(a, b, s) for s in strength for a, b in pairs])

    def describe(self, vd, images, texts, strength, **how):
        made = self.dual_guided(vd, images, texts, strength, **how).images
        told = [canonical_caption(x.info["scene"]) for x in made]
        return SimpleNamespace(images=[], texts=told)

    def interpolate(self, vd, a, b, frames, seed, **how):
        a, b = parse(a), parse(b)
        scenes = [switched(a, b, k / (frames - 1)) for k in range(frames)]
        return pictures(scenes, [seed] * frames)

    def blend(self, vd, images, masks=None, **how):
        scene = images[0].info["scene"]
        if masks is None:
            return pictures([scene])
        halves = masks[0].split(32, dim=1 if scene.relation == "left of" else 0)
        kept = max((0, 1), key=lambda k: halves[k].mean())
        return pictures([Scene(scene.background, scene.style, (scene.things[kept],))])

    def edit(self, vd, images, source, target, **how):
        assert not {"n", "sampler", "scale"} & set(how)  # it inverts DDIM, at its own guidance
        for image, text in zip(images, source, strict=True):
            assert parse(text) == image.info["scene"]
        made = pictures([parse(text) for text in target])
        made.record = {"samples": [{"found": {"inversion_error": 0.01}} for _ in images]}
        return made

    def latent_edit(self, vd, image, remove, add, **how):
        scene = image.info["scene"]
        values = scene.attributes()
        for name, value in scene.attributes().items():
            if value in remove.split():
                (values[name],) = (v for v in ATTRIBUTE_VALUES[name] if v in add.split())
        made = pictures([Scene.from_attributes(values)])
        found = {
            "caption": canonical_caption(scene),
            "edited_caption": canonical_caption(made.images[0].info["scene"]),
        }
        made.record = {"samples": [{"found": found}]}
        return made


class Idle(Exact):
    """Nothing has an effect: whatever is asked, the input comes back; texts are nonsense."""

    def image_variation(self, vd, images, **how):
        return SimpleNamespace(images=images)

    def focus(self, vd, images, levels, **how):
        return pictures([image.info["scene"] for image in images for _ in levels])

    def dual_guided(self, vd, images, texts, strength, **how):
        return pictures([x.info["scene"] for _ in strength for x in images])

    def describe(self, vd, images, texts, strength, **how):
        return SimpleNamespace(images=[], texts=["red red banana"] * len(images) * len(strength))

    def interpolate(self, vd, a, b, frames, seed, **how):
        return pictures([parse(a)] * frames, [seed] * frames)

    def blend(self, vd, images, masks=None, **how):
        return pictures([images[0].info["scene"]])

    def edit(self, vd, images, source, target, **how):
        made = pictures([parse(text) for text in source])
        made.record = {"samples": [{"found": {"inversion_error": 0.9}} for _ in images]}
        return made

    def latent_edit(self, vd, image, remove, add, **how):
        made = pictures([image.info["scene"]])
        caption = canonical_caption(image.info["scene"])
        made.record = {"samples": [{"found": {"caption": caption, "edited_caption": "banana"}}]}
        return made


class Backwards(Exact):
    """Sliders the wrong way round, masks that hide the other thing, edits of everything."""

    def image_variation(self, vd, images, fidelity, **how):
        return super().image_variation(vd, images, 1 - fidelity, **how)

    def focus(self, vd, images, levels, **how):
        return super().focus(vd, images, [1 - v for v in levels], **how)

    def dual_guided(self, vd, images, texts, strength, **how):
        return super().dual_guided(vd, images, texts, [1 - s for s in strength], **how)

    def interpolate(self, vd, a, b, **how):
        return super().interpolate(vd, b, a, **how)

    def blend(self, vd, images, masks=None, **how):
        masks = masks and [1 - mask for mask in masks]
        return super().blend(vd, images, masks, **how)

    def edit(self, vd, images, source, target, **how):
        others = [
            canonical_caption(counterpart(parse(text), np.random.default_rng(0))) for text in target
        ]
        return super().edit(vd, images, source, others, **how)
