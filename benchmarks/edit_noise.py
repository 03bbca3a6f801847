"""Draw how many swaps are right, and how much else is kept, against the share of new noise.

The noise inferred from an image holds what its code does not say. If a part of it is replaced, the edited
code is obeyed more and the image is kept less. Writes a JSON file and a picture with the same name.

usage:
  python benchmarks/edit_noise.py runs/disdiff-shapes3d-small-s0 --pairs 100 --shares 0 0.25 0.5 1
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from disdiff.commands.common import number
from disdiff.commands.terminal import begin_parser, run_script
from disdiff.evaluation.edit_success import compute_editing
from disdiff.runs.run_folder import load_run
from disdiff.runs.stages import shared_folder
from ldm.data.source import split_indices
from ldm.errors import UserError
from ldm.files import atomic_path, save_json
from ldm.numbers import FRACTION


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder with scores")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of images per factor (default: 100)")
    parser.add_argument(
        "--shares",
        type=number(FRACTION),
        nargs="+",
        default=[0, 0.25, 0.5, 1],
        help="shares of new noise (0 0.25 0.5 1)",
    )
    parser.add_argument("--out", type=Path, help="output JSON (default: RUN/edit_noise.json)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure every share, then write the numbers and the curve."""
    run = load_run(arguments.run)
    if run.scores is None or "dci" not in run.scores:
        raise UserError(f"{arguments.run} has no scores, which assign units to factors; use labelled data")
    config, rows = run.config, {}
    kept = ("success_mean", "kept_mean", "kept_min", "success")
    index = split_indices(run.source, config.data.num_train, config.evaluation.num_images)[1]
    importance = np.array(run.scores["dci"]["importance"])
    for share in arguments.shares:
        measured = compute_editing(
            run.model,
            run.source,
            index,
            importance,
            config.sampler,
            arguments.pairs,
            config.evaluation.seed,
            config.evaluation.probe_steps,
            cache_folder=shared_folder(config),
            new_noise=share,
        )
        rows[f"{share:g}"] = {key: measured[key] for key in kept}
        print(f"{share:.0%} new noise: {rows[f'{share:g}']}")
    out = arguments.out or arguments.run / "edit_noise.json"
    save_json(out, {"pairs": arguments.pairs, "shares": rows})
    draw_curve(rows, out.with_suffix(".png"), run.title)


def draw_curve(rows: dict[str, dict], path: Path, title: str) -> None:
    """Right against kept, one point per share."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="other factors kept", ylabel="swaps right")
    right, kept = ([row[key] for row in rows.values()] for key in ("success_mean", "kept_mean"))
    axes.plot(kept, right, marker="o")
    for share, x, y in zip(rows, kept, right, strict=True):
        axes.annotate(f"{float(share):.0%} new noise", (x, y), xytext=(4, 6), textcoords="offset points")
    axes.set(xlim=(0, 1.05), ylim=(0, 1.05))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    run_script(main, make_parser())
