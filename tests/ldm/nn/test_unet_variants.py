"""The U-Nets of latent diffusion's first models: time added before the norm, heads of a given width."""

from dataclasses import replace

import pytest
import torch

from ldm.errors import UserError
from ldm.nn.unet import UNet


def test_time_that_is_added_shifts_what_is_normalised(tiny_unet, randomise):
    unet = randomise(UNet(replace(tiny_unet, resample="conv_shift"), 3))
    block = unet.down[0].res
    h, emb = torch.randn(2, 8, 8, 8), torch.randn(2, unet.config.emb_dim)
    assert block.emb_affine.out_features == 8
    added = block.emb_affine(torch.nn.functional.silu(emb))[..., None, None]
    update = block.in_conv(torch.nn.functional.silu(block.in_norm(h))) + added
    expected = block.shortcut(h) + block.out_conv(torch.nn.functional.silu(block.out_norm(update)))
    torch.testing.assert_close(block(h, emb), expected)


def test_a_negative_number_of_heads_is_their_width(tiny_unet):
    unet = UNet(replace(tiny_unet, num_heads=-4), 3)
    assert unet.decoder.middle_attention.num_heads == 16 // 4
    assert UNet(replace(tiny_unet, num_heads=-64), 3).decoder.middle_attention.num_heads == 1
    with pytest.raises(UserError, match="num_heads=0"):
        UNet(replace(tiny_unet, num_heads=0), 3)
