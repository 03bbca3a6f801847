"""Show a finished run (scores, stages, files), or what a configuration would train; trains nothing."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disdiff.commands import train
from disdiff.config.places import find
from ldm.errors import UserError
from ldm.files import load_json
from ldm.training.log import format_duration

EXAMPLES = """examples:
  disdiff show runs/disdiff-shapes3d-small-s0            scores, stages and files of a finished run
  disdiff show --base configs/disdiff/shapes3d.yaml      keys, stages, sizes, time, what is already trained
  disdiff show --base configs/disdiff/shapes3d.yaml preset=paper code.num_units=6"""
SUFFIXES = (".html", ".png", ".gif", ".npz", ".csv", ".json", ".yaml")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = train.begin_job_parser(__doc__, EXAMPLES, needs_base=False)
    parser.add_argument("run", nargs="?", metavar="RUN", help="run folder; instead of --base")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Show a run, or what would be trained."""
    if bool(arguments.run) == bool(arguments.base) or (arguments.run and arguments.overrides):
        raise UserError("give either a run folder or --base FILE, with key=value after --base only")
    if arguments.run:
        print(*describe_run(find(arguments.run)), sep="\n")
        return
    arguments.dry_run = True
    train.main(arguments)


def describe_run(folder: Path) -> Iterator[str]:
    """What a run is, its scores, stages and files, one line each.

    Raises:
        UserError: the folder is no finished run.
    """
    from disdiff.runs.results import summarise  # after the arguments, so that --help is immediate

    if not (folder / "metrics.json").is_file():
        raise UserError(
            f"{folder} has no metrics.json; give the folder of a finished run, or `disdiff show --base FILE` "
            "for what a configuration would train"
        )
    metrics: dict[str, Any] = load_json(folder / "metrics.json")
    yield f"system {metrics['system']}, preset {metrics['preset']}, seed {metrics['seed']}"
    yield summarise(metrics)
    for name, stage in metrics["stages"].items():
        yield f"  {name}: {stage['images']:,} images in {format_duration(stage['seconds'])}"
    yield f"files in {folder}:"
    yield "  " + ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES))
