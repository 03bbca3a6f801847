"""Swap single units, pairs and all of them, and measure whether their effects compose."""

import argparse

import numpy as np
import torch
from torch import Tensor

from disdiff.commands.common import (
    add_sampler_options,
    build_parser,
    choose_path,
    count,
    data_path,
    open_run,
    save_picture,
    show_progress,
)
from disdiff.editing.units import deterministic
from disdiff.evaluation.composition import SIZES, Swapped, summarise_composition, swap_sets
from disdiff.evaluation.edit_success import FactorReader, find_varying
from disdiff.runs.run_folder import Run
from ldm.errors import UserError
from ldm.files import save_json

NAME = "composition.png"
NUM_SHOWN = 8
EXAMPLES = """examples:
  disdiff compose pretrained/shapes3d               100 pairs of images
  disdiff compose pretrained/shapes3d --num 8 --seed 1
A factor's unit is the one with the highest DCI importance; units of no factor are not swapped. Factors are
read by the probe that also judges swaps, trained on first use (a minute). Writes edits/<run>-composition.png
and a .json beside it; --out PATH changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=100, help="number of pairs of images (default: 100)")
    add_sampler_options(parser)
    return parser


def assign_units(run: Run) -> dict[int, int]:
    """The unit of each factor that varies in the evaluation images, by the highest DCI importance.

    Raises:
        UserError: the run has no DCI scores.
    """
    importance = ((run.scores or {}).get("dci") or {}).get("importance")
    if importance is None:
        raise UserError(f"{run.folder} has no DCI scores, which assign units to factors; evaluate it first")
    units = np.asarray(importance).argmax(axis=0).tolist()
    return {factor: units[factor] for factor in find_varying(run.source, run.eval_index)}


def draw_rows(swapped: Swapped, source: Tensor, target: Tensor) -> tuple[Tensor, list[str]]:
    """Rows of pictures with their labels: two units alone, both, the sum of both changes, and all units."""
    pair, every = swapped.sets["pair"][0], swapped.sets["all"][0]
    total = (swapped.images[()] + swapped.sum_changes(pair)).clamp(-1, 1)
    names = [f"unit {k}" for k in pair]
    rows = {
        "source": source,
        "target": target,
        **{f"{name} swapped": swapped.images[k,] for name, k in zip(names, pair, strict=True)},
        "both swapped": swapped.images[pair],
        "sum of both changes": total,
        "all swapped": swapped.images[every],
    }
    return torch.stack([images[:NUM_SHOWN].cpu() for images in rows.values()]), list(rows)


@torch.no_grad()  # the probe may be trained, which inference mode forbids
def main(arguments: argparse.Namespace) -> None:
    """Swap the sets of units, read the factors, and write the rates and a picture."""
    out = choose_path(arguments, NAME)
    numbers = data_path(out, ".json")
    run, sampler = open_run(arguments)
    assigned = assign_units(run)
    source, target = run.draw_indices(2 * arguments.num, arguments.seed).chunk(2)
    with show_progress("probe") as progress:
        probe = run.find_probe(progress)
    reader = FactorReader(run.model, run.source, [probe], deterministic(sampler))
    with show_progress("swapping") as progress:
        swapped = swap_sets(reader, source, target, list(assigned.values()), progress)
    found = {units: reader.predict(images)[:, 0].cpu() for units, images in swapped.images.items()}
    before, wanted = run.source.factors(source), run.source.factors(target)
    rates = summarise_composition(swapped, found, before, wanted, assigned)
    names = run.source.factor_space.names
    save_json(
        numbers,
        {
            **rates,
            "assigned_unit": {names[factor]: unit for factor, unit in assigned.items()},
            "num_pairs": arguments.num,
            "seed": arguments.seed,
            "num_steps": sampler.num_steps,
            "guidance": run.config.sampler.guidance,
        },
    )
    for name, by_size in rates.items():
        told = ", ".join(f"{size} {by_size[size]:.3f}" for size in SIZES if by_size[size] is not None)
        print(f"{name}: {told}")
    images, labels = draw_rows(swapped, *(reader.images(part[:NUM_SHOWN]) for part in (source, target)))
    save_picture(out, run, images, "Units alone and together", labels)
