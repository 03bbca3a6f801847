"""Procedural Shapes3D: images with the factors of Shapes3D, rendered by a small ray caster.

A camera looks into a square room and moves around its centre with the orientation factor. One shaded object
with a highlight and a soft contact shadow stands in the middle. For a given geometry (scale, shape,
orientation: 480 of them) an image is linear in the three material colours plus a white highlight,

    image = floor_map * floor_rgb + wall_map * wall_rgb + object_map * object_rgb + highlight,

so 480 x 4 maps are enough for all 480,000 images, and a batch is a gather and an einsum on any device. Maps
are rendered when they are first needed, and kept.

Deviation: these are not the images of Burgess & Kim (2018), only their factors and layout; every output says
"procedural".
"""

import colorsys
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.shapes3d import FACTOR_VALUES, SHAPES3D

NUM_GEOMETRIES = 8 * 4 * 15  # scale, shape, orientation: the last three factors
IMAGE_SIZE = 64
SUPERSAMPLING = 3  # rays per pixel and axis
LIGHT = F.normalize(torch.tensor([0.45, -0.55, 0.95]), dim=0)  # towards the light, in the room's frame
ROOM_HALF_SIDE = 4.6
FIELD_OF_VIEW = math.radians(33)
SHADOW_RADII = (0.95, 0.85, 0.8, 0.65)  # of cube, cylinder, sphere and capsule at scale 1
CAMERA_DISTANCE, CAMERA_HEIGHT, TARGET_HEIGHT = 8.6, 3.6, 0.85


class ProceduralShapes3D:
    """All 480,000 images of the procedural Shapes3D, addressed by index (an `ImageSource`)."""

    name = "shapes3d"
    procedural = True
    identity = "shapes3d-procedural-1"
    image_size = IMAGE_SIZE
    channels = 3
    factor_space = SHAPES3D
    num_maps = 4

    def __init__(self) -> None:
        self._maps = torch.empty(NUM_GEOMETRIES, self.num_maps, IMAGE_SIZE, IMAGE_SIZE)
        self._rendered = torch.zeros(NUM_GEOMETRIES, dtype=torch.bool)

    def __len__(self) -> int:
        return len(SHAPES3D)

    def factors(self, index: Tensor) -> Tensor:
        """Factor values of images `index` (n,), shape (n, 6) int64."""
        return SHAPES3D.factors(index)

    def images(self, index: Tensor) -> Tensor:
        """Images `index` (n,), shape (n, 3, 64, 64) uint8, on the device of `index`."""
        factors, maps = self.factors(index), self.maps(index % NUM_GEOMETRIES)
        colours = hue_to_rgb(len(FACTOR_VALUES["floor hue"])).to(index.device)[factors[:, :3]]  # (n, 3, 3)
        white = torch.ones_like(colours[:, :1])
        image = torch.einsum("nmhw,nmc->nchw", maps, torch.cat([colours, white], dim=1))
        return (image * 255).round().clamp(0, 255).to(torch.uint8)

    def maps(self, geometry: Tensor) -> Tensor:
        """Floor, wall, object and highlight map of geometries (n,), shape (n, 4, 64, 64) in [0, 1]."""
        place = geometry.cpu()
        for missing in place[~self._rendered[place]].unique().tolist():
            scale_index, rest = divmod(missing, 4 * 15)
            shape, orientation = divmod(rest, 15)
            rays = camera_rays(math.radians(FACTOR_VALUES["orientation"][orientation]))
            self._maps[missing] = self.render(*rays, shape, FACTOR_VALUES["scale"][scale_index])
            self._rendered[missing] = True
        return self._maps[place].to(geometry.device)

    def render(self, origin: Tensor, directions: Tensor, shape: int, scale: float) -> Tensor:
        """Maps of one geometry; see `render_maps`."""
        return render_maps(origin, directions, shape, scale)


def hue_to_rgb(num_hues: int) -> Tensor:
    """Colours of `num_hues` evenly spaced hues, shape (num_hues, 3) in [0, 1]."""
    return torch.tensor([colorsys.hsv_to_rgb(hue / num_hues, 0.9, 0.95) for hue in range(num_hues)])


