import pytest
import torch

from ldm.errors import UserError
from ldm.nn.layers import (
    CrossAttention,
    Resample,
    ResBlock,
    SelfAttention,
    add_shared,
    build_norm,
    convolve_doubled,
    double,
    embed_time,
    repeat_rows,
)

EMB, COND = 12, 10
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def difference(a, b):
    """Norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()


def build_block(in_channels, out_channels, randomise, num_groups=4, **options):
    torch.manual_seed(0)
    return randomise(ResBlock(in_channels, out_channels, EMB, num_groups=num_groups, **options))


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def run_with_gradients(block, h, emb, cond, skip, naive):
    """Output and all gradients of a block; `naive` repeats every input to the number of outputs first."""
    inputs = [h, emb, cond, skip]
    if naive:
        inputs = [None if x is None else x.repeat_interleave(len(emb) // len(x), dim=0) for x in inputs]
    out = block(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    wanted = [x for x in (h, emb, cond, skip) if x is not None] + list(block.parameters())
    return [out, *torch.autograd.grad((weight * out.square()).sum(), wanted)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("units", [1, 6, 10])
@pytest.mark.parametrize(
    ("own", "skip_channels"),
    [
        pytest.param(8, 8, id="border-at-join"),  # groups of 4: 8 | 8
        pytest.param(6, 10, id="group-straddles"),  # groups of 4: one group holds 2 of h and 2 of the skip
        pytest.param(14, 2, id="all-of-skip-straddles"),
        pytest.param(2, 14, id="little-of-its-own"),
    ],
)
def test_a_skip_shared_by_units_gives_what_repeating_it_gives(own, skip_channels, units, dtype, randomise):
    block = build_block(own + skip_channels, 8, randomise, cond_dim=COND).to(dtype)
    h, skip = draw(3 * units, own, 4, 4, dtype=dtype), draw(3, skip_channels, 4, 4, dtype=dtype)
    emb, cond = draw(3 * units, EMB, dtype=dtype), draw(3 * units, COND, dtype=dtype)
    fast = run_with_gradients(block, h, emb, cond, skip, naive=False)
    slow = run_with_gradients(block, h, emb, cond, skip, naive=True)
    assert max(difference(a, b) for a, b in zip(fast, slow, strict=True)) <= TOLERANCE[dtype]


def test_a_shared_skip_without_a_convolution_in_the_shortcut(randomise):
    block = build_block(16, 16, randomise, cond_dim=COND).double()
    h, skip, emb, cond = draw(12, 10, 4, 4), draw(2, 6, 4, 4), draw(12, EMB), draw(12, COND)
    fast = run_with_gradients(block, h, emb, cond, skip, naive=False)
    slow = run_with_gradients(block, h, emb, cond, skip, naive=True)
    assert max(difference(a, b) for a, b in zip(fast, slow, strict=True)) <= 1e-9


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_an_input_shared_by_units_gives_what_repeating_it_gives(resample, randomise):
    block = build_block(8, 12, randomise, cond_dim=COND, resample=resample).double()
    h, emb, cond = draw(2, 8, 4, 4), draw(12, EMB), draw(12, COND)
    fast = run_with_gradients(block, h, emb, cond, None, naive=False)
    slow = run_with_gradients(block, h, emb, cond, None, naive=True)
    assert fast[0].shape == (12, 12, *{None: (4, 4), "up": (8, 8), "down": (2, 2)}[resample])
    assert max(difference(a, b) for a, b in zip(fast, slow, strict=True)) <= 1e-9


def test_only_the_shared_part_is_computed_once(randomise, monkeypatch):
    """Six units: the convolution over the skip's own groups sees 2 rows, not 12."""
    seen = []
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv2d",
        lambda x, *rest, **options: seen.append(x.shape) or convolve(x, *rest, **options),
    )
    block = build_block(6 + 10, 8, randomise)
    block(torch.randn(12, 6, 4, 4), torch.randn(12, EMB), skip=torch.randn(2, 10, 4, 4))
    assert (12, 8, 4, 4) in seen and (2, 8, 4, 4) in seen  # of 16 channels the straddling group goes with h
    assert (12, 16, 4, 4) not in seen


def test_a_new_block_is_its_shortcut():
    block = ResBlock(8, 8, EMB, cond_dim=COND, num_groups=4)
    h = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(h, torch.randn(2, EMB), torch.randn(2, COND)), h)


def modulate_by_hand(block, h, emb, cond):
    """(GN(h) (1 + s_t) + b_t) (1 + s_c) + b_c, then the rest of the block, written out."""
    silu = torch.nn.functional.silu
    update = block.in_conv(silu(block.in_norm(h)))
    scale, shift = (x[..., None, None] for x in block.emb_affine(silu(emb)).chunk(2, dim=1))
    update = block.out_norm(update) * (1 + scale) + shift
    affine = block.cond_affine(silu(cond))[..., None, None]
    cond_scale, cond_shift = affine.chunk(2, dim=1) if len(affine[0]) == 2 * len(update[0]) else (affine, 0)
    update = update * (1 + cond_scale) + cond_shift
    return block.shortcut(h) + block.out_conv(silu(update))


