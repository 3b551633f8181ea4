"""Quick forms against plain ones: attention by rows, upsampling at the small size, memory."""

import mmap

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lib import ops
from lib.devices import _is_of_a_file, release, settle
from lib.transformer import FeedForward


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(("queries", "keys", "width"), [(600, 130, 40), (1100, 300, 16)])
def test_attention_by_rows(queries, keys, width):
    """Rows that do not divide, widths that fill no register."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 3 * width, generator=g).bfloat16()
    k, v = (torch.randn(2, keys, 3 * width, generator=g).bfloat16() for _ in range(2))
    heads = [x.double().unflatten(2, (3, width)).transpose(1, 2) for x in (q, k, v)]
    exact = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    assert queries * keys > ops.SHORT
    assert off(ops.attention(q, k, v, 3), exact) < 0.01


@pytest.mark.parametrize("shift", [300.0, -300.0])
def test_attention_by_rows_beyond_a_floats_range(shift):
    """2^300 is no float, and 2^-300 is 0: such a head is done again by the safe softmax."""
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 600, 2 * 16, generator=g).bfloat16() for _ in range(3))
    heads = [x.double().unflatten(2, (2, 16)).transpose(1, 2) for x in (q, k, v)]
    exact = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    q[..., :16], k[..., :16] = 1.0, shift / 4  # every score of the first head is `shift`,
    k[:, 7, :16] += 16.0  # but for key 7, which wins
    found = ops.attention(q, k, v, 2)
    assert torch.equal(found[..., :16], v[:, 7:8, :16].expand(1, 600, 16))
    assert off(found[..., 16:], exact[..., 16:]) < 0.01


def test_attention_by_rows_of_large_values():
    """2^115 is a float, a hundred times the sum of 600 of them is none."""
    q, k, v = (torch.full((1, 600, 16), value).bfloat16() for value in (1.0, 20.0, 100.0))
    assert off(ops.attention(q, k, v, 1), v.double()) < 0.01


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (8, 2), (7, 2), (16, 1), (23, 1)])
def test_convolution_as_a_matrix_product(side, stride, monkeypatch):
    monkeypatch.setattr(ops, "LARGE", 100)
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 12, side, side, generator=g), torch.randn(20, 12, 3, 3, generator=g)
    bias = torch.randn(20, generator=g)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding=1)
    weight = weight.contiguous(memory_format=torch.channels_last)
    called = []
    monkeypatch.setattr(
        ops.F, "linear", lambda *a: called.append(1) or torch.matmul(a[0], a[1].T) + a[2]
    )
    found = ops.conv3x3(x, weight, bias, stride)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)
    assert len(called) == (side < 23)
    learned = ops.conv3x3(x, weight.requires_grad_(), bias, stride)
    torch.testing.assert_close(learned.double(), exact, rtol=0, atol=1e-4)
    assert len(called) == (side < 23)


def test_attention_by_rows_leaves_gradients_to_torch():
    q = torch.randn(1, 600, 32).bfloat16().requires_grad_()
    k = torch.randn(1, 200, 32).bfloat16()
    ops.attention(q, k, k, 2).float().sum().backward()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("size", [4, 300 * 300])
def test_causal_attention_sees_what_was_before(size, monkeypatch):
    monkeypatch.setattr(ops, "SHORT", size)
    q, k, v = (torch.randn(1, 9, 8) for _ in range(3))
    whole = ops.attention(q, k, v, 2, causal=True)
    for n in (1, 4, 9):
        part = ops.attention(q[:, :n], k[:, :n], v[:, :n], 2)
        torch.testing.assert_close(whole[:, n - 1], part[:, -1])


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("side", [4, 32, 35])
def test_upsampling_is_nearest_neighbour_then_convolution(side, large, monkeypatch):
    """By the plain way, the transposed kernel, four products and four convolutions."""
    monkeypatch.setattr(ops, "LARGE", 100 if large else 10_000)
    x, weight, bias = torch.randn(2, 5, side, 33), torch.randn(3, 5, 3, 3), torch.randn(3)
    exact = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    torch.testing.assert_close(ops.upsampled_conv(x, weight, bias), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_1x1_convolution_of_either_layout(layout):
    x, weight, bias = torch.randn(2, 6, 5, 4), torch.randn(3, 6, 1, 1), torch.randn(3)
    found = ops.conv1x1(x.contiguous(memory_format=layout), weight, bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias))


@torch.no_grad()
def test_tokens_in_parts(monkeypatch):
    layer, x = FeedForward(16), torch.randn(2, 1030, 16)
    torch.testing.assert_close(layer(x), layer.net(x))


def test_large_convolutions_have_their_channels_last():
    small = settle(nn.Conv2d(3, 4, 3))
    large = nn.Conv2d(ops.LARGE // 9 + 1, 1, 3)
    values = large.weight.detach().clone()
    settle(large.requires_grad_(False))
    last = {"memory_format": torch.channels_last}
    assert small.weight.is_contiguous() and not small.weight.is_contiguous(**last)
    assert large.weight.is_contiguous(**last) and torch.equal(large.weight, values)


def test_released_pages_are_read_again(tmp_path):
    values = torch.arange(5 * mmap.PAGESIZE, dtype=torch.float32)
    save_file({"a": values, "b": values[:10].clone()}, tmp_path / "file.safetensors")
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        mapped = file.get_tensor("a")
        assert _is_of_a_file(mapped.data_ptr()) and not _is_of_a_file(values.data_ptr())
        release(mapped)
        assert torch.equal(mapped, values)
    own = values.clone()
    release(own)
    assert torch.equal(own, values)
