"""Procedural dSprites: images with the factors of dSprites, drawn from implicit shapes.

With the pixel p, the centre c, the angle a and the half size r, a sprite covers p where its shape covers
R(-a) (p - c) / r: the square max(|u|, |v|) <= 1, an ellipse, or the heart (u^2 + v^2 - 1)^3 <= u^2 v^3. A
pixel is 255 if its centre is covered and 0 otherwise; in the antialiased variant its value is 255 times the
share of 4x4 points that are covered.

Deviation: these are not the images of Matthey et al. (2017), only their factors. Angles are 2 pi k / 40, so
the first and the last differ; the published values include both ends of [0, 2 pi], which are the same angle.
Every output says "procedural".
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.dsprites import DSPRITES
from ldm.data.grid import GREY

IMAGE_SIZE = 64
HALF_SIZE = 9.0  # half side of the square at scale 1, in pixels
MARGIN = 15.5  # distance of the outermost centres from the border, in pixels
POINTS = 4  # points per pixel and axis in the antialiased variant
CHUNK = 64  # images drawn at once


class ProceduralDSprites:
    """All 737,280 images of the procedural dSprites, drawn on access (an `ImageSource`)."""

    name = "dsprites"
    procedural = True
    image_size = IMAGE_SIZE
    channels = 3
    factor_space = DSPRITES

    def __init__(self, antialias: bool = False) -> None:
        """Draw binary images, or antialiased ones."""
        self.antialias = antialias
        self.identity = f"dsprites-procedural-1{'-antialiased' * antialias}"
        self.preparation = f"{'antialiased' if antialias else 'binary'}, {GREY}"

    def __len__(self) -> int:
        return len(DSPRITES)

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, 5) int64."""
        return DSPRITES.factors(index)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, 64, 64) uint8, on the device of `index`."""
        parts = [self._draw(self.factors(part)) for part in index.split(CHUNK)]
        return torch.cat(parts)[:, None].repeat(1, 3, 1, 1)

    def _draw(self, factors: Tensor) -> Tensor:
        points = POINTS if self.antialias else 1
        u, v = sprite_coordinates(factors, IMAGE_SIZE * points)
        covered = torch.zeros_like(u)
        for shape, covers in enumerate((covers_square, covers_ellipse, covers_heart)):
            chosen = factors[:, 0] == shape
            covered[chosen] = covers(u[chosen], v[chosen]).to(u.dtype)
        if points > 1:
            covered = F.avg_pool2d(covered[:, None], points)[:, 0]
        return (255 * covered).round().to(torch.uint8)


def sprite_coordinates(factors: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Coordinates u, v (n, side, side) of points relative to the sprites of `factors` (n, 5) int64.

    They are in units of a sprite's half size; v points up.
    """
    _, scale, orientation, x, y = (column[:, None, None].float() for column in factors.unbind(dim=1))
    place = (torch.arange(side, device=factors.device) + 0.5) * (IMAGE_SIZE / side)
    reach = (IMAGE_SIZE - 2 * MARGIN) / 31
    right = place[None, None, :] - (MARGIN + reach * x)
    up = (MARGIN + reach * y) - place[None, :, None]
    angle, half = 2 * math.pi / 40 * orientation, HALF_SIZE * (0.5 + 0.1 * scale)
    return (right * angle.cos() + up * angle.sin()) / half, (up * angle.cos() - right * angle.sin()) / half


def covers_square(u: Tensor, v: Tensor) -> Tensor:
    """Whether points lie in the square of half side 1."""
    return torch.maximum(u.abs(), v.abs()) <= 1


def covers_ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Whether points lie in the ellipse of half axes 1.2 and 0.7."""
    return (u / 1.2) ** 2 + (v / 0.7) ** 2 <= 1


def covers_heart(u: Tensor, v: Tensor) -> Tensor:
    """Whether points lie in the heart (u^2 + v^2 - 1)^3 <= u^2 v^3."""
    return (u**2 + v**2 - 1) ** 3 <= u**2 * v**3
