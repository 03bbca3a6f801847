"""Magnitude of each unit's gradient field at every position of the latent.

    m_k(u, v) = E_eps sqrt(sum_c grad_k(z_t, code_k, t)[c, u, v]^2),   z_t = q_sample(z_0, t, eps)

The expectation is estimated from a few noise samples, at one step t.
"""

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.method.model import DisDiff
from ldm.diffusion.process import q_sample, sample_noise

NUM_DRAWS = 4  # noise samples per image


def compute_fields(model: DisDiff, image: Tensor, t: int, generator: torch.Generator) -> Tensor:
    """Magnitude of every unit's gradient field at step `t`, for images (B, 3, H, W), shape (B, N, h, w)."""
    z_0, code = model.latent_space.encode(image), model.encode(image)
    step, total = torch.full((len(image),), t, device=image.device), 0.0
    for _ in range(NUM_DRAWS):
        z_t = q_sample(model.schedule, z_0, step, sample_noise(z_0, generator))
        grad = model.predict(z_t, step, code).grad  # (B, N, C, h, w)
        total = total + grad.norm(dim=2)
    return total / NUM_DRAWS


def draw_fields(image: Tensor, fields: Tensor, units: list[int]) -> tuple[Tensor, list[str]]:
    """Draw images (B, 3, H, W) above the maps of K units, one row each, scaled to the maximum of its row.

    `fields` (B, N, h, w) is from `compute_fields`.

    Returns:
        Images, shape (1 + K, B, 3, H, W), and K texts with the mean magnitude of each unit.
    """
    maps = fields[:, units].transpose(0, 1)  # (K, B, h, w)
    bright = maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    colours = matplotlib.colormaps["inferno"](bright.cpu().numpy())[..., :3]  # (K, B, h, w, 3)
    tiles = torch.from_numpy(colours).to(image).permute(0, 1, 4, 2, 3) * 2 - 1
    large = F.interpolate(tiles.flatten(0, 1), size=image.shape[-2:], mode="nearest")
    words = [f"mean {float(row.mean()):.2g}" for row in maps]
    return torch.cat([image[None], large.unflatten(0, tiles.shape[:2])]), words
