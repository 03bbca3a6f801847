"""Editing through units: the noise prediction shifted by a subset S of units, and the codes to feed it.

    eps_hat^S(z_t, t) = eps_base(z_t, t) - sqrt(1 - alpha_bar_t) * sum_{k in S} w_k grad_k(z_t, code_k, t)

is a noise predictor like any other, so the samplers draw with it and DDIM inverts with it. With S all units
this is conditional sampling, with one unit or some the composition z^S of DisDiff (Yang et al. 2023,
arXiv:2301.13721). A swap, a traversal and an interpolation are no modes of anything: they are other codes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.method.model import Generation, ImageModel, check_units
from ldm.diffusion.grid import Progress
from ldm.diffusion.process import sample_noise_shape
from ldm.diffusion.sampler import SamplerConfig

BATCH = 32  # images that `in_batches` works on at once


def sample_start(model: ImageModel, num_images: int, image_size: int, generator: torch.Generator) -> Tensor:
    """Random z_T for images of `image_size` pixels, shape (num_images, C, h, w), on the model's device."""
    shape = (num_images, *model.noise_shape(image_size))
    return sample_noise_shape(shape, generator, model.device)


def decode_code(
    model: ImageModel,
    code: Tensor,
    z_T: Tensor,
    sampler: SamplerConfig,
    units: list[int] | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:  # code => image
    """Make the images that codes describe, from given noise.

    Args:
        model: the model.
        code: shape (B, N, D).
        z_T: noise to start from, random or from `invert`, shape (B, C, h, w).
        sampler: which sampler; with eta 0 the image is a function of code and z_T.
        units: only these take part; None for all.
        generator: source of new noise, for samplers that add any.
        progress: wraps the iterable of steps.

    Returns:
        Images, shape (B, 3, H, W), clamped to [-1, 1].
    """
    return model.generate(code, z_T, Generation(sampler, units, generator, progress)).clamp(-1, 1)


def in_batches(
    function: Callable[..., Tensor], *rows: Tensor, progress: Callable[[float], None] | None = None
) -> Tensor:
    """Apply `function` to `BATCH` rows of each tensor at a time and join the results, so that memory stays
    bounded.

    Args:
        function: takes as many tensors as there are in `rows`, gives one with as many rows.
        rows: tensors of one length n.
        progress: called with the share that is done.
    """
    results, count = [], len(rows[0])
    for parts in zip(*(tensor.split(BATCH) for tensor in rows), strict=True):
        results.append(function(*parts))
        if progress is not None:
            progress(min(len(results) * BATCH, count) / count)
    return torch.cat(results)


def invert(
    model: ImageModel, image: Tensor, code: Tensor, num_steps: int, progress: Progress | None = None
) -> Tensor:  # image => z_T
    """Infer the noise from which `image` (B, 3, H, W) is sampled with `code` (B, N, D): DDIM walked
    backwards.

    Returns:
        z_T, shape (B, C, h, w), for deterministic DDIM in `num_steps` steps.
    """
    return model.infer_noise(image, code, num_steps, progress)


def deterministic(sampler: SamplerConfig) -> SamplerConfig:
    """The sampler that undoes `invert`: DDIM with eta 0 in as many steps."""
    return replace(sampler, name="ddim", eta=0.0)


def reconstruct(
    model: ImageModel,
    image: Tensor,
    sampler: SamplerConfig,
    z_T: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # image => image
    """Encode images and sample them back from their codes.

    Args:
        model: the model.
        image: shape (B, 3, H, W) in [-1, 1].
        sampler: which sampler.
        z_T: noise to start from, shape (B, C, h, w); None draws it.
        generator: source of random z_T, and of new noise for samplers that add any.

    Raises:
        ValueError: noise is to be drawn and there is no generator.
    """
    if z_T is None:
        if generator is None:
            raise ValueError("expected z_T or a generator to draw it from, got neither")
        z_T = sample_start(model, len(image), image.shape[-1], generator)
    return decode_code(model, model.encode(image), z_T, sampler, generator=generator)


def draw_samples(
    model: ImageModel,
    code: Tensor,
    image_size: int,
    sampler: SamplerConfig,
    generator: torch.Generator,
    units: list[int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Images of codes (n, N, D) from random noise, shape (n, 3, H, W); `units` restricts which take part."""
    decode = partial(decode_code, model, sampler=sampler, units=units, generator=generator)
    return in_batches(decode, code, sample_start(model, len(code), image_size, generator), progress=progress)


def swap_units(code_source: Tensor, code_target: Tensor, units: list[int]) -> Tensor:
    """`code_source` (..., N, D) with `units` taken from `code_target` (..., N, D).

    Raises:
        UserError: a unit is out of range or named twice.
    """
    code = code_source.clone()
    index = check_units(units, code.shape[-2])
    code[..., index, :] = code_target[..., index, :]
    return code


def interpolate_codes(start: Tensor, end: Tensor, num_steps: int) -> Tensor:
    """Codes on the lines from `start` to `end` (B, N, D), ends included, shape (B, num_steps, N, D)."""
    share = torch.linspace(0, 1, num_steps, device=start.device)[:, None, None]
    return torch.lerp(start[:, None], end[:, None], share)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Noise on the great circle from `start` to `end` (B, C, h, w), whose norm stays that of noise.

    Args:
        start: standard normal noise, shape (B, C, h, w).
        end: more of it, same shape.
        share: positions in [0, 1], shape (A,).

    Returns:
        Shape (B, A, C, h, w).
    """
    a, b = start.flatten(1), end.flatten(1)
    cosine = F.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    angle = cosine.acos().clamp(1e-4, math.pi - 1e-4)[
        :, None
    ]  # nearer, the arc is straight to float precision
    weight_a, weight_b = ((place * angle).sin() / angle.sin() for place in (1 - share, share))  # (B, A)
    mixed = weight_a[..., None] * a[:, None] + weight_b[..., None] * b[:, None]
    return mixed.unflatten(2, start.shape[1:])


@dataclass
class Directions:
    """The line along which each unit varies most over a data set: mean + amount * std * axis.

    Attributes:
        mean: of each unit, shape (N, D).
        axis: first principal direction of each unit, of length 1, shape (N, D).
        std: standard deviation of the data along it, shape (N,).
    """

    mean: Tensor
    axis: Tensor
    std: Tensor

    def to(self, code: Tensor) -> "Directions":
        """The same on the device and with the dtype of `code`."""
        return Directions(self.mean.to(code), self.axis.to(code), self.std.to(code))


def principal_directions(codes: Tensor) -> Directions:
    """First principal direction of each unit, as the metrics reduce vector units to scalars.

    An eigenvector has no sign of its own: the entry of largest magnitude is made positive. With D = 1 the
    direction is the unit itself.

    Args:
        codes: of a data set, shape (n, N, D).
    """
    centred = codes.double() - codes.double().mean(dim=0)
    covariance = torch.einsum("nkd,nke->kde", centred, centred) / len(codes)
    values, vectors = torch.linalg.eigh(covariance)
    axis = vectors[..., -1]  # (N, D)
    largest = axis.gather(1, axis.abs().argmax(dim=1, keepdim=True))
    std = values[:, -1].clamp(min=0).sqrt()
    return Directions(codes.double().mean(dim=0), axis * largest.sign(), std).to(codes)


def traverse_code(code: Tensor, unit: int, directions: Directions, amounts: Tensor) -> Tensor:
    """Codes whose `unit` stands at given places along its principal direction; all else stays.

    What the unit holds across that direction stays as well.

    Args:
        code: shape (B, N, D).
        unit: which one moves.
        directions: of the data set.
        amounts: places in standard deviations from the data's mean, shape (A,).

    Returns:
        Shape (B, A, N, D).

    Raises:
        UserError: the unit is out of range.
    """
    check_units([unit], code.shape[1])
    mean, axis, std = (part[unit] for part in (directions.mean, directions.axis, directions.std))
    here = (code[:, unit] - mean) @ axis  # (B,)
    move = (amounts * std - here[:, None])[..., None] * axis  # (B, A, D)
    moved = code[:, None].repeat(1, len(amounts), 1, 1)
    moved[:, :, unit] += move
    return moved
