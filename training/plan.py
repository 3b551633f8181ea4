"""What a stage would take, computed from its sizes alone: no weights, no data, no training."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lib.components import build
from lib.config import FLOWS, ModelSpec
from lib.model import Context, VersatileDiffusion
from lib.specs import VD_EMOJI, VD_FOUR_FLOW_V1_0, VD_MINI
from training import memory
from training.datasets import NAMED
from training.export import current_spec
from training.flows import FlowOptions, parts_of
from training.lora import adapt
from training.recipes import chosen
from training.stage import Recipe, native_bf16

BYTES = 4 + 4 + 4  # a trained parameter: weight, gradient, average; the optimizer's moments besides
SHARE = 0.4  # of a machine's matrix products a second that training reaches


def plan(stage: str, args: argparse.Namespace) -> str:
    """Parameters, memory, samples and hours of a stage's last run, a line each.

    Hours are those of this machine's main processor: operations counted on the sizes, over `SHARE`
    of the matrix products a second that it does in a quick test.
    """
    preset = chosen(args, stage)
    recipe, spec = preset.recipes[stage][-1], _spec(args)
    if stage == "classifier":
        return "classifier: minutes; it is small, and no part of the model"
    with torch.device("meta"), _Counted() as counter:
        modules, samples, forward, of = _parts(stage, spec, recipe, preset.options)
        largest = _computed_twice(modules, forward) if args.checkpoint_activations else 0
        counter.operations = 0
        with _saved() as saved:
            out = forward()
            kept = saved() + largest
            torch.stack([part.float().sum() for part in out]).sum().backward()
    parameters = memory.trained(modules)
    trained = sum(p.numel() for p in parameters)
    frozen = sum(p.numel() for p in modules.parameters()) - trained
    total = samples * recipe.accumulate * recipe.steps
    operations = counter.operations / of * recipe.batch * recipe.accumulate
    hours = operations * recipe.steps / (SHARE * _products_a_second()) / 3600
    gigabyte = 1e9
    moments = sum(_moments(p, recipe.optimizer) * p.numel() for p in parameters)
    fixed, varying = trained * BYTES + (moments + frozen) * 4, kept / of * recipe.batch
    return "\n".join(
        (
            f"{stage} of {spec.name}: {trained / 1e6:.1f} M parameters trained, "
            f"{frozen / 1e6:.1f} M frozen",
            f"  memory: {fixed / gigabyte:.2f} GB for weights, gradients, optimizer and average, "
            f"{varying / gigabyte:.2f} GB for activations (float32)",
            f"  optimizer: {_optimizer(stage, args, recipe)}",
            f"  samples: {recipe.steps} steps of {samples * recipe.accumulate} = "
            f"{total / 1e6:.2f} M",
            f"  time: {operations * recipe.steps:.2g} operations, about {hours:.2g} hours on this "
            "processor",
        )
    )


def _optimizer(stage: str, args: argparse.Namespace, recipe: Recipe) -> str:
    """Whose moments are counted, and why, if they are not those of the recipe."""
    if recipe.optimizer == "muon":
        return "Muon for matrices, AdamW for the rest"
    alone = argparse.Namespace(**{**vars(args), "shard": False})
    if chosen(alone, stage).recipes[stage][-1].optimizer == "muon":
        return "AdamW instead of the recipe's Muon, whose matrices --shard would divide"
    return "AdamW"


def _spec(args: argparse.Namespace) -> ModelSpec:
    fresh = VD_MINI if args.data == "scenes" else VD_EMOJI
    known = {s.name: s for s in (VD_MINI, VD_EMOJI, VD_FOUR_FLOW_V1_0)}
    if args.init in known:
        spec = known[args.init]
    elif args.init is not None and (Path(args.init) / "config.json").exists():
        spec = current_spec(Path(args.init), fresh)
    else:
        spec = current_spec(args.out, fresh)
    own = args.side and args.data not in NAMED
    return replace(spec, image_size=args.side) if own else spec


def _parts(
    stage: str, spec: ModelSpec, recipe: Recipe, options: FlowOptions
) -> tuple[nn.ModuleDict, int, Callable[[], list[Tensor]], int]:
    """Modules, samples of a step, and a forward pass of so many samples of the batch."""
    if stage == "flows":
        names: tuple[str, ...] = parts_of(options)
    else:
        names = {
            "autoencoder": ("image_encoder", "image_decoder"),
            "clip": ("clip_text", "clip_vision"),
            "optimus": ("text_encoder", "text_decoder"),
        }[stage]
    modules = nn.ModuleDict({name: build(spec, name) for name in names})
    side, vision, words = spec.image_size, spec.clip.vision, spec.text_vae
    samples, of = recipe.batch, 1
    if stage == "autoencoder":

        def forward() -> list[Tensor]:
            mean, _ = modules["image_encoder"](torch.zeros(1, 3, side, side))
            return [modules["image_decoder"](mean)]

    elif stage == "clip":

        def forward() -> list[Tensor]:
            ids = torch.zeros(1, spec.clip.text.positions, dtype=torch.long)
            picture = torch.zeros(1, 3, vision.image_size, vision.image_size)
            return [modules["clip_text"](ids), modules["clip_vision"](picture)]

    elif stage == "optimus":

        def forward() -> list[Tensor]:
            mean, _ = modules["text_encoder"](torch.ones(1, words.max_input, dtype=torch.long))
            ids = torch.ones(1, words.max_output, dtype=torch.long)
            return [modules["text_decoder"](ids, mean)]

    else:
        vd = VersatileDiffusion(spec, dict(modules))
        lengths = {"image": vision.tokens, "text": spec.clip.text.positions}
        samples = sum(round(recipe.batch * share) for share in options.share.values())
        of = 10  # shares are tenths of the batch
        memory.freeze(modules, options.frozen)
        if options.lora is not None:
            adapt(vd, options.lora, options.lora_layers, recipe.seed)

        def forward() -> list[Tensor]:
            out = []
            for flow, share in options.share.items():
                data, context = FLOWS[flow]
                n = max(1, round(of * share))
                tokens = torch.zeros(n, lengths[context], spec.clip.projection)
                latents = torch.zeros(n, *spec.latent_shape(data))
                t = torch.zeros(n, dtype=torch.long)
                out.append(vd.eps(latents, t, [(Context(context, tokens), 1.0)]))
            return out

    return modules, samples, forward, of


class _Counted(TorchDispatchMode):
    """Counts multiplications and additions, as torch's `FlopCounterMode` (in half of its time).

    Where a network looks at values to check its input, which meta tensors lack, all is well.
    """

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def _moments(parameter: nn.Parameter, optimizer: str) -> int:
    """Numbers that an optimizer keeps of each of a parameter's."""
    matrix = min(len(parameter), parameter.numel() // len(parameter)) > 1
    return 1 if optimizer == "muon" and parameter.ndim > 1 and matrix else 2


def _computed_twice(modules: nn.ModuleDict, forward: Callable[[], Any]) -> int:
    """Have blocks run again in the backward pass; returns the bytes that one then needs at most."""
    sizes = [0]

    def measured(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _saved() as saved:
            out = run(*args, **kwargs)
        sizes.append(saved())
        return out

    blocks = [module for module in modules.modules() if isinstance(module, memory.BLOCKS)]
    for block in blocks:
        block.forward = partial(measured, block.forward)
    forward()
    for block in blocks:
        del block.forward
    memory.recompute(modules)
    return max(sizes)


@contextmanager
def _saved() -> Iterator[Callable[[], int]]:
    """Counts the bytes that autograd keeps for the backward pass, each tensor once."""
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no number of a storage is used twice

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(seen.values())


def _products_a_second(n: int = 1024, seconds: float = 0.5) -> float:
    bf16 = native_bf16(torch.device("cpu"))
    a = torch.rand(n, n, dtype=torch.bfloat16 if bf16 else torch.float32)
    a @ a
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return count * 2 * n**3 / (time.perf_counter() - start)
