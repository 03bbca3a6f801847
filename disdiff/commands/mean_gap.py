"""Measure the error of the predicted posterior mean over t, for the frozen model and with the code."""

import argparse

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from disdiff.commands.common import build_parser, choose_path, count, data_path, load_named_run, show_progress
from disdiff.evaluation.mean_gap import FIRST, compute_mean_gap, summarise_gap
from disdiff.method.model import DisDiff
from ldm.errors import UserError
from ldm.files import atomic_path, save_json

EXAMPLES = """examples:
  disdiff mean-gap pretrained/shapes3d                    1000 images, every tenth step
  disdiff mean-gap runs/pdae-shapes3d-small-s0 --every 1  every step
Writes edits/<run>-mean_gap.png and a .json beside it; --out PATH changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=1000, help="number of images (default: 1000)")
    parser.add_argument(
        "--every", type=count, default=10, help="diffusion steps between measurements (default: 10)"
    )
    return parser


def draw(summary: dict, title: str) -> Figure:
    """Plot both gaps over t."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, style in (("frozen", "--"), ("corrected", "-")):
        axes.semilogy(summary["t"], summary[name], style, label=name)
    axes.set(xlabel="t", ylabel="gap of the posterior mean", title=title)
    axes.legend(frameon=False)
    return figure


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Measure the gap over t, plot it, and print how much the correction lowers it."""
    out = choose_path(arguments, "mean_gap.png")
    numbers = data_path(out, ".json")
    run = load_named_run(arguments)
    if not isinstance(run.model, DisDiff):
        raise UserError(f"{run.config.system} has no frozen model to correct; give a run of disdiff or pdae")
    steps = torch.arange(0, run.model.schedule.num_steps, arguments.every)
    if steps[-1] < FIRST:
        raise UserError(
            f"--every {arguments.every} skips all steps from t = {FIRST} on; give a smaller number"
        )
    image = run.draw_images(arguments.num, arguments.seed).to(run.model.device)
    generator = torch.Generator().manual_seed(arguments.seed)
    with show_progress("measuring") as progress:
        summary = summarise_gap(steps, compute_mean_gap(run.model, image, steps, generator, progress))
    with atomic_path(out) as temporary:
        draw(summary, run.title).savefig(temporary, format=out.suffix[1:])
    save_json(numbers, {**summary, "num_images": arguments.num, "seed": arguments.seed})
    first, last, count = summary["first"], summary["last"], summary["num_steps"]
    lowered, ratio = summary["lowered_share"], summary["mean_ratio"]
    print(
        f"t in {first}..{last}, {arguments.num} images: the correction lowers the gap at {lowered:.1%} of "
        f"{count} steps, mean ratio {ratio:.3f}"
    )
    print(out)
