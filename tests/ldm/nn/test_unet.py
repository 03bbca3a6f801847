from dataclasses import replace

import pytest
import torch

from ldm.errors import UserError
from ldm.nn.unet import Features, UNet, UNetConfig, UNetDecoder, list_skip_channels

RELEASED = UNetConfig()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def difference(a, b):
    """Norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()


def test_the_released_unet_has_the_released_size():
    with torch.device("meta"):
        unet = UNet(RELEASED, in_channels=3)
    assert count(unet) == 29_422_467
    assert list_skip_channels(RELEASED) == [64] * 4 + [128] * 3 + [256] * 5


@pytest.mark.parametrize("resample", ["residual", "conv"])
def test_the_skips_are_as_listed_and_halve(tiny_unet, resample):
    config = replace(tiny_unet, channel_mult=[1, 2, 3], num_res_blocks=2, resample=resample)
    unet = UNet(config, in_channels=3)
    features = unet.features(torch.randn(2, 3, 16, 16), torch.tensor([0, 999]))
    assert [skip.shape[1] for skip in features.skips] == list_skip_channels(config)
    assert [skip.shape[2] for skip in features.skips] == [16, 16, 16, 8, 8, 8, 4, 4, 4]
    assert features.bottleneck is features.skips[-1]
    assert features.emb.shape == (2, config.emb_dim)


@pytest.mark.parametrize("resample", ["residual", "conv"])
def test_a_new_unet_predicts_zero_and_a_trained_one_depends_on_all_it_reads(tiny_unet, resample, randomise):
    unet = UNet(replace(tiny_unet, resample=resample), in_channels=3, cond_dim=5)
    z_t, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5)
    out = unet(z_t, t, cond)
    assert out.shape == z_t.shape and not out.any()
    randomise(unet)
    out = unet(z_t, t, cond)
    for other in (unet(z_t + 0.1, t, cond), unet(z_t, t + 1, cond), unet(z_t, t, cond + 0.1)):
        assert not torch.allclose(other, out)
    first = unet(z_t[:1], t[:1], cond[:1])
    torch.testing.assert_close(first, out[:1], rtol=1e-4, atol=1e-5)  # images of a batch do not mix


def test_features_are_all_that_decoding_needs(tiny_unet, randomise):
    unet = randomise(UNet(tiny_unet, in_channels=3))
    z_t, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    assert torch.equal(unet.decode(unet.features(z_t, t)), unet(z_t, t))


@pytest.mark.parametrize("resample", ["residual", "conv"])
@pytest.mark.parametrize("width", [8, 12])  # 16 and 16, 24 and 16 channels meet: no group straddles, one does
@pytest.mark.parametrize("units", [1, 6, 10])
def test_a_decoder_of_many_units_equals_the_naive_repeat(tiny_unet, units, width, resample, randomise):
    torch.manual_seed(0)
    config = replace(tiny_unet, resample=resample)
    own = replace(config, channels=width)
    unet = randomise(UNet(config, in_channels=3)).double()
    decoder = randomise(UNetDecoder(own, config, 3, cond_dim=6)).double()
    with torch.no_grad():
        features = unet.features(torch.randn(2, 3, 8, 8).double(), torch.tensor([10, 500]))
    emb = torch.randn(2 * units, config.emb_dim).double().requires_grad_()
    cond = torch.randn(2 * units, 6).double().requires_grad_()

    def repeat(x):
        return x.repeat_interleave(units, dim=0)

    naive = Features(repeat(features.emb), repeat(features.bottleneck), tuple(map(repeat, features.skips)))
    wanted = [emb, cond, *decoder.parameters()]
    results = []
    for given in (features, naive):
        out = decoder(given, emb, cond)
        weight = torch.linspace(-1, 1, out.numel()).double().view_as(out)
        results.append([out, *torch.autograd.grad((weight * out.square()).sum(), wanted)])
    assert max(difference(a, b) for a, b in zip(*results, strict=True)) <= 1e-9


def test_float32_agrees_too(tiny_unet, randomise):
    torch.manual_seed(0)
    unet = randomise(UNet(tiny_unet, in_channels=3))
    decoder = randomise(UNetDecoder(tiny_unet, tiny_unet, 3, cond_dim=6))
    features = unet.features(torch.randn(2, 3, 8, 8), torch.tensor([10, 500]))
    emb, cond = torch.randn(12, tiny_unet.emb_dim), torch.randn(12, 6)

    def decode_alone(i):
        row = slice(i // 6, i // 6 + 1)
        skips = tuple(skip[row] for skip in features.skips)
        alone = Features(features.emb[row], features.bottleneck[row], skips)
        return decoder(alone, emb[i : i + 1], cond[i : i + 1])

    looped = torch.cat([decode_alone(i) for i in range(12)])
    assert difference(decoder(features, emb, cond), looped) <= 1e-4


def test_a_decoder_may_be_narrower_and_shallower_than_the_features(tiny_unet, randomise):
    deep = replace(tiny_unet, channel_mult=[1, 2, 2], num_res_blocks=2)
    unet = UNet(deep, in_channels=3)
    features = unet.features(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))
    sizes = []
    for channels, blocks in ((8, 2), (4, 2), (8, 0), (4, 1)):
        decoder = randomise(UNetDecoder(replace(deep, channels=channels, num_res_blocks=blocks), deep, 5))
        assert decoder(features).shape == (2, 5, 16, 16)
        sizes.append(count(decoder))
    assert sizes[0] > max(sizes[1:])


def test_a_shallow_decoder_reads_the_skips_nearest_the_bottleneck(tiny_unet, randomise):
    deep = replace(tiny_unet, channel_mult=[1, 2], num_res_blocks=2)
    features = UNet(deep, in_channels=3).features(torch.randn(1, 3, 8, 8), torch.tensor([1]))
    decoder = randomise(UNetDecoder(replace(deep, num_res_blocks=0), deep, 3))
    out = decoder(features)
    for i, skip in enumerate(features.skips):  # 8x8: 0, 1, 2; then 4x4: 3, 4, 5
        skips = list(features.skips)
        skips[i] = skip + 1.5 * torch.randn_like(skip)
        changed = decoder(replace(features, skips=tuple(skips)))
        assert torch.equal(changed, out) == (i not in (2, 5))


@pytest.mark.parametrize("mult", [[1, 2], [2, 2], [1, 1, 2]])
def test_no_blocks_need_levels_of_one_width(tiny_unet, mult):
    with pytest.raises(UserError, match="num_res_blocks=0 .* choose 1 or more"):
        UNet(replace(tiny_unet, num_res_blocks=0, channel_mult=mult), in_channels=3)
    unet = UNet(replace(tiny_unet, num_res_blocks=0, channel_mult=[1, 1], attention_levels=[]), in_channels=3)
    assert unet(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)).shape == (1, 3, 8, 8)


def test_an_odd_width_is_refused():
    with pytest.raises(UserError, match="unet.channels=15 is odd"):
        UNet(UNetConfig(channels=15, channel_mult=[1], num_groups=5, num_heads=1), 3)
