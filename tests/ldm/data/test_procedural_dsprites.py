import math

import numpy as np
import pytest
import torch

from ldm.data.dsprites import DSPRITES, STEM, open_dsprites
from ldm.data.prepare import write_dsprites
from ldm.data.procedural_dsprites import ProceduralDSprites

CHOSEN = torch.cat(
    [
        torch.tensor([0, len(DSPRITES) - 1]),
        torch.randint(len(DSPRITES), (1000,), generator=torch.Generator().manual_seed(0)),
    ]
)


def draw(factors):
    """One image, pixel by pixel, from the definition."""
    shape, scale, orientation, x, y = factors
    angle, half = 2 * math.pi * orientation / 40, 9 * (0.5 + 0.1 * scale)
    centre = 15.5 + 33 / 31 * x, 15.5 + 33 / 31 * y
    image = np.zeros((64, 64), np.uint8)
    for row in range(64):
        for column in range(64):
            right, up = column + 0.5 - centre[0], centre[1] - row - 0.5
            u = (math.cos(angle) * right + math.sin(angle) * up) / half
            v = (math.cos(angle) * up - math.sin(angle) * right) / half
            inside = (
                max(abs(u), abs(v)) <= 1,
                (u / 1.2) ** 2 + (v / 0.7) ** 2 <= 1,
                (u * u + v * v - 1) ** 3 <= u * u * v**3,
            )[shape]
            image[row, column] = 255 * inside
    return image


def test_is_drawn_as_defined():
    source = ProceduralDSprites()
    for index in CHOSEN[:8]:
        images = source.images(index[None])[0]
        assert (images[0] != torch.from_numpy(draw(source.factors(index[None])[0].tolist()))).sum() <= 2
        assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])


def test_what_a_factor_does():
    """Scale sets the area, place the centre of mass, and no sprite touches the border."""
    source = ProceduralDSprites()
    images, factors = source.images(CHOSEN)[:, 0].double() / 255, source.factors(CHOSEN).double()
    area = images.sum(dim=(1, 2))
    full = torch.stack([area[factors[:, 0] == shape].max() for shape in range(3)])[factors[:, 0].long()]
    np.testing.assert_allclose(area / full, (0.5 + 0.1 * factors[:, 1]) ** 2, rtol=0.15)
    place = torch.arange(64).double() + 0.5
    across, down = (images.sum(1) @ place) / area, (images.sum(2) @ place) / area
    sprites = factors[:, 0] < 2  # the heart's centre of mass is not its centre
    np.testing.assert_allclose(across[sprites], 15.5 + 33 / 31 * factors[sprites, 3], atol=0.5)
    np.testing.assert_allclose(down[sprites], 15.5 + 33 / 31 * factors[sprites, 4], atol=0.5)
    assert images[:, [0, -1]].sum() == 0 and images[:, :, [0, -1]].sum() == 0
    assert set(images.unique().tolist()) == {0.0, 1.0}


def test_the_antialiased_variant_is_smooth_and_another_data_set():
    smooth, hard = ProceduralDSprites(antialias=True), ProceduralDSprites()
    images, edges = smooth.images(CHOSEN[:40]), hard.images(CHOSEN[:40])
    assert len(images.unique()) > 10
    assert (images.double() - edges.double()).abs().mean() < 5
    assert smooth.identity != hard.identity and smooth.procedural
    assert "antialiased" in smooth.preparation and "binary" in hard.preparation


def test_written_in_the_published_layout_it_reads_back(tmp_path):
    source = ProceduralDSprites()
    write_dsprites(tmp_path / f"{STEM}.npz", source, CHOSEN[:300])
    with np.load(tmp_path / f"{STEM}.npz", allow_pickle=False) as file:
        assert file["imgs"].shape == (300, 64, 64) and file["imgs"].max() == 1
        assert file["latents_classes"].shape == (300, 6)
    back, everything = open_dsprites(tmp_path), torch.arange(300)
    assert back.procedural and "procedural" in back.identity
    assert torch.equal(back.images(everything), source.images(CHOSEN[:300]))
    assert torch.equal(back.factors(everything), source.factors(CHOSEN[:300]))


def test_an_index_out_of_range():
    with pytest.raises(ValueError, match="index from 0"):
        ProceduralDSprites().images(torch.tensor([len(DSPRITES)]))
