"""Write the picture files of a run folder, all made from the same few images."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disdiff.editing.unit_names import UnitNames, name_data, name_numbers, name_scored_units
from disdiff.editing.units import deterministic, draw_samples, principal_directions
from disdiff.evaluation.codes_file import stack_codes
from disdiff.method.model import ImageModel
from disdiff.report.animation import ANIMATION, save_animation
from disdiff.report.fields import compute_fields, draw_fields
from disdiff.report.grids import as_grid, save_grid
from disdiff.report.pictures import (
    AMOUNTS,
    FRAME_AMOUNTS,
    TITLES,
    draw_frames,
    draw_reconstruction,
    draw_swap,
    label_amounts,
)
from disdiff.report.sliders import FRAMES, load_frames, save_frames
from ldm.data.arrays import silent
from ldm.data.source import ImageSource, to_float
from ldm.diffusion.sampler import SamplerConfig

Report = Callable[[str, float], None]
PARTS = {  # parts in drawing order, each with the files it writes
    "swap": ("swap.png",),
    "traversal": ("traversal.png", FRAMES, ANIMATION),
    "fields": ("fields.png",),
    "reconstruction": ("reconstruction.png",),
    "samples": ("samples.png",),
}
NUM_COLUMNS = 8  # columns of the swap, field and reconstruction grids
NUM_MOVED = 2  # images per slider
NUM_SAMPLES = 32


@torch.no_grad()
def make_pictures(
    model: ImageModel,
    source: ImageSource,
    eval_index: Tensor,
    codes: Mapping[str, np.ndarray],
    scores: Mapping | None,
    folder: str | Path,
    sampler: SamplerConfig,
    seed: int,
    progress: Report = silent,
    parts: Collection[str] = tuple(PARTS),
) -> None:
    """Write the files of `PARTS` into a run folder.

    Args:
        model: the model, in eval mode.
        source: the data set.
        eval_index: indices of images to choose from, shape (n,).
        codes: content of `codes.npz`.
        scores: scores of one protocol, used to name the units; None without labels.
        folder: output folder.
        sampler: sampler of the samples; edits use deterministic DDIM with the same number of steps.
        seed: seed of the choice of images and of the noise.
        progress: called with the name of the current picture and its completed fraction.
        parts: the parts to draw.
    """
    folder, generator = Path(folder), torch.Generator().manual_seed(seed)
    chosen = eval_index[torch.randperm(len(eval_index), generator=generator)[: 2 * NUM_COLUMNS]]
    image = to_float(source.images(chosen)).to(model.device)
    start = image[0::2][: len(image) // 2]
    names = name_scored_units(codes, scores)
    facts = [name_data(source.name, source.procedural), folder.name]
    album = Album(
        model=model,
        start=start,
        target=image[1::2],
        z_T=model.infer_noise(start, model.encode(start), sampler.num_steps),
        codes=stack_codes(codes),
        names=names,
        sampler=sampler,
        generator=generator,
        folder=folder,
        subtitle=" · ".join(facts),
        report=progress,
    )
    for part in PARTS:
        if part in parts:
            getattr(album, f"write_{part}")()


@dataclass
class Album:
    """Some images of a run, their inferred noise, and a method for every entry of `PARTS`."""

    model: ImageModel
    start: Tensor  # (B, 3, H, W)
    target: Tensor  # (B, 3, H, W)
    z_T: Tensor  # of `start`, (B, C, h, w)
    codes: Tensor  # of the data set, (n, N, D)
    names: UnitNames
    sampler: SamplerConfig
    generator: torch.Generator
    folder: Path
    subtitle: str
    report: Report

    @property
    def labels(self) -> list[str]:
        """Names of the units that are shown."""
        return [self.names.labels[unit] for unit in self.names.shown]

    def write_swap(self) -> None:
        """`swap.png`: a row per factor, with all of its units; without scores a row per unit."""
        of_factors, ddim = self.names.of_factors, deterministic(self.sampler)
        swaps = list(of_factors.values()) or [[unit] for unit in self.names.shown]
        rows = [f"{name} · {name_numbers(units)}" for name, units in of_factors.items()] or self.labels
        grid = draw_swap(
            self.model, self.start, self.target, swaps, ddim, self.z_T, self.progress_of("swap.png")
        )
        self.save("swap", grid, ["source", "target", *rows])

    def write_traversal(self) -> None:
        """Write `traversal.png` and `traversal.gif` of one image, and the slider frames of a few images.

        Units that hardly change the picture have no row; a line below the title names them.
        """
        units, directions = self.names.shown, principal_directions(self.codes)
        ddim, progress = deterministic(self.sampler), self.progress_of("traversal.png")
        frames = draw_frames(self.model, self.start[:NUM_MOVED], units, directions, ddim, self.z_T, progress)
        shown = [0, *(1 + FRAME_AMOUNTS.index(amount) for amount in AMOUNTS)]
        save_frames(self.folder / FRAMES, frames[:, :, 1:].transpose(1, 2), units, FRAME_AMOUNTS)
        saved = load_frames(self.folder)
        rows = [row for row in range(len(units)) if row not in saved.faint]
        labels = [self.labels[row] for row in rows]
        self.save("traversal", frames[rows, 0][:, shown], labels, label_amounts(AMOUNTS), note=saved.says)
        save_animation(self.folder / ANIMATION, saved, self.names)

    def write_fields(self) -> None:
        """Write `fields.png`, at the middle diffusion step."""
        self.report("fields.png", 0.0)
        step = self.model.schedule.num_steps // 2
        noise = torch.Generator().manual_seed(self.generator.initial_seed())
        fields = compute_fields(self.model, self.start, step, noise)
        grid, means = draw_fields(self.start, fields, self.names.shown)
        rows = [f"{label} · {mean}" for label, mean in zip(self.labels, means, strict=True)]
        self.save("fields", grid, ["image", *rows], title=f"{TITLES['fields']} (t = {step})")

    def write_reconstruction(self) -> None:
        """`reconstruction.png`."""
        self.report("reconstruction.png", 0.0)
        grid, rows = draw_reconstruction(self.model, self.start, self.sampler, self.generator)
        self.save("reconstruction", grid, rows)

    def write_samples(self) -> None:
        """`samples.png`."""
        rows = torch.randint(len(self.codes), (NUM_SAMPLES,), generator=self.generator)
        code, size = self.codes[rows].to(self.start), self.start.shape[-1]
        progress = self.progress_of("samples.png")
        images = draw_samples(self.model, code, size, self.sampler, self.generator, progress=progress)
        self.save("samples", as_grid(images))

    def progress_of(self, name: str) -> Callable[[float], None]:
        """Progress function of one file, called with the completed fraction."""
        return lambda share: self.report(name, share)

    def save(
        self,
        name: str,
        grid: Tensor,
        rows: list[str] | None = None,
        columns: list[str] | None = None,
        title: str | None = None,
        note: str = "",
    ) -> None:
        """Write `<name>.png`; see `save_grid`. The note is added to the subtitle."""
        left_out = self.names.left_out if name in ("swap", "traversal", "fields") else ""
        subtitle = " · ".join(filter(None, [self.subtitle, left_out, note]))
        save_grid(self.folder / f"{name}.png", grid, title or TITLES[name], subtitle, rows, columns)
