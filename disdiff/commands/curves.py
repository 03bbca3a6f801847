"""Plot a run's loss and gradient norm over the steps, and summarise how steady they were."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from disdiff.commands.common import choose_path, data_path
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find
from disdiff.report.figures import CURVE, DPI, to_png
from ldm.errors import UserError
from ldm.files import atomic_path, expand_home, save_json
from ldm.training.log import read_log, summarise_column

COLUMNS = {
    "loss": "loss",
    "of_frozen": "loss, relative to the frozen model's",
    "grad_norm": "norm of the gradient before clipping",
}
EXAMPLES = """examples:
  disdiff curves runs/pdae-shapes3d-small-s0
Every row of the log is an average over the steps since the last one. The summary leaves out the first tenth
of the steps. Writes edits/<run>-curves.png and a .json beside it; --out PATH changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", type=find, help="run folder with a log.csv")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="output picture")
    return parser


def draw(curves: dict[str, list[tuple[int, float]]], title: str) -> Figure:
    """Plot every column of the log over the steps."""
    figure = Figure(figsize=(3.4 * len(curves), 2.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        marker = "." if len(points) == 1 else None  # a line needs two
        axes.plot(*zip(*points, strict=True), color=CURVE, linewidth=1.2, marker=marker)
        axes.set_title(COLUMNS[name], fontsize=8)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=9)
    return figure


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The columns of `COLUMNS` that a run's log has, as (step, value).

    Raises:
        UserError: there is no log, or it has none of them.
    """
    rows = read_log(run / "log.csv")
    curves = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in COLUMNS
    }
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        raise UserError(f"{run} has no log.csv with a loss; give the folder of a finished run")
    return curves


def main(arguments: argparse.Namespace) -> None:
    """Plot the curves and write their summary."""
    out = choose_path(arguments, "curves.png")
    numbers, curves = data_path(out, ".json"), read_curves(arguments.run)
    summary = {name: summarise_column(points) for name, points in curves.items()}
    with atomic_path(out) as temporary:
        temporary.write_bytes(to_png(draw(curves, arguments.run.resolve().name)))
    save_json(numbers, summary)
    for name, values in summary.items():
        print(f"{COLUMNS[name]}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    print(out)
