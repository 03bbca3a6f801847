"""What is computed piece by piece equals PyTorch's own operators, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from ldm.nn import cpu_kernels
from ldm.nn.layers import SelfAttention, normalise

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def difference(a, b):
    """Norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()


def run_with_gradients(function, *inputs):
    """Output of a function, and gradients of a sum that weighs it, with respect to its inputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((weight * out.square()).sum(), inputs)]


def compare(function, expected, *inputs):
    """The greatest difference of outputs and gradients."""
    pairs = zip(run_with_gradients(function, *inputs), run_with_gradients(expected, *inputs), strict=True)
    return max(difference(a, b) for a, b in pairs)


def attend_plainly(qkv, num_heads):
    q, k, v = qkv.unflatten(-1, (num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def draw_map(*shape, dtype=torch.float64):
    return (torch.randn(*shape, dtype=dtype) + 1).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("pixels", "num_heads", "width"), [(16, 2, 4), (15, 3, 8), (9, 1, 5)])
def test_attention(pixels, num_heads, width, dtype):
    torch.manual_seed(0)
    qkv = torch.randn(3, pixels, num_heads * 3 * width, dtype=dtype)
    error = compare(lambda x: cpu_kernels.attend(x, num_heads), lambda x: attend_plainly(x, num_heads), qkv)
    assert error <= TOLERANCE[dtype]


def test_attention_of_large_scores_neither_overflows_nor_vanishes():
    torch.manual_seed(0)
    qkv = 40 * torch.randn(2, 16, 2 * 3 * 8)  # scores beyond 1000
    out, grad = run_with_gradients(lambda x: cpu_kernels.attend(x, 2), qkv)
    assert out.isfinite().all() and grad.isfinite().all()
    assert difference(out, attend_plainly(qkv, 2)) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("shape", [(8,), (5, 8)], ids=["of-channels", "of-every-image"])
def test_norm_with_scale_shift_and_activation(shape, activate, dtype, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(cpu_kernels, "NUMBERS", 2 * 8 * 12)  # pieces of two images, and one of one
    h, (scale, shift) = draw_map(5, 8, 3, 4, dtype=dtype), torch.randn(2, *shape, dtype=dtype)

    def plain(h, scale, shift):
        h = F.group_norm(h, 4) * scale[..., None, None] + shift[..., None, None]
        return F.silu(h) if activate else h

    def pieces(h, scale, shift):
        return cpu_kernels.normalise(h, 4, scale, shift, 1e-5, activate)

    assert compare(pieces, plain, h, scale, shift) <= TOLERANCE[dtype]
    assert pieces(h, scale, shift).is_contiguous(memory_format=torch.channels_last)


def test_a_norm_whose_input_is_frozen_gives_the_other_gradients():
    h, (scale, shift) = draw_map(5, 8, 3, 4), torch.randn(2, 8, dtype=torch.float64)
    wanted = run_with_gradients(
        lambda *x: cpu_kernels.normalise(*x[:1], 4, *x[1:], 1e-5, True), h, scale, shift
    )
    found = run_with_gradients(lambda *x: cpu_kernels.normalise(h, 4, *x, 1e-5, True), scale, shift)
    assert all(torch.equal(a, b) for a, b in zip(found[1:], wanted[2:], strict=True))


def test_a_mean_far_from_zero_costs_no_digits():
    h = draw_map(2, 8, 4, 4, dtype=torch.float32) + 1000
    out = cpu_kernels.normalise(h, 4, torch.ones(8), torch.zeros(8), 1e-5, activate=False)
    assert difference(out, F.group_norm(h.double(), 4)) <= 1e-4


@pytest.mark.parametrize("part", [slice(None), slice(4, None)])
def test_the_layout_decides_how_not_what(part):
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(4, 8).double()
    torch.nn.init.normal_(norm.weight)
    h, modulation = draw_map(3, 8, 4, 4)[:, part].contiguous(memory_format=torch.channels_last), None
    if part == slice(None):
        modulation = torch.randn(3, 8).double(), torch.randn(3, 8).double()
    assert cpu_kernels.prefers_normalise(h) and not cpu_kernels.prefers_normalise(h.contiguous())
    pieces, plain = (normalise(x, norm, part, modulation) for x in (h, h.contiguous()))
    assert difference(pieces, plain) <= 1e-12


def test_only_where_it_is_the_better_one():
    narrow = torch.randn(1, 256, 3 * 64)
    assert cpu_kernels.prefers_attend(narrow, 8)
    assert not cpu_kernels.prefers_attend(narrow, 4)  # heads of 16 channels
    assert not cpu_kernels.prefers_attend(narrow[:, :64], 8)  # few pixels
    assert not cpu_kernels.prefers_attend(narrow.bfloat16(), 8)
    assert not cpu_kernels.prefers_attend(narrow.to("meta"), 8)
    wide = torch.randn(1, 256, 2, 2)
    assert cpu_kernels.prefers_channels_last(wide)
    assert not cpu_kernels.prefers_channels_last(wide[:, :64])
    assert not cpu_kernels.prefers_channels_last(wide.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not cpu_kernels.supports(narrow)


def test_self_attention_takes_either(monkeypatch, randomise):
    torch.manual_seed(0)
    attention = randomise(SelfAttention(16, num_heads=2, num_groups=4)).double()
    h = torch.randn(2, 16, 12, 12).double()
    expected = attention(h)
    monkeypatch.setattr(cpu_kernels, "PIXELS", 145)
    assert difference(attention(h), expected) <= 1e-12 and not torch.equal(attention(h), expected)
