import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from disdiff.metrics.image_quality import compare_images, compute_image_quality
from ldm.errors import UserError


@pytest.fixture
def image():
    return torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def test_equal_images(image):
    result = compute_image_quality(image, image.clone())
    assert result["ssim"] == pytest.approx(1, abs=1e-6)
    assert (result["mse"], result["psnr"], result["sizes"]["images"]) == (0, 100, 3)


def test_mse_and_psnr_are_per_image_on_the_unit_scale(image):
    error = torch.tensor([0.02, 0.1, 0.2])  # on [-1, 1]
    result = compute_image_quality(image + error[:, None, None, None], image)
    mse = [(e / 2) ** 2 for e in error.tolist()]
    assert result["mse"] == pytest.approx(np.mean(mse), rel=1e-4)
    assert result["psnr"] == pytest.approx(np.mean([-10 * math.log10(m) for m in mse]), rel=1e-4)
    assert result["psnr_std"] > 0


def test_ssim_agrees_with_its_definition(image):
    """Gaussian window of 11 x 11, sigma 1.5, on every pixel, borders reflected; channels apart."""
    other = (image + 0.3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    expected = []
    for pair in zip(other, image, strict=True):
        values = []
        for x, y in zip(*(((part + 1) / 2).double().numpy() for part in pair), strict=True):

            def blur(a):
                return gaussian_filter(a, 1.5, radius=5, mode="mirror")

            m_x, m_y = blur(x), blur(y)
            s_x, s_y, s_xy = blur(x * x) - m_x**2, blur(y * y) - m_y**2, blur(x * y) - m_x * m_y
            c_1, c_2 = 0.01**2, 0.03**2
            values.append(
                (2 * m_x * m_y + c_1) * (2 * s_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (s_x + s_y + c_2))
            )
        expected.append(np.mean(values))
    assert compare_images(other, image)["ssim"].tolist() == pytest.approx(expected, abs=1e-5)


def test_edge_error_of_images_that_are_known(image):
    """Of c x + d it is |c - 1|; moved edges count twice; a constant has none."""
    for scale, offset in ((0.25, 0.1), (1, -0.2), (0, 0.5)):
        error = compare_images(scale * image + offset, image)["edge_error"]
        assert error.tolist() == pytest.approx([abs(scale - 1)] * 3, abs=1e-6)
    step = torch.zeros(1, 3, 16, 16)
    step[..., 8:] = 1  # gradients in columns 7 and 8
    moved = torch.zeros_like(step)
    moved[..., 4:] = 1
    assert compare_images(moved, step)["edge_error"].item() == pytest.approx(2)
    ramp = (torch.arange(16.0) - 4).clamp(0, 8)[None, None, None].expand(1, 3, 16, 16) / 8
    assert 0.5 < compare_images(ramp, step)["edge_error"].item() < 2
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert compare_images(flat, flat)["edge_error"].item() == 0


def test_rows_and_columns_are_alike_to_ssim(image):
    other = (image + 0.2).clamp(-1, 1)
    turned = compare_images(other.transpose(2, 3), image.transpose(2, 3))["ssim"]
    torch.testing.assert_close(turned, compare_images(other, image)["ssim"])


def test_lpips_is_what_is_passed_averaged_over_pairs(image):
    result = compute_image_quality(image * 0.5, image, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    assert result["lpips"] == pytest.approx((image / 2).abs().mean().item(), rel=1e-5)
    assert "lpips" not in compute_image_quality(image, image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: (x + 1) * 127.5, r"image_hat must lie in \[-1, 1\], but go from .* x / 127.5 - 1"),
        (lambda x: x * math.nan, r"image_hat must lie in \[-1, 1\]"),
        (lambda x: (x * 100).to(torch.uint8), "image_hat must be floating-point"),
        (lambda x: x.permute(0, 2, 3, 1), "put channels second"),
        (lambda x: x[:2], "give pairs"),
    ],
)
def test_bad_images_are_named(image, change, says):
    with pytest.raises(UserError, match=says):
        compute_image_quality(change(image), image)


def test_images_smaller_than_the_window_are_refused(image):
    with pytest.raises(UserError, match="smaller than SSIM's window of 11"):
        compute_image_quality(image[..., :10], image[..., :10])


def test_floats_in_0_to_1_are_refused_and_bytes_are_the_way_out(image):
    unit = (image + 1) / 2
    for pair in ((unit, unit), (unit, image), (image, unit)):
        with pytest.raises(UserError, match=r"look like images in .0, 1.* 2 \* x - 1, .*uint8"):
            compute_image_quality(*pair)
    other = (unit + 0.1).clamp(0, 1)
    bytes_ = [(part * 255).round().to(torch.uint8) for part in (other, unit)]
    expected = compute_image_quality(*(part.float() / 127.5 - 1 for part in bytes_))
    assert compute_image_quality(*bytes_) == expected
    assert expected["mse"] == pytest.approx((other - unit).square().mean().item(), rel=0.05)
    white = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    assert compute_image_quality(white, white)["mse"] == 0
    assert compare_images(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16))["ssim"] == 1  # part of a set
