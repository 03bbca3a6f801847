"""Write the report of a run, one HTML file that opens offline, from what lies in its folder."""

import argparse
import sys
from collections.abc import Collection

from tqdm import tqdm

from disdiff.commands.common import build_parser, load_run_of
from disdiff.config.places import results_folder
from disdiff.report.album import PARTS, make_pictures
from disdiff.report.html import write_report
from disdiff.runs.results import list_pictures
from ldm.data.source import split_indices
from ldm.errors import UserError
from ldm.training.weight_files import WEIGHTS

EXAMPLES = """examples:
  disdiff report runs/disdiff-shapes3d-small-s0                     writes report.html there
  disdiff report pretrained/shapes3d --out /tmp/report.html         writes it elsewhere
  disdiff report runs/disdiff-shapes3d-small-s0 --pictures --seed 1 draws new pictures first

A run folder of an earlier version, without some of the pictures, gets them first."""
NEWER = ("traversal", "fields")  # parts that run folders may lack


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--pictures", action="store_true", help="draw the run's pictures anew first")
    return parser


def list_missing(arguments: argparse.Namespace) -> list[str]:
    """Parts that the folder lacks and that its weights and codes can draw."""
    folder = arguments.run
    if not ((folder / "stages" / "code" / WEIGHTS).exists() and (folder / "codes.npz").exists()):
        return []
    return [part for part in NEWER if not all((folder / name).exists() for name in PARTS[part])]


def draw(arguments: argparse.Namespace, parts: Collection[str], seed: int | None) -> None:
    """Draw those of some pictures that the model can have; with the run's own seed if None.

    Raises:
        UserError: the run cannot be loaded, or its data are not the ones that lie here.
    """
    run = load_run_of(arguments)
    config, codes, scores = run.config, run.require_codes(), run.scores
    made_on = ((run.metrics() or {}).get("dataset") or {}).get("procedural", run.source.procedural)
    if made_on != run.source.procedural:
        kinds = ("real", "procedural")
        raise UserError(
            f"the run was made on {kinds[made_on]} {run.source.name}, but here are {kinds[not made_on]} "
            "images; set data.root and data.procedural in its config.yaml"
        )
    parts = [part for part in list_pictures(run.model) if part in parts]
    if not parts:
        return
    seed = config.seed if seed is None else seed
    index = split_indices(run.source, config.data.num_train, config.evaluation.num_images)[1]
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}") as bar:

        def progress(name: str, share: float) -> None:
            bar.set_description(name, refresh=False)
            bar.update(round(100 * share) - bar.n)

        shared = (run.model, run.source, index, codes, scores, run.folder, config.sampler, seed, progress)
        make_pictures(*shared, parts=parts)


def main(arguments: argparse.Namespace) -> None:
    """Write the report, drawing first what is missing or asked for."""
    if arguments.pictures:
        if results_folder(arguments.run) != arguments.run:
            raise UserError(
                f"{arguments.run} is part of the installed package, which stays as it is; copy it by "
                "`disdiff export pretrained/shapes3d FOLDER` and draw there"
            )
        draw(arguments, PARTS, arguments.seed)
    elif missing := list_missing(arguments):
        try:
            draw(arguments, missing, None)
        except UserError as error:  # the report is worth having without them
            sys.stderr.write(f"note: no pictures of {' and '.join(missing)}: {error}\n")
    out = arguments.out or results_folder(arguments.run) / "report.html"
    print(write_report(arguments.run, out))
