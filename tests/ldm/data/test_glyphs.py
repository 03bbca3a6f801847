import itertools

import numpy as np
import pytest
import torch

from ldm.data.glyphs import ANGLES, CAP_HEIGHTS, GLYPHS, LETTERS, Glyphs, draw_cover, font_path, hues

BASE = torch.tensor([5, 1, 0, 0, 6, 2, 3, 3])  # an upright K of the serif font
SOURCE = Glyphs()
FONTS = list(itertools.product(range(3), range(2), range(2)))


def draw(**changes):
    factors = BASE.clone()
    for name, value in changes.items():
        factors[GLYPHS.names.index(name.replace("_", " "))] = value
    return SOURCE.images(GLYPHS.index(factors[None]))[0]


def ink(letter=5, family=1, weight=0, slant=0, size=3, angle=3):
    return draw_cover(letter, family, weight, slant, size, angle).numpy() / 255.0


def test_declaration():
    assert GLYPHS.sizes == (12, 3, 2, 2, 10, 10, 6, 7) and len(SOURCE) == 12 * 12 * 100 * 42
    assert len(CAP_HEIGHTS) == 6 and len(ANGLES) == 7 and ANGLES[3] == 0
    assert SOURCE.procedural and SOURCE.identity == Glyphs().identity


def test_every_font_exists_and_is_another():
    assert len({font_path(*font).read_bytes() for font in FONTS}) == 12


def test_an_image_mixes_ink_and_ground():
    cover = torch.from_numpy(ink()).double()
    colours = hues(0.9, 0.5)[6].double(), hues(0.3, 1.0)[2].double()
    expected = sum(
        part * colour[:, None, None] for part, colour in zip((cover, 1 - cover), colours, strict=True)
    )
    assert (draw().double() / 255 - expected).abs().max() <= 0.51 / 255


def test_ink_and_ground_change_no_other_pixel():
    cover = ink()
    assert (cover == 0).any() and (cover == 1).any()
    changed = (draw() != draw(ink_hue=1)).any(dim=0).numpy()
    assert not changed[cover == 0].any() and changed[cover == 1].all()
    changed = (draw() != draw(ground_hue=7)).any(dim=0).numpy()
    assert not changed[cover == 1].any() and changed[cover == 0].all()


def test_a_letter_shows_on_every_ground():
    """Even where ink and ground have the same hue."""
    dark, light = hues(0.9, 0.5), hues(0.3, 1.0)
    assert torch.cdist(dark, light).min() > 0.5


def test_geometry():
    assert ink(weight=1).sum() > 1.2 * ink().sum()
    areas = [ink(size=size).sum() for size in range(6)]
    np.testing.assert_allclose(np.array(areas) / areas[0], (np.array(CAP_HEIGHTS) / 16) ** 2, rtol=0.1)
    rows = np.flatnonzero(ink(size=5, letter=3).max(axis=1) > 0.5)
    assert np.ptp(rows) + 1 == pytest.approx(32, abs=1)  # an H is as high as a capital
    upright, turned = (ink(angle=angle, letter=3) for angle in (3, 4))
    assert np.abs(upright - np.flip(upright, (0, 1))).mean() < 0.03  # an H looks the same upside down
    assert np.abs(turned - np.flip(ink(angle=2, letter=3), 1)).mean() < 0.03  # and mirrored


def test_no_letter_is_cut():
    for letter, (family, weight, slant), angle in itertools.product((6, 10), FONTS, (0, 1, 3, 6)):
        cover = ink(letter, family, weight, slant, 5, angle)  # M and W, the widest
        assert max(cover[[0, -1]].max(), cover[:, [0, -1]].max()) < 0.02


@pytest.mark.parametrize("letter", range(len(LETTERS)))
def test_fonts_and_angles_differ_clearly(letter):
    """The difference of any two is at least 8 % of the ink."""
    pictures = np.stack([ink(letter, *font, 3, angle) for font in FONTS for angle in (2, 3)])
    flat = pictures.reshape(len(pictures), -1)
    power = (flat**2).sum(axis=1)
    distance = (power[:, None] + power - 2 * flat @ flat.T) / power
    assert distance[~np.eye(len(flat), dtype=bool)].min() > 0.08


def test_letters_differ_clearly():
    flat = np.stack([ink(letter) for letter in range(len(LETTERS))]).reshape(len(LETTERS), -1)
    power = (flat**2).sum(axis=1)
    distance = (power[:, None] + power - 2 * flat @ flat.T) / power
    assert distance[~np.eye(len(flat), dtype=bool)].min() > 0.25
