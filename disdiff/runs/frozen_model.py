"""Look at the frozen model of stage 2 once it is trained: a picture of its samples, and its errors."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from disdiff.editing.unit_names import name_data
from disdiff.editing.units import in_batches
from disdiff.evaluation.frozen_model import (
    NUM_COMPONENTS,
    compute_principal_distance,
    compute_z0_error,
    draw_unconditional,
)
from disdiff.report.grids import as_grid, save_grid
from disdiff.runs.context import Context
from disdiff.runs.results import progress_bar
from disdiff.runs.stages import SAMPLES
from ldm.data.source import to_float
from ldm.diffusion.schedule import Schedule

NUM_SAMPLES = 256
NUM_SHOWN = 32


def measure_frozen(context: Context, denoiser: nn.Module, folder: Path) -> dict[str, float]:
    """Draw `samples.png` of the frozen model, and measure its error and the distance of its samples to data.

    `data_distance` is the same distance between two halves of the data, the value of perfect samples. With
    too few evaluation images there are no distances.
    """
    config, space = context.config, context.latent_space
    generator = torch.Generator().manual_seed(config.stage_seed)
    denoiser, schedule = denoiser.eval(), Schedule(config.latent_diffusion.schedule)
    image = to_float(context.source.images(context.eval_index[: 2 * NUM_SAMPLES])).to(space.mean.device)
    half = (len(image) + 1) // 2
    z_0 = in_batches(space.encode, image[:half])
    errors = compute_z0_error(denoiser, schedule, z_0, generator)
    with progress_bar("frozen model") as progress:
        show = partial(progress, "samples")
        made = draw_unconditional(
            denoiser, schedule, space, tuple(z_0.shape), config.sampler, generator, show
        )
    title = "Samples of the frozen diffusion model, without a code"
    data = name_data(context.source.name, context.source.procedural)
    save_grid(folder / SAMPLES, as_grid(made[:NUM_SHOWN]), title, data)
    scores = {f"z0_error_{step}": error for step, error in errors.items()}
    if len(image) - half <= NUM_COMPONENTS:
        return scores
    return {
        **scores,
        "sample_distance": compute_principal_distance(made, image[half:]),
        "data_distance": compute_principal_distance(image[:half], image[half:]),
    }