@pytest.mark.parametrize("affine", ["scale", "scale_shift"])
def test_time_modulates_first_and_the_condition_second(affine, randomise):
    block = build_block(8, 12, randomise, cond_dim=COND, cond_affine=affine).double()
    h, emb, cond = draw(3, 8, 4, 4), draw(3, EMB), draw(3, COND)
    assert difference(block(h, emb, cond), modulate_by_hand(block, h, emb, cond)) < 1e-12
    assert block.cond_affine.out_features == 12 * (2 if affine == "scale_shift" else 1)


def test_attention_starts_as_identity_and_then_mixes_pixels_of_one_map_only(randomise):
    attention = SelfAttention(8, num_heads=2, num_groups=4)
    h = torch.randn(2, 8, 3, 3)
    assert torch.equal(attention(h), h)
    randomise(attention)
    changed = h.clone()
    changed[0, :, 0, 0] += 1
    moved = (attention(changed) - attention(h)).abs().amax(dim=1)
    assert (moved[0] > 1e-6).all() and not moved[1].any()


def test_attention_is_softmax_of_scaled_products_per_head(randomise):
    torch.manual_seed(0)
    attention = randomise(SelfAttention(8, num_heads=2, num_groups=4)).double()
    h = draw(2, 8, 3, 3)
    parts = []
    for qkv in attention.qkv(attention.norm(h).flatten(2)).chunk(2, dim=1):  # one per head
        q, k, v = qkv.chunk(3, dim=1)  # (B, 4, HW)
        parts.append(v @ (q.transpose(1, 2) @ k / 2).softmax(dim=2).transpose(1, 2))
    expected = h + attention.out(torch.cat(parts, dim=1)).view_as(h)
    assert difference(attention(h), expected) < 1e-12


def test_attention_never_falls_back_to_plain_products(monkeypatch):
    """The fused kernels want the last axis of queries, keys and values without gaps."""
    strides, attend = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *qkv: strides.extend(x.stride(-1) for x in qkv) or attend(*qkv),
    )
    SelfAttention(8, num_heads=2, num_groups=4)(torch.randn(2, 8, 4, 4))
    CrossAttention(8, 5, num_heads=2, num_groups=4)(torch.randn(2, 8, 4, 4), torch.randn(2, 3, 5))
    assert strides == [1] * 6


def test_the_time_embedding_is_cosines_then_sinusoids_of_falling_frequency():
    embedding = embed_time(torch.tensor([0, 7]), 6)
    frequencies = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    assert torch.equal(embedding[0], torch.tensor([1.0, 1, 1, 0, 0, 0]))
    torch.testing.assert_close(embedding[1], torch.cat([(7 * frequencies).cos(), (7 * frequencies).sin()]))


def test_rows_that_share_stand_side_by_side():
    x = torch.arange(3.0).view(3, 1, 1, 1)
    assert repeat_rows(x, 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert repeat_rows(x, 3) is x
    wide = torch.randn(6, 2, 3, 3)
    shared = torch.randn(3, 2, 3, 3)
    assert torch.equal(add_shared(wide, shared), wide + repeat_rows(shared, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("height", "width", "transposed"), [(4, 4, 1), (5, 8, 1), (2, 2, 0), (3, 9, 0)])
def test_convolving_a_doubled_map_by_a_transposed_convolution(height, width, transposed, dtype, monkeypatch):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3, padding=1).to(dtype)
    h, weight = draw(2, 3, height, width, dtype=dtype), torch.randn(2, 5, 2 * height, 2 * width, dtype=dtype)
    calls, original = [], torch.nn.functional.conv_transpose2d
    monkeypatch.setattr(
        torch.nn.functional, "conv_transpose2d", lambda *a, **o: calls.append(1) or original(*a, **o)
    )
    results = []
    for out in (convolve_doubled(h, conv), conv(double(h))):
        gradients = torch.autograd.grad((weight * out).sum(), [h, *conv.parameters()])
        results.append([out, *gradients])
    assert len(calls) == transposed
    assert max(difference(a, b) for a, b in zip(*results, strict=True)) <= (
        1e-12 if dtype == torch.float64 else 1e-5
    )


@pytest.mark.parametrize(("direction", "size"), [("up", 8), ("down", 2)])
def test_resampling_by_convolution(direction, size):
    assert Resample(6, direction)(torch.randn(2, 6, 4, 4)).shape == (2, 6, size, size)


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(UserError, match="10 channels cannot be split into 4 groups"):
        build_norm(10, 4)
    with pytest.raises(UserError, match="8 channels cannot be split over 3 attention heads"):
        SelfAttention(8, num_heads=3, num_groups=4)
