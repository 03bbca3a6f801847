"""Make the image grids of a run: swaps, traversals, reconstructions and samples."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from disdiff.editing.units import (
    Directions,
    decode_code,
    deterministic,
    in_batches,
    sample_start,
    swap_units,
    traverse_code,
)
from disdiff.method.model import ImageModel
from disdiff.report.sliders import label_amount
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.arrays import silent
from ldm.diffusion.sampler import SamplerConfig

TITLES = {
    "swap": "Swaps: the source image with units of the target image",
    "traversal": "Traversals: one unit moves along its principal direction, the others stay",
    "reconstruction": "Reconstructions: autoencoder, code with random noise, code with inferred noise",
    "samples": "Samples: codes of the data set, random noise",
    "fields": "Gradient fields: magnitude of each unit's field over the latent",
}
# positions of a traversal, in standard deviations
AMOUNTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
FRAME_AMOUNTS = (-3.0, -2.5, *AMOUNTS, 2.5, 3.0)  # positions of the report's sliders


def draw_swap(
    model: ImageModel,
    image_source: Tensor,
    image_target: Tensor,
    swaps: list[list[int]],
    sampler: SamplerConfig,
    z_T: Tensor,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Draw source images (B, 3, H, W) with units of the target images.

    Each of the R entries of `swaps` lists the units that a row takes from the target. Rows are sampled from
    noise `z_T` (B, C, h, w). `progress` is called with the completed fraction, from 0 to 1.

    Returns:
        Source, target and one row per entry of `swaps`, shape (2 + R, B, 3, H, W).
    """
    code_source, code_target = model.encode(image_source), model.encode(image_target)
    code = torch.cat([swap_units(code_source, code_target, units) for units in swaps])
    decode = partial(decode_code, model, sampler=sampler)
    edited = in_batches(decode, code, z_T.repeat(len(swaps), 1, 1, 1), progress=progress)
    return torch.stack([image_source, image_target, *edited.chunk(len(swaps))])


def draw_traversal(
    model: ImageModel,
    image: Tensor,
    units: list[int],
    directions: Directions,
    amounts: tuple[float, ...],
    sampler: SamplerConfig,
    z_T: Tensor,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Draw `image` (1, 3, H, W) while its units, one per row, move along their principal directions.

    The A `amounts` are positions in standard deviations. Images are sampled from noise `z_T` (1, C, h, w).
    `progress` is called with the completed fraction, from 0 to 1.

    Returns:
        Per row the image, then one column per amount, shape (R, 1 + A, 3, H, W).
    """
    code = model.encode(image)
    places = torch.tensor(amounts, device=code.device)
    moved = torch.cat([traverse_code(code, unit, directions.to(code), places)[0] for unit in units])
    decode = partial(decode_code, model, sampler=sampler)
    edited = in_batches(decode, moved, z_T.expand(len(moved), -1, -1, -1), progress=progress)
    edited = edited.unflatten(0, (len(units), len(amounts)))
    return torch.cat([image.expand(len(units), 1, -1, -1, -1), edited], dim=1)


def draw_frames(
    model: ImageModel,
    image: Tensor,
    units: list[int],
    directions: Directions,
    sampler: SamplerConfig,
    z_T: Tensor,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Draw traversals of M images over `FRAME_AMOUNTS`, shape (K, M, 1 + A, 3, H, W)."""
    grids = []

    def advance(done: int, share: float) -> None:
        progress((done + share) / len(image))

    for m in range(len(image)):
        grids.append(
            draw_traversal(
                model,
                image[m : m + 1],
                units,
                directions,
                FRAME_AMOUNTS,
                sampler,
                z_T[m : m + 1],
                partial(advance, m),
            )
        )
    return torch.stack(grids, dim=1)


def draw_reconstruction(
    model: ImageModel, image: Tensor, sampler: SamplerConfig, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Draw images (B, 3, H, W) and their reconstructions by the autoencoder and from their codes.

    Returns:
        Images of shape (4, B, 3, H, W), and a label per row with its PSNR.
    """
    ddim, code = deterministic(sampler), model.encode(image)
    first_stage = model.latent_space.decode(model.latent_space.encode(image)).clamp(-1, 1)
    fresh = decode_code(model, code, sample_start(model, len(image), image.shape[-1], generator), ddim)
    inferred = decode_code(model, code, model.infer_noise(image, code, ddim.num_steps), ddim)
    made = {"first stage": first_stage, "random x_T": fresh, "inferred x_T": inferred}
    labels = [f"{name} · {reconstruction_scores(hat, image)['psnr']:.1f} dB" for name, hat in made.items()]
    return torch.stack([image, *made.values()]), ["original", *labels]


def label_amounts(amounts: tuple[float, ...]) -> list[str]:
    """Column labels of a traversal; the first column is the image itself."""
    return ["image", *map(label_amount, amounts)]
