import re
from dataclasses import replace

import pytest
import torch
from taming.modules.diffusionmodules import model as taming_model

from ldm.autoencoder.networks import Decoder, Encoder, NetworkConfig, SelfAttention
from ldm.errors import UserError

PAPER = NetworkConfig()
SMALL = NetworkConfig(channels=8, channel_mult=[1, 2], num_res_blocks=1, num_groups=4)
RENAMES = [  # names of the CompVis networks => ours
    (r"^(down|up)\.", "levels."),
    (r"\.block\.", ".blocks."),
    (r"\.attn\.", ".attentions."),
    (r"\.(downsample|upsample)\.", ".resample."),
    (r"^mid\.block_1\.", "middle.0."),
    (r"^mid\.attn_1\.", "middle.1."),
    (r"^mid\.block_2\.", "middle.2."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.q\.", ".query."),
    (r"\.k\.", ".key."),
    (r"\.v\.", ".value."),
    (r"\.proj_out\.", ".out."),
]


def build_reference(config, double_z):
    """The CompVis encoder and decoder of the same configuration at 32 pixels."""
    sizes = dict(
        ch=config.channels,
        out_ch=config.in_channels,
        ch_mult=config.channel_mult,
        num_res_blocks=config.num_res_blocks,
        attn_resolutions=[32 // 2**i for i in config.attention_levels],
        in_channels=config.in_channels,
        resolution=32,
        z_channels=config.z_channels,
    )
    return taming_model.Encoder(**sizes, double_z=double_z), taming_model.Decoder(**sizes)


def translate(state):
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(
    "config",
    [
        PAPER,
        NetworkConfig(
            channels=32, channel_mult=[1, 1, 2], num_res_blocks=1, z_channels=4, attention_levels=[1, 2]
        ),
    ],
    ids=["paper", "attention at two levels"],
)
@pytest.mark.parametrize("double_z", [False, True])
def test_networks_equal_the_compvis_ones_weight_for_weight(config, double_z):
    torch.manual_seed(0)
    reference_encoder, reference_decoder = build_reference(config, double_z)
    encoder, decoder = Encoder(config, double_z), Decoder(config)
    encoder.load_state_dict(translate(reference_encoder.state_dict()))
    decoder.load_state_dict(translate(reference_decoder.state_dict()))
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    size = 32 // config.downsampling_factor
    z = torch.randn(2, config.z_channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), reference_encoder(image), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(decoder(z), reference_decoder(z), atol=1e-5, rtol=1e-4)


def test_parameter_counts_of_the_paper_sizes():
    def count_block(a, b):
        convs = 9 * a * b + b + 9 * b * b + b
        return 2 * a + 2 * b + convs + (a * b + b if a != b else 0)

    middle = 2 * count_block(128, 128) + 2 * 128 + 4 * (128 * 128 + 128)
    down = 2 * count_block(32, 32) + count_block(32, 64) + count_block(64, 64)
    down += count_block(64, 128) + count_block(128, 128) + (9 * 32 * 32 + 32) + (9 * 64 * 64 + 64)
    encoder = (9 * 3 * 32 + 32) + down + middle + 2 * 128 + (9 * 128 * 3 + 3)
    up = 3 * count_block(128, 128) + count_block(128, 64) + 2 * count_block(64, 64)
    up += count_block(64, 32) + 2 * count_block(32, 32) + (9 * 128 * 128 + 128) + (9 * 64 * 64 + 64)
    decoder = (9 * 3 * 128 + 128) + up + middle + 2 * 32 + (9 * 32 * 3 + 3)
    assert sum(p.numel() for p in Encoder(PAPER).parameters()) == encoder
    assert sum(p.numel() for p in Decoder(PAPER).parameters()) == decoder


@pytest.mark.parametrize("channel_mult, factor", [([1], 1), ([1, 2], 2), ([1, 1, 2, 2], 8)])
def test_shapes_follow_the_number_of_levels(channel_mult, factor):
    config = NetworkConfig(1, 8, channel_mult, num_res_blocks=1, z_channels=5, attention=False, num_groups=4)
    z = Encoder(config, double_z=True)(torch.zeros(2, 1, 16, 24))
    assert config.downsampling_factor == factor
    assert z.shape == (2, 10, 16 // factor, 24 // factor)
    assert Decoder(config)(z[:, :5]).shape == (2, 1, 16, 24)


def test_every_parameter_receives_a_gradient():
    torch.manual_seed(0)
    encoder, decoder = Encoder(SMALL), Decoder(SMALL)
    decoder(encoder(torch.randn(2, 3, 8, 8))).square().mean().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        key_bias = name.endswith("key.bias")  # softmax ignores what all keys share
        assert parameter.grad.abs().sum() > 0 or key_bias, name


def test_attention_can_be_left_out():
    without = Encoder(NetworkConfig(channels=8, attention=False))
    assert not any(isinstance(module, SelfAttention) for module in without.modules())
    assert sum(isinstance(module, SelfAttention) for module in Encoder(PAPER).modules()) == 1


def test_groups_that_do_not_divide_are_the_users_error():
    with pytest.raises(UserError, match="48 channels cannot be split into 32 groups; set .*num_groups to 16"):
        Encoder(NetworkConfig(channels=48))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 9, 8), (3, 8, 8)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\) with H and W divisible by 2, got"):
        Encoder(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize("mult", [[1, 2], [2, 2], [1, 1, 2]])
def test_no_blocks_need_levels_of_one_width(mult):
    with pytest.raises(UserError, match="num_res_blocks=0 .* choose 1 or more"):
        Encoder(replace(SMALL, num_res_blocks=0, channel_mult=mult))
    Encoder(replace(SMALL, num_res_blocks=0, channel_mult=[1, 1]))(torch.zeros(1, 3, 8, 8))
