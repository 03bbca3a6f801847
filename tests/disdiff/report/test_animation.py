import numpy as np
import pytest
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageFont, ImageSequence

from disdiff.editing.unit_names import name_units
from disdiff.report.animation import ANIMATION, FARTHEST, LABEL, MARGIN, save_animation, shorten
from disdiff.report.sliders import FRAMES, load_frames, save_frames

AMOUNTS = (-3.0, -2.0, 0.0, 2.0, 3.0)


@pytest.fixture
def frames(tmp_path):
    """Unit 5 goes from black to white, unit 1 changes nothing, unit 0 goes from white to black."""
    slope = torch.tensor([1.0, 0.0, -1.0])[:, None]
    values = (slope * torch.tensor(AMOUNTS) / 3)[..., None, None, None, None]
    save_frames(tmp_path / FRAMES, values.expand(3, 5, 2, 3, 64, 64), [5, 1, 0], AMOUNTS)
    return load_frames(tmp_path)


def test_units_that_carry_something_move_back_and_forth(frames, tmp_path):
    save_animation(tmp_path / ANIMATION, frames, name_units(6, None, []))
    with Image.open(tmp_path / ANIMATION) as animation:
        pictures = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
        assert animation.info["loop"] == 0
    assert len(pictures) == 4  # -2, 0, 2 and back to 0
    middle = LABEL + 64
    values = np.array([[p[middle, MARGIN + 64, 0], p[middle, MARGIN + 128 + 8 + 64, 0]] for p in pictures])
    most = 127.5 * FARTHEST / 3
    expected = 127.5 + most * np.array([[-1, 1], [0, 0], [1, -1], [0, 0]])
    np.testing.assert_allclose(values, expected, atol=4)
    assert pictures[0].shape[1] == 2 * MARGIN + 2 * 128 + 8  # two units of three, twice their size


def test_long_names_are_cut():
    font = ImageFont.truetype(findfont("DejaVu Sans"), 11)
    assert shorten("wall hue 0.91", 128, font) == "wall hue 0.91" and shorten("", 9, font) == ""
    cut = shorten("orientation 0.91, object hue 0.42", 128, font)
    assert cut.endswith("…") and font.getlength(cut) <= 128
