"""Compare this implementation, number by number, with the authors' own code on a small model.

    python -m tests.golden FILE.safetensors [--config CONFIG.json]

FILE holds inputs, and what the authors' code made of them. The model's weights are a recipe (see
`recipe`): this tool writes them as a checkpoint in the official layout, with keys taken from the
model's own structure, loads it through `lib.checkpoints.load` like any other, and recomputes every
entry. What is computed follows from an entry's name:

    eps.{data}_from_{context}                     one noise prediction
    eps.{data}_from_{c1}+{c2}.{w1}_{w2}           contexts mixed, with those weights
    ddim{S}.timesteps | alphas | alphas_prev      the S-step subsequence
    ddim{S}.{data}_from_{context}                 S steps from x_{data}, guided
    ddim{S}.{data}_from_{c1}{w1}+{c2}{w2}         the same, contexts mixed
    autokl.* optimus.* clip.*                     the VAEs and the context encoders
    rank.{level}                                  focus of the local tokens rank.input

Prints a line an entry and last the largest relative error, where relative means to
max(1, max |reference|). The exit status is 1 if an entry is off by more than its tolerance or is
not understood, or if a file cannot be read or no model has the sizes of CONFIG.

Everything runs in float32, as the references did. An entry that is off is computed once more in
float64, and passes (its line says so) if that agrees: then only rounding was to blame. It happens
where a GroupNorm has two numbers a group, as in a very narrow text column: it divides by their
distance, so where that is small the last digit of one becomes the fourth of the result.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.modes.focus import focus_tokens
from lib.checkpoints import keymaps, load
from lib.components import build
from lib.config import COMPONENTS, ModelSpec
from lib.guidance import guided
from lib.model import Context, VersatileDiffusion
from lib.sampler import ddim
from tests.released_config import read_released

CONFIG = Path(__file__).parent / "fixtures" / "tiny_config.json"
TOLERANCE = 1e-4
RANK_TOLERANCE = 2e-3
SCALES = {"text": 7.5, "image": 3.0}
MIXED_SCALE = 7.5
LATENT_SCALE = 0.18215

INPUTS = re.compile(
    r"x_(image|text)|[cu]_(image|text)|t|autokl\.input|optimus\.(bert_ids|gpt2_ids|gpt2_latent)"
    r"|clip\.(ids|pixels|mask)|rank\.input"
)
_KIND = "(image|text)"
_NUMBER = r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)"


# ---------------------------------------------------------------------- the checkpoint


def recipe(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a weight, as a function of its name and shape.

    Standard normal numbers seeded by the name's CRC-32; divided by the square root of the fan-in
    where there are two or more axes, else 2 % noise around 0 (around 1 for `.weight`).
    """
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    x = state.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)
    if len(shape) >= 2:
        x = x / np.float32(np.sqrt(np.prod(shape[1:])))
    elif key.endswith(".weight"):
        x = 1 + np.float32(0.02) * x
    else:
        x = np.float32(0.02) * x
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def official_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a full checkpoint in the official layout, known-optional keys included."""
    shapes = dict.fromkeys(keymaps.SCHEDULE_BUFFERS[:12], (spec.num_timesteps,))
    for component in COMPONENTS:
        with torch.device("meta"):
            module = build(spec, component)
        for name, tensor in module.state_dict().items():
            (key,) = keymaps.file_keys("official", spec, component, name)
            shapes[key] = tuple(tensor.shape)
            if component.startswith("clip_"):  # CLIP is stored whole for either kind of context
                other = {"ctx.text": "ctx.image", "ctx.image": "ctx.text"}
                start = key[: key.index(".model.")]
                shapes[other[start] + key.removeprefix(start)] = tuple(tensor.shape)
    positions = spec.text_vae.gpt2_positions
    for layer in range(spec.text_vae.gpt2_layers):
        shapes[f"vae.text.decoder.transformer.h.{layer}.attn.bias"] = (1, 1, positions, positions)
    shapes["ctx.text.model.logit_scale"] = shapes["ctx.image.model.logit_scale"] = ()
    return shapes


def checkpoint(spec: ModelSpec) -> dict[str, Tensor]:
    """The recipe's checkpoint of a model, in the official layout."""
    wte = "vae.text.decoder.transformer.wte.weight"
    tied = {"vae.text.decoder.lm_head.weight": wte}
    tensors = {}
    for key, shape in official_shapes(spec).items():
        if "." not in key or re.search(r"\.attn\.bias$|logit_scale$", key):
            # carried along by released files, read by nobody: any values will do
            tensors[key] = torch.zeros(shape)
        else:
            tensors[key] = recipe(tied.get(key, key), shape)
    return tensors


