"""Muon against torch's own (matrices), torch's AdamW (vectors), and singular values."""

import pytest
import torch
from torch import nn

from training.muon import LONG, Muon, orthogonalised

HOW = {"lr": 0.01, "weight_decay": 0.1}


@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 16, 40), (3, 40, 16), (1, 8, 8 * LONG)])
def test_singular_values_become_one(shape):
    torch.manual_seed(0)
    x = torch.randn(shape) + 3 * torch.randn(shape[0], shape[1], 1)  # one direction leads
    values = torch.linalg.svdvals(orthogonalised(x))
    before = torch.linalg.svdvals(x)
    large = before > 0.01 * before.square().sum(-1, keepdim=True).sqrt()
    assert values[large].min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("columns", [30, 40 * LONG])
def test_a_matrix_of_low_rank_stays_small(columns):
    """What a gradient early in training is: nearly all singular values are zero."""
    torch.manual_seed(5)
    x = torch.randn(2, 40, 1) @ torch.randn(2, 1, columns)
    assert torch.linalg.svdvals(orthogonalised(x)).max() < 1.3


@pytest.mark.parametrize("shape", [(12, 20), (6, 6 * LONG)])
def test_directions_stay(shape):
    """The nearest orthogonal matrix is `U V^T`: what comes out is `U diag(about 1) V^T`."""
    torch.manual_seed(1)
    x = torch.randn(shape)
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    inner = u.T @ orthogonalised(x[None])[0] @ vt.T
    assert (inner - inner.diag().diag()).abs().max() < 0.03  # bfloat16


def steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (4, 4 * LONG)])
def test_moves_matrices_as_torch_does(shape):
    torch.manual_seed(2)
    start, gradients = torch.randn(shape), torch.randn(4, *shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    made = steps(Muon([ours], **HOW), ours, gradients)
    torch_own = torch.optim.Muon([theirs], **HOW, adjust_lr_fn="match_rms_adamw")
    moved = steps(torch_own, theirs, gradients) - start
    assert (made - start - moved).abs().max() < 0.03 * moved.abs().max()


def test_a_kernel_moves_as_its_matrix():
    torch.manual_seed(3)
    start, gradients = torch.randn(6, 4, 3, 3), torch.randn(3, 6, 4, 3, 3)
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    made = steps(Muon([kernel], **HOW), kernel, gradients)
    flat = steps(Muon([matrix], **HOW), matrix, gradients.flatten(2))
    assert torch.equal(made.flatten(1), flat)


@pytest.mark.parametrize("shape", [(7,), (1, 5), (5, 1)])
def test_moves_vectors_as_adamw_does(shape):
    torch.manual_seed(4)
    start, gradients = torch.randn(shape), torch.randn(5, *shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    how = HOW | {"betas": (0.8, 0.95)}
    made = steps(Muon([ours], **how), ours, gradients)
    torch.testing.assert_close(made, steps(torch.optim.AdamW([theirs], **how), theirs, gradients))