def camera_rays(angle: float) -> tuple[Tensor, Tensor]:
    """Origin (3,) and unit directions (R, 3) of the rays of a camera at `angle` radians.

    R = (64 * supersampling)^2. At angle 0 the camera looks into the far corner of the room.
    """
    azimuth = math.pi / 4 + angle
    origin = torch.tensor([math.cos(azimuth), math.sin(azimuth), 0.0]) * CAMERA_DISTANCE
    origin[2] = CAMERA_HEIGHT
    forward = F.normalize(torch.tensor([0.0, 0.0, TARGET_HEIGHT]) - origin, dim=0)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    up = torch.linalg.cross(right, forward)
    side = IMAGE_SIZE * SUPERSAMPLING
    steps = ((torch.arange(side) + 0.5) / side * 2 - 1) * math.tan(FIELD_OF_VIEW / 2)
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    directions = forward + x[..., None] * right + y[..., None] * up
    return origin, F.normalize(directions.reshape(-1, 3), dim=-1)


def render_maps(origin: Tensor, directions: Tensor, shape: int, scale: float) -> Tensor:
    """Trace the rays through the room with one object; return the four averaged maps, shape (4, 64, 64)."""
    room = meet_room(origin, directions)
    floor, wall = shade_room(*room, shadow_radius=scale * SHADOW_RADII[shape])
    distance, normal = intersect_object(origin, directions, shape, scale)
    hit = distance.isfinite()
    diffuse = 0.42 + 0.5 * (normal @ LIGHT).clamp(min=0)
    highlight = 0.45 * shine(normal, directions)
    zero = torch.zeros_like(diffuse)
    layers = torch.stack(
        [
            torch.where(hit, zero, floor),
            torch.where(hit, zero, wall),
            torch.where(hit, diffuse * (1 - highlight), zero),
            torch.where(hit, highlight, zero),
        ]
    )
    return average_rays(layers)


def average_rays(layers: Tensor) -> Tensor:
    """Average values of rays (M, R) to pixels, shape (M, 64, 64)."""
    side = IMAGE_SIZE * SUPERSAMPLING
    return F.avg_pool2d(layers.view(len(layers), side, side), SUPERSAMPLING)


def shine(normal: Tensor, directions: Tensor) -> Tensor:
    """Blinn's highlight of rays that meet a surface with `normal` (R, 3), shape (R,) in [0, 1]."""
    half_vector = F.normalize(LIGHT - directions, dim=-1)
    return (normal * half_vector).sum(-1).clamp(min=0) ** 40