def load_recipe(spec: ModelSpec) -> VersatileDiffusion:
    """Write the recipe's checkpoint and load it through the public loader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.safetensors"
        save_file(checkpoint(spec), path)
        return load(path, spec=spec, device="cpu", dtype=torch.float32)


# ---------------------------------------------------------------------- the entries


class Unknown(ValueError):
    """An entry whose name is not understood, or whose inputs are not in the file."""


class Entries:
    """Recomputes the entries of a golden file."""

    def __init__(self, vd: VersatileDiffusion, given: dict[str, Tensor]) -> None:
        self.vd = vd
        self.given = {
            name: x.to(vd.dtype) if x.is_floating_point() else x for name, x in given.items()
        }
        self.rules: list[tuple[str, Callable[..., Tensor]]] = [
            (rf"eps\.{_KIND}_from_{_KIND}", self.eps),
            (rf"eps\.{_KIND}_from_{_KIND}\+{_KIND}\.{_NUMBER}_{_NUMBER}", self.eps_mixed),
            (r"ddim(\d+)\.(timesteps|alphas|alphas_prev)", self.subsequence),
            (rf"ddim(\d+)\.{_KIND}_from_{_KIND}", self.ddim),
            (rf"ddim(\d+)\.{_KIND}_from_{_KIND}{_NUMBER}\+{_KIND}{_NUMBER}", self.ddim_mixed),
            (r"autokl\.(mean|logvar)", self.autokl_encode),
            (r"autokl\.decoded", self.autokl_decode),
            (r"optimus\.(mu|logvar)", self.optimus_encode),
            (r"optimus\.gpt2_logits", self.optimus_logits),
            (r"optimus\.greedy", self.optimus_greedy),
            (r"clip\.text_context", self.clip_text),
            (r"clip\.image_context(_masked)?", self.clip_image),
            (rf"rank\.{_NUMBER}", self.rank),
        ]

    @torch.no_grad()
    def compute(self, name: str) -> Tensor:
        """What this implementation makes of the entry's inputs.

        Raises:
            Unknown: there is no such kind of entry, or an input is missing.
        """
        for pattern, rule in self.rules:
            match = re.fullmatch(pattern, name)
            if match:
                return rule(*match.groups())
        raise Unknown("not an entry that is known")

    def input(self, name: str) -> Tensor:
        if name not in self.given:
            raise Unknown(f"needs {name}, which is not in the file")
        return self.given[name]

    def contexts(
        self, prefix: str, kinds: tuple[str, ...], weights: tuple[float, ...]
    ) -> list[tuple[Context, float]]:
        pairs = zip(kinds, weights, strict=True)
        return [(Context(k, self.input(f"{prefix}_{k}")), w) for k, w in pairs if w > 0]

    def eps(self, data: str, kind: str) -> Tensor:
        contexts = self.contexts("c", (kind,), (1.0,))
        return self.vd.eps(self.input(f"x_{data}"), self.input("t"), contexts)

    def eps_mixed(self, data: str, first: str, second: str, w1: str, w2: str) -> Tensor:
        contexts = self.contexts("c", (first, second), (float(w1), float(w2)))
        return self.vd.eps(self.input(f"x_{data}"), self.input("t"), contexts)

    def subsequence(self, steps: str, what: str) -> Tensor:
        timesteps = self.vd.schedule.timesteps(int(steps), "released")
        if what == "timesteps":
            return torch.tensor(timesteps)
        alphas, alphas_prev = self.vd.schedule.ddim_alphas(timesteps)
        return alphas if what == "alphas" else alphas_prev

    def ddim(self, steps: str, data: str, kind: str) -> Tensor:
        return self._ddim(int(steps), data, (kind,), (1.0,), SCALES[kind])

    def ddim_mixed(self, steps: str, data: str, k1: str, w1: str, k2: str, w2: str) -> Tensor:
        return self._ddim(int(steps), data, (k1, k2), (float(w1), float(w2)), MIXED_SCALE)

    def _ddim(
        self,
        steps: int,
        data: str,
        kinds: tuple[str, ...],
        weights: tuple[float, ...],
        scale: float,
    ) -> Tensor:
        cond = self.contexts("c", kinds, weights)
        null = self.contexts("u", kinds, weights)
        eps = guided(
            lambda x, t: self.vd.eps(x, t, cond), lambda x, t: self.vd.eps(x, t, null), scale
        )
        x = self.input(f"x_{data}")
        timesteps = self.vd.schedule.timesteps(steps, "released")
        for step in ddim(eps, x, self.vd.schedule, timesteps):
            x = step.x
        return x

    def autokl_encode(self, what: str) -> Tensor:
        mean, logvar = self.vd.image_encoder(self.input("autokl.input"))
        return mean if what == "mean" else logvar

    def autokl_decode(self) -> Tensor:
        return self.vd.decode_image(LATENT_SCALE * self.autokl_encode("mean"))

    def optimus_encode(self, what: str) -> Tensor:
        mu, logvar = self.vd.text_encoder(self.input("optimus.bert_ids"))
        return mu if what == "mu" else logvar

    def optimus_logits(self) -> Tensor:
        ids, z = self.input("optimus.gpt2_ids"), self.input("optimus.gpt2_latent")
        return self.vd.text_decoder(ids, z)

    def optimus_greedy(self) -> Tensor:
        ids, z = self.input("optimus.gpt2_ids"), self.input("optimus.gpt2_latent")
        new = self.given["optimus.greedy"].shape[-1] - 1
        rows = [
            # no id ends the text: exactly `new` tokens are appended
            self.vd.text_decoder.generate(one[None], int(row[0]), -1, new, temperature=0)[0]
            for row, one in zip(ids, z, strict=True)
        ]
        return torch.tensor(rows)

    def clip_text(self) -> Tensor:
        return self.vd.clip_text(self.input("clip.ids"))

    def clip_image(self, masked: str | None) -> Tensor:
        mask = self.input("clip.mask") if masked else None
        return self.vd.clip_vision(self.input("clip.pixels"), mask)

    def rank(self, level: str) -> Tensor:
        return focus_tokens(self.input("rank.input"), float(level))


# ---------------------------------------------------------------------- the comparison


def difference(reference: Tensor, own: Tensor) -> float:
    """max |own - reference| / max(1, max |reference|).

    Infinite where shapes differ, and where integers (ids, timesteps) differ at all.
    """
    if reference.shape != own.shape:
        return float("inf")
    if not reference.is_floating_point():
        return 0.0 if torch.equal(reference, own.to(reference.dtype)) else float("inf")
    if not reference.numel():
        return 0.0
    reference, own = reference.double(), own.double()
    error = (own - reference).abs().max() / reference.abs().max().clamp(min=1)
    return error.item() if error.isfinite() else float("inf")


def compare(given: dict[str, Tensor], vd: VersatileDiffusion) -> tuple[list[str], bool]:
    """The report's lines, and whether every entry was understood and within its tolerance."""
    entries, exact, lines, passed = Entries(vd, given), None, [], True
    worst, where = -1.0, ""
    for name in sorted(given):
        if INPUTS.fullmatch(name):
            lines.append(f"{name:42} input")
            continue
        tolerance = RANK_TOLERANCE if name.startswith("rank.") else TOLERANCE
        try:
            error = difference(given[name], entries.compute(name))
            note = ""
            if error > tolerance:
                exact = exact or Entries(copy.deepcopy(vd).double(), given)
                rounded, error = error, difference(given[name], exact.compute(name))
                note = f" (in float64; in float32 {rounded:.1e})"
        except (ValueError, RuntimeError, IndexError) as reason:  # shapes that do not fit, too
            lines.append(f"{name:42} FAILED  {reason}")
            passed = False
            continue
        good = error <= tolerance
        passed = passed and good
        verdict = f"ok{note}" if good else f"FAILED  (over {tolerance:g})"
        lines.append(f"{name:42} {error:9.2e}  {verdict}")
        if error > worst:
            worst, where = error, name
    if not where:
        return [*lines, "nothing was compared: the file holds no reference that is known"], False
    return [*lines, f"largest relative error {worst:.2e} ({where})"], passed


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    summary = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=summary)
    parser.add_argument("file", type=Path, help="a golden file (.safetensors)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="sizes of its model (JSON)")
    options = parser.parse_args(arguments)
    try:
        spec = read_released(json.loads(options.config.read_text()), "golden")
        given = load_file(options.file)
    except KeyError as error:
        print(f"{options.config} lacks the size {error}.", file=sys.stderr)
        return 1
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        print(f"Cannot read {options.file} or {options.config}: {error}", file=sys.stderr)
        return 1
    try:
        vd = load_recipe(spec)
    except Exception as error:  # torch and transformers refuse sizes by a dozen classes
        told = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"The model of {options.config} cannot be built ({told}).", file=sys.stderr)
        return 1
    lines, passed = compare(given, vd)
    print("\n".join(lines))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
