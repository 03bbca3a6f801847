"""Measure the frozen diffusion model of stage 2: its error over t, and how far its samples are from the data.

Gradient fields correct this model, so no edit looks better than what it draws. Its distance to the data uses
no network: images are compared by their principal components, fitted to the data.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from disdiff.editing.units import in_batches
from disdiff.metrics.fid import compute_fid
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.arrays import silent
from ldm.diffusion.process import predict_z0, q_sample, sample_noise, sample_noise_shape
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, sample
from ldm.diffusion.schedule import Schedule

NUM_COMPONENTS = 16
NUM_STEPS = 10  # diffusion steps at which the error is measured


@torch.no_grad()
def compute_z0_error(
    eps_fn: EpsFunction, schedule: Schedule, z_0: Tensor, generator: torch.Generator
) -> dict[int, float]:
    """Mean of (z0_hat - z_0)^2 over images and latent values, by t; 1 is the variance of the latents.

    Args:
        eps_fn: noise predictor, (z_t, t) => eps_hat.
        schedule: the noise schedule.
        z_0: standardised latents, shape (B, C, h, w).
        generator: source of the noise.
    """
    errors, last = {}, schedule.num_steps
    for step in range(last // (2 * NUM_STEPS), last, max(1, last // NUM_STEPS)):

        def measure(z: Tensor, step: int = step) -> Tensor:
            """Error of each latent of one batch at one step, shape (B,)."""
            t = torch.full((len(z),), step, device=z.device)
            z_t = q_sample(schedule, z, t, sample_noise(z, generator))
            z0_hat = predict_z0(schedule, z_t, t, eps_fn(z_t, t))
            return (z0_hat - z).square().flatten(1).mean(dim=1)

        errors[step] = float(in_batches(measure, z_0).mean())
    return errors


@torch.no_grad()
def draw_unconditional(
    eps_fn: EpsFunction,
    schedule: Schedule,
    latent_space: LatentSpace,
    shape: tuple[int, int, int, int],
    sampler: SamplerConfig,
    generator: torch.Generator,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Images of random noise of `shape` (n, C, h, w) in latent space, shape (n, 3, H, W) in [-1, 1].

    `progress` is called with the completed fraction.
    """

    def draw(z_T: Tensor) -> Tensor:
        """Images of one batch of noise."""
        return latent_space.decode(sample(sampler, eps_fn, schedule, z_T, generator)).clamp(-1, 1)

    z_T = sample_noise_shape(shape, generator, latent_space.mean.device)
    return in_batches(draw, z_T, progress=progress)


def compute_principal_distance(images: Tensor, reference: Tensor) -> float:
    """Frechet distance of two sets of images in the principal components of the pixels of `reference`.

    Both have shape (n, C, H, W) with values in [-1, 1]; components are in units of the largest one's standard
    deviation, so that the number does not depend on image size. 16 components; coarse structure only.
    """
    rows, data = (np.asarray(part.flatten(1).cpu(), dtype=np.float64) for part in (images, reference))
    pca = PCA(NUM_COMPONENTS, svd_solver="randomized", random_state=0).fit(data)
    scale = pca.explained_variance_[0] ** 0.5
    return float(compute_fid(pca.transform(rows) / scale, pca.transform(data) / scale)["score"])