def meet_room(origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays meet the room: points (R, 3), whether on the floor (R,), and the wall's axis (R,)."""
    to_walls = (directions[:, :2].sign() * ROOM_HALF_SIDE - origin[:2]) / directions[:, :2]
    to_walls = torch.where(to_walls > 0, to_walls, torch.inf)
    wall_distance, wall_axis = to_walls.min(dim=1)
    floor_distance = torch.where(directions[:, 2] < 0, -origin[2] / directions[:, 2], torch.inf)
    is_floor = floor_distance < wall_distance
    point = origin + directions * torch.minimum(floor_distance, wall_distance)[:, None]
    return point, is_floor, wall_axis


def shade_room(
    point: Tensor, is_floor: Tensor, wall_axis: Tensor, shadow_radius: float
) -> tuple[Tensor, Tensor]:
    """Shading of floor and far walls at the points of `meet_room`, each zero on the other; shapes (R,)."""
    shadow = cast_shadow(point, shadow_radius)
    corner = ROOM_HALF_SIDE - point[:, :2].abs()  # distance to the two pairs of walls
    floor = 0.82 * shadow * (1 - 0.3 * torch.exp(-1.5 * corner.min(dim=1).values.clamp(min=0)))

    facing = torch.where(wall_axis == 0, 0.9, 0.66)  # the two visible walls have different brightness
    along = corner.gather(1, 1 - wall_axis[:, None]).squeeze(1).clamp(min=0)
    wall = (
        facing
        * (1 - 0.25 * torch.exp(-1.2 * along))
        * (1 - 0.25 * torch.exp(-1.5 * point[:, 2].clamp(min=0)))
    )
    zero = torch.zeros_like(floor)
    return torch.where(is_floor, floor, zero), torch.where(is_floor, zero, wall)


def cast_shadow(point: Tensor, radius: float) -> Tensor:
    """Share of the light that the object's soft shadow leaves at points (R, 3) of the floor, shape (R,)."""
    offset = torch.tensor([-0.25, 0.3]) * radius  # the shadow is on the side away from the light
    away = (point[:, :2] - offset).norm(dim=1) / radius
    return 1 - 0.6 * torch.sigmoid((1.25 - away) * 5)


def intersect_object(origin: Tensor, directions: Tensor, shape: int, scale: float) -> tuple[Tensor, Tensor]:
    """First hit of rays from `origin` (3,) in unit `directions` (R, 3) with the object on the floor's centre.

    The shape is 0 cube, 1 cylinder, 2 sphere, 3 capsule; the scale is from 0.75 to 1.25.

    Returns:
        Distance (R,), infinite where the ray misses, and unit normal (R, 3).
    """
    if shape == 0:
        return _intersect_box(origin, directions, 0.86 * scale)
    if shape == 1:
        return _intersect_cylinder(origin, directions, 0.82 * scale, 1.75 * scale)
    if shape == 2:
        return _intersect_sphere(origin, directions, torch.tensor([0.0, 0.0, scale]), scale)
    radius, height = 0.62 * scale, 2.3 * scale
    ends = [torch.tensor([0.0, 0.0, z]) for z in (radius, height - radius)]
    parts = [_intersect_sphere(origin, directions, end, radius) for end in ends]
    parts.append(_intersect_side(origin, directions, radius, radius, height - radius))
    return _nearest(parts)


def _nearest(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    distances, normals = (torch.stack(values) for values in zip(*parts, strict=True))
    distance, which = distances.min(dim=0)
    return distance, normals.gather(0, which[None, :, None].expand(1, -1, 3)).squeeze(0)


def _solve_quadratic(a: Tensor, half_b: Tensor, c: Tensor) -> Tensor:
    """Smaller root of a x^2 + 2 half_b x + c; infinite if there is no root."""
    discriminant = half_b**2 - a * c
    root = (-half_b - discriminant.clamp(min=0).sqrt()) / a
    return torch.where(discriminant > 0, root, torch.inf)


def _intersect_sphere(
    origin: Tensor, directions: Tensor, centre: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    start = origin - centre
    distance = _solve_quadratic(torch.ones(()), directions @ start, start @ start - radius**2)
    normal = (start + directions * distance.nan_to_num(posinf=0)[:, None]) / radius
    return distance, normal


def _intersect_side(
    origin: Tensor, directions: Tensor, radius: float, low: float, high: float
) -> tuple[Tensor, Tensor]:
    across, start = directions[:, :2], origin[:2]
    distance = _solve_quadratic(across.square().sum(1), across @ start, start @ start - radius**2)
    point = origin + directions * distance.nan_to_num(posinf=0)[:, None]
    inside = (point[:, 2] > low) & (point[:, 2] < high)
    normal = torch.cat([point[:, :2] / radius, torch.zeros_like(point[:, :1])], dim=1)
    return torch.where(inside, distance, torch.inf), normal


def _intersect_cylinder(
    origin: Tensor, directions: Tensor, radius: float, height: float
) -> tuple[Tensor, Tensor]:
    side = _intersect_side(origin, directions, radius, 0.0, height)
    to_lid = (height - origin[2]) / directions[:, 2]
    point = origin[:2] + directions[:, :2] * to_lid[:, None]
    on_lid = (to_lid > 0) & (point.norm(dim=1) < radius)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(directions)
    return _nearest([side, (torch.where(on_lid, to_lid, torch.inf), up)])


def _intersect_box(origin: Tensor, directions: Tensor, half_side: float) -> tuple[Tensor, Tensor]:
    centre = torch.tensor([0.0, 0.0, half_side])
    near = (centre - half_side * directions.sign() - origin) / directions
    far = (centre + half_side * directions.sign() - origin) / directions
    distance, axis = near.max(dim=1)
    hit = distance < far.min(dim=1).values
    normal = -F.one_hot(axis, 3) * directions.sign()
    return torch.where(hit, distance, torch.inf), normal
