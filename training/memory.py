"""Models larger than a device holds: activations computed twice, weights divided over processes.

`recompute` keeps only what enters a block; the block runs again in the backward pass (Chen et al.
2016). `Sharded` gives each process a part of every weight, gradient, moment and average (torch's
FSDP2); a block's weights are whole only while it runs. Checkpoints hold whole weights either way,
so what some processes began, divided or not, any other number goes on with.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.bert.modeling_bert import BertLayer

from lib.blocks import ResidualBlock
from lib.clip import Layer
from lib.kl_vae import ResnetBlock
from lib.transformer import ContextLayer
from lib.unet import ContextColumn, DataColumn

if TYPE_CHECKING:
    from training.stage import Stage

BLOCKS = (ResidualBlock, ContextLayer, ResnetBlock, BertLayer, Layer)
"""What runs twice. The text decoder's layers do not: they write into a cache."""


def recompute(modules: nn.Module) -> None:
    """Have all blocks run again in the backward pass instead of keeping their activations."""
    for module in modules.modules():
        if isinstance(module, BLOCKS):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


class Sharded(nn.Module):
    """A stage whose weights are divided over all processes; calling it gives the step's loss.

    Args:
        stage: of the diffuser; its modules are divided in place.
        device: of this process.

    Raises:
        ValueError: another stage, or no other process.
    """

    def __init__(self, stage: Stage, device: torch.device) -> None:
        if stage.name != "flows" or not dist.is_initialized():
            raise ValueError(
                "--shard divides the diffuser over processes: give it with the stage flows, to "
                "several of them (python -m torch.distributed.run --nproc-per-node 2 -m -- ...)."
            )
        super().__init__()
        # it is about in-place operations, of which the diffuser has none
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        self.whole = [deepcopy(stage.modules).to("meta")]  # in a list: no part of this module
        self.stage, self.parts = stage, stage.modules
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        columns = (m for m in self.parts.values() if isinstance(m, (DataColumn, ContextColumn)))
        for module in (*(block for m in columns for block in next(m.children())), self):
            fully_shard(module, mesh=mesh)
            module.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo has no means

    def forward(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        """As `Stage.loss`."""
        return self.stage.loss(step, rng)

    def gathered(self, device: torch.device) -> Stage:
        """The stage with its weights whole again; all processes have to ask for it."""
        modules = self.whole[0].to_empty(device=device)
        modules.load_state_dict({k: whole(v, v) for k, v in self.parts.state_dict().items()})
        return self.stage.twin(modules)


def trained(modules: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [p for p in modules.parameters() if p.requires_grad]


def freeze(modules: nn.ModuleDict, names: tuple[str, ...]) -> None:
    """Have some parameter groups keep the weights they have.

    Raises:
        ValueError: there is no such group, or nothing is left to be trained.
    """
    if not {*names} < {*modules}:
        raise ValueError(
            f"There is no freezing {', '.join(names)}: choose parameter groups from "
            f"{', '.join(modules)}, but not all of them."
        )
    for name in names:
        modules[name].requires_grad_(False)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all, or its share."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_part(parameter: nn.Parameter) -> nn.Parameter:
    """What this process has of a parameter, in the same memory: all, or its share.

    Optimizer and average work on these: torch's operations on lists of divided tensors need time
    that grows with the square of their number.
    """
    divided = isinstance(parameter, DTensor)
    return nn.Parameter(parameter.to_local()) if divided else parameter


def hand_over(parameters: list[nn.Parameter], parts: list[nn.Parameter]) -> None:
    """Move the gradients of divided parameters to the parts of this process."""
    for parameter, part in zip(parameters, parts, strict=True):
        if part is not parameter and parameter.grad is not None:
            part.grad, parameter.grad = parameter.grad.to_local(), None


def clip_gradients(parts: list[nn.Parameter], most: float, divided: bool) -> float:
    """Scale gradients down to a global norm; returns the norm that they had."""
    norm = nn.utils.get_total_norm([part.grad for part in parts if part.grad is not None])
    if divided:
        square = norm.square()
        dist.all_reduce(square)
        norm = square.sqrt()
    nn.utils.clip_grads_with_norm_(parts, most, norm)
    return norm.item()


def whole(value: Any, like: Tensor) -> Any:
    """A tensor that is divided as `like` is, whole; all processes have to ask for it."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or not value.ndim:
        return value
    if not isinstance(value, DTensor):
        place = {"shape": like.shape, "stride": like.stride()}
        value = DTensor.from_local(value, like.device_mesh, like.placements, **place)
    return value.detach().full_tensor()


def part_of(value: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor, if `like` is divided."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or not value.ndim:
        return value
    value = value.to(like.device)
    mesh, places = like.device_mesh, like.placements
    return distribute_tensor(value, mesh, places, src_data_rank=None).to_local()
