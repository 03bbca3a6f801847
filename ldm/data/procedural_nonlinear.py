"""Procedural Shapes3D in another rendering, which is not linear in its colours: `shapes3d_nonlinear`.

Factors and geometry are those of `ldm.data.procedural`. With the albedo c of a material (floor, wall, object)
in a colour channel, the pixel is

    f(sum over materials of (lamp p_1 + sky p_2) c + (lamp q_1 + sky q_2) c^2 / 2
      + lamp (b c_object c_floor + h))

- f is a tone curve, (1 - exp(-e x))^(1/g);
- the light is coloured: a warm lamp, which casts the shadow, and a bluish sky;
- floor and walls are textured: tiles and stripes, half of them plain (p), half darker and purer (q);
- the floor throws light back at the object (b), so that their colours are multiplied;
- the ten hues of floor, wall and object are numbered in three random orders.

The maps p, q, b and the highlight h depend on the geometry only. There is no published file of these images.
"""

import numpy as np
import torch
from torch import Tensor

from ldm.data.procedural import (
    LIGHT,
    NUM_GEOMETRIES,
    SHADOW_RADII,
    ProceduralShapes3D,
    average_rays,
    hue_to_rgb,
    intersect_object,
    meet_room,
    shade_room,
    shine,
)
from ldm.data.shapes3d import FACTOR_VALUES

LAMP, SKY = (1.3, 1.0, 0.65), (0.6, 0.85, 1.35)  # colours of the light
EXPOSURE, GAMMA = 1.7, 1.6  # e and g of the tone curve
TILE, STRIPE = 1.15, 0.92  # widths of the tiles and stripes; the room's side is 9.2
ORDER_SEED = 20261130  # of the orders of the hues
NUM_HUES = len(FACTOR_VALUES["floor hue"])
SURFACES = 3  # floor, wall, object


class NonlinearShapes3D(ProceduralShapes3D):
    """All 480,000 images of the non-linear procedural Shapes3D, addressed by index (an `ImageSource`)."""

    name = "shapes3d_nonlinear"
    identity = "shapes3d_nonlinear-procedural-1"
    preparation = "not linear in colours: tone curve, coloured light, textures, hues in random order"
    num_maps = 4 * SURFACES + 2

    def images(self, index: Tensor) -> Tensor:
        """Images `index` (n,), shape (n, 3, 64, 64) uint8, on the device of `index`."""
        hues, maps = self.factors(index)[:, :SURFACES], self.maps(index % NUM_GEOMETRIES)
        albedo = albedos().to(index.device)[torch.arange(SURFACES, device=index.device), hues]  # (n, 3, 3)
        bounce = albedo[:, 2:] * albedo[:, :1]
        parts = [albedo, albedo, albedo**2 / 2, albedo**2 / 2, bounce, torch.ones_like(bounce)]
        lamp, sky = (torch.tensor([light], device=index.device) for light in (LAMP, SKY))
        lights = torch.cat([lamp, sky, lamp, sky]).repeat_interleave(SURFACES, dim=0)
        radiance = torch.einsum(
            "nmhw,nmc->nchw", maps, torch.cat(parts, dim=1) * torch.cat([lights, lamp, lamp])
        )
        return (255 * tone(radiance)).round().to(torch.uint8)

    def render(self, origin: Tensor, directions: Tensor, shape: int, scale: float) -> Tensor:
        """Maps of one geometry, shape (14, 64, 64).

        They are: plain parts in the lamp and in the sky, darker parts in the lamp and in the sky, each of
        floor, wall and object; light from the floor on the object; highlight.
        """
        point, is_floor, wall_axis = meet_room(origin, directions)
        floor, wall = shade_room(point, is_floor, wall_axis, SHADOW_RADII[shape] * scale)
        open_floor, _ = shade_room(point, is_floor, wall_axis, 1e-3)  # without a shadow
        distance, normal = intersect_object(origin, directions, shape, scale)
        height = (origin + directions * distance.nan_to_num(posinf=0)[:, None])[:, 2].clamp(min=0)
        hit, faces_lamp = distance.isfinite(), wall_axis == 0
        lamp = torch.stack([0.7 * floor, wall * faces_lamp, 0.8 * (normal @ LIGHT).clamp(min=0)])
        sky = torch.stack([0.3 * open_floor, wall * ~faces_lamp, 0.3 + 0.15 * normal[:, 2]])
        bounce = 0.5 * (1 - normal[:, 2]) * torch.exp(-height / scale)
        dark = torch.where(is_floor, is_tile(point), is_stripe(point, wall_axis))
        seen, dark = torch.stack([~hit, ~hit, hit]), torch.stack([dark, dark, torch.zeros_like(dark)])
        masks = torch.cat([seen & ~dark, seen & ~dark, seen & dark, seen & dark, hit[None], hit[None]])
        values = torch.cat([lamp, sky, lamp, sky, bounce[None], 0.5 * shine(normal, directions)[None]])
        return average_rays(torch.where(masks, values, 0.0))


def albedos() -> Tensor:
    """Albedo of floor, wall and object by hue number, in random orders, shape (3, 10, 3) in [0, 1]."""
    random = np.random.RandomState(ORDER_SEED)  # its streams never change
    orders = torch.stack([torch.from_numpy(random.permutation(NUM_HUES)) for _ in range(SURFACES)])
    return hue_to_rgb(NUM_HUES)[orders]


def tone(radiance: Tensor) -> Tensor:
    """The tone curve of radiances of 0 or more, same shape, in [0, 1]."""
    return (1 - torch.exp(-EXPOSURE * radiance)) ** (1 / GAMMA)


def is_tile(point: Tensor) -> Tensor:
    """Whether points (R, 3) of the floor are in a dark tile of its checkerboard, shape (R,)."""
    return (point[:, :2] / TILE).floor().sum(dim=1) % 2 == 1


def is_stripe(point: Tensor, wall_axis: Tensor) -> Tensor:
    """Whether points (R, 3) of the walls are in a dark upright stripe, shape (R,)."""
    along = point.gather(1, 1 - wall_axis[:, None]).squeeze(1)
    return (along / STRIPE).floor() % 2 == 1
