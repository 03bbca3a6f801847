import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from disdiff.clip.preprocess import Preprocess
from ldm.data.procedural import camera_rays, hue_to_rgb, render_maps
from ldm.errors import UserError

OPENAI = PreprocessCfg()


@pytest.fixture(scope="module")
def drawn():
    """An image of the procedural Shapes3D, shape (3, 64, 64) uint8."""
    maps = render_maps(*camera_rays(0.2), shape=1, scale=1.1)
    colours = torch.cat([hue_to_rgb(10)[[0, 4, 7]], torch.ones(1, 3)])
    return (torch.einsum("mhw,mc->chw", maps, colours) * 255).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("start", "size"), [(64, 224), (64, 64), (64, 40), (150, 64)])
def test_it_is_what_open_clip_does_to_a_picture(drawn, mode, start, size):
    image = F.interpolate(drawn[None].float(), (start, start), mode="bilinear").round().to(torch.uint8)
    theirs = image_transform_v2(PreprocessCfg(size=size, interpolation=mode), is_train=False)
    expected = theirs(Image.fromarray(image[0].permute(1, 2, 0).numpy()))
    found = Preprocess(size, list(OPENAI.mean), list(OPENAI.std), mode)(image / 127.5 - 1)
    difference = (found[0] - expected) * torch.tensor(OPENAI.std)[:, None, None] * 255
    assert difference.abs().max() < (1e-3 if start == size else 1.6)  # Pillow rounds to 8 bits, twice
    assert difference.abs().mean() < 0.3


def test_gradients_reach_the_image():
    image = torch.zeros(2, 3, 16, 16, requires_grad=True)
    Preprocess(24, [0.5] * 3, [0.5] * 3, "bicubic")(image).square().sum().backward()
    torch.testing.assert_close(image.grad, torch.zeros_like(image))  # at grey, the minimum
    Preprocess(24, [0.4] * 3, [0.5] * 3, "bicubic")(image).square().sum().backward()
    assert (image.grad > 0).all()


def test_values_that_overshoot_are_cut_as_in_8_bits():
    image = torch.full((1, 3, 8, 8), 1.5)
    assert Preprocess(8, [0.5] * 3, [0.5] * 3, "bicubic")(image).max() == 1


def test_bad_options_and_images():
    with pytest.raises(UserError, match="three numbers"):
        Preprocess(8, [0.5], [0.5] * 3, "bicubic")
    with pytest.raises(UserError, match="nearest is unknown"):
        Preprocess(8, [0.5] * 3, [0.5] * 3, "nearest")
    with pytest.raises(ValueError, match="square"):
        Preprocess(8, [0.5] * 3, [0.5] * 3, "bicubic")(torch.zeros(1, 3, 8, 9))
