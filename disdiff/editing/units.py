"""Edit images through units: sampling with a subset S of the units, inversion, and edited codes.

    eps_hat^S(z_t, t) = eps_base(z_t, t) - sqrt(1 - alpha_bar_t) * w sum_{k in S} grad_k(z_t, code_k, t)

with the guidance w. This is a noise prediction like any other, so every sampler can use it and DDIM can be
inverted with it. With all units in S it is conditional sampling; with fewer it is the composition z^S of
DisDiff (Yang et al. 2023, arXiv:2301.13721). Swaps, traversals and interpolations use the same sampler and
differ only in the code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.method.model import Generation, ImageModel, check_units
from ldm.data.arrays import silent
from ldm.diffusion.process import sample_noise, sample_noise_shape
from ldm.diffusion.sampler import SamplerConfig

BATCH = 32  # batch size of `in_batches`


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
) -> Tensor:  # code => image
    """Sample images (B, 3, H, W), clamped to [-1, 1], from codes (B, N, D) and noise z_T (B, C, h, w).

    The noise is random or from `model.infer_noise`; with eta 0 an image is a function of code and z_T.
    `units` are the units to use, None for all; stochastic samplers draw the noise they add from `generator`.
    """
    return model.generate(code, z_T, Generation(sampler, units, generator)).clamp(-1, 1)


def in_batches(
    function: Callable[..., Tensor], *rows: Tensor, progress: Callable[[float], None] = silent
) -> Tensor:
    """Apply `function` to batches of `BATCH` rows and concatenate the results, to limit memory.

    `function` takes one tensor per entry of `rows`, all of equal length, and returns one of that length.
    `progress` is called with the completed fraction, from 0 to 1.
    """
    results, count = [], len(rows[0])
    for parts in zip(*(tensor.split(BATCH) for tensor in rows), strict=True):
        results.append(function(*parts))
        progress(min(len(results) * BATCH, count) / count)
    return torch.cat(results)


def renew_noise(z_T: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a share of the variance of noise `z_T` (B, C, h, w) by new noise; the result is as normal.

    Inferred noise holds what the code does not say, and what it says wrongly. With more new noise an edited
    code is obeyed more, and less of the image is kept.
    """
    return (1 - share) ** 0.5 * z_T + share**0.5 * sample_noise(z_T, generator)


def deterministic(sampler: SamplerConfig) -> SamplerConfig:
    """The sampler that reverses `model.infer_noise`: DDIM with eta 0 and the same number of steps."""
    return replace(sampler, name="ddim", eta=0.0)


def reconstruct(
    model: ImageModel,
    image: Tensor,
    sampler: SamplerConfig,
    z_T: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # image => image
    """Encode images (B, 3, H, W) in [-1, 1] and sample them back from their codes.

    Sampling starts from `z_T` (B, C, h, w), or without it from random noise of `generator`, which also gives
    the noise that stochastic samplers add.

    Raises:
        ValueError: both `z_T` and `generator` are None.
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
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Sample images (n, 3, H, W) from codes (n, N, D) and random noise, with all units or only `units`."""
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
    """Interpolate linearly from `start` to `end` (B, N, D), ends included, shape (B, num_steps, N, D)."""
    share = torch.linspace(0, 1, num_steps, device=start.device)[:, None, None]
    return torch.lerp(start[:, None], end[:, None], share)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Interpolate spherically between standard normal noise `start` and `end` (B, C, h, w), to keep its norm.

    `share` holds A positions in [0, 1]; the result has shape (B, A, C, h, w).
    """
    a, b = start.flatten(1), end.flatten(1)
    cosine = F.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    # for a smaller angle, linear interpolation is exact to float precision
    angle = cosine.acos().clamp(1e-4, math.pi - 1e-4)[:, None]
    weight_a, weight_b = ((place * angle).sin() / angle.sin() for place in (1 - share, share))  # (B, A)
    mixed = weight_a[..., None] * a[:, None] + weight_b[..., None] * b[:, None]
    return mixed.unflatten(2, start.shape[1:])


@dataclass
class Directions:
    """Principal direction of each unit over a data set: mean + amount * std * axis.

    Attributes:
        mean: mean of each unit, shape (N, D).
        axis: first principal direction of each unit, with length 1, shape (N, D).
        std: standard deviation of the data along `axis`, shape (N,).
    """

    mean: Tensor
    axis: Tensor
    std: Tensor

    def to(self, code: Tensor) -> "Directions":
        """The same directions with the device and dtype of `code`."""
        return Directions(self.mean.to(code), self.axis.to(code), self.std.to(code))


def principal_directions(codes: Tensor) -> Directions:
    """First principal direction of each unit; the metrics reduce vector units to scalars along it, too.

    The sign of an eigenvector is arbitrary; here its entry of largest magnitude is positive. With D = 1 the
    direction is the unit itself.

    Args:
        codes: codes of a data set, shape (n, N, D).
    """
    centred = codes.double() - codes.double().mean(dim=0)
    covariance = torch.einsum("nkd,nke->kde", centred, centred) / len(codes)
    values, vectors = torch.linalg.eigh(covariance)
    axis = vectors[..., -1]  # (N, D)
    largest = axis.gather(1, axis.abs().argmax(dim=1, keepdim=True))
    std = values[:, -1].clamp(min=0).sqrt()
    return Directions(codes.double().mean(dim=0), axis * largest.sign(), std).to(codes)


def traverse_code(code: Tensor, unit: int, directions: Directions, amounts: Tensor) -> Tensor:
    """Set `unit` of codes (B, N, D) to positions along its principal direction, shape (B, A, N, D).

    The `amounts` (A,) are in standard deviations from the mean of the data. The other units, and the unit's
    component orthogonal to the direction, stay unchanged.

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
