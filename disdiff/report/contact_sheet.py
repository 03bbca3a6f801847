"""The contact sheet of a data set: one factor varied per row, and a row of random images."""

from pathlib import Path

import torch
from torch import Tensor

from disdiff.editing.unit_names import name_data
from disdiff.report.grids import as_grid, save_grid
from ldm.data.source import ImageSource, to_float

COLUMNS = 12
NUM_RANDOM = 60  # images of a data set without factors


def save_contact_sheet(path: Path, source: ImageSource, seed: int) -> None:
    """Write the contact sheet of a data set as a picture.

    Args:
        path: output path; its suffix selects the format.
        source: the data set.
        seed: seed of the random images, the first of which gives the factors that stay in each row.

    Raises:
        UserError: an image cannot be read, the suffix is unknown, or the file cannot be written.
    """
    generator = torch.Generator().manual_seed(seed)
    title = f"{name_data(source.name, source.procedural)}: {len(source):,} images"
    chosen = torch.randint(len(source), (NUM_RANDOM,), generator=generator)
    if source.factor_space is None:
        return save_grid(path, as_grid(to_float(source.images(chosen))), title, "random images")
    names, sizes = source.factor_space.names, source.factor_space.sizes
    rows = [*vary_factors(source, int(chosen[0])), chosen[:COLUMNS]]
    images = torch.ones(len(rows), COLUMNS, source.channels, source.image_size, source.image_size)
    for place, row in enumerate(rows):
        images[place, : len(row)] = to_float(source.images(row))
    labels = [f"{name} ({size})" for name, size in zip(names, sizes, strict=True)]
    says = "per row one factor varies (number of values), and the others stay where such images exist"
    save_grid(path, images, title, says, [*labels, "random"])


def vary_factors(source: ImageSource, base: int) -> list[Tensor]:
    """For each factor, images with values across its range and the other factors as in image `base`.

    Where the data set has no such image, the first one that shares the most of the other factors is taken.

    Returns:
        One index tensor per factor, with up to `COLUMNS` images in the order of the values.
    """
    factors = source.factors(torch.arange(len(source)))
    same = factors == factors[base]
    shared, rows = same.sum(dim=1), []
    for column in range(factors.shape[1]):
        values, others = factors[:, column].unique(), shared - same[:, column].int()
        spread = torch.linspace(0, len(values) - 1, min(COLUMNS, len(values))).round().long()
        best = [torch.where(factors[:, column] == value, others, -1).argmax() for value in values[spread]]
        rows.append(torch.stack(best))
    return rows
