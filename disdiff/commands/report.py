"""Write the report of a run: one HTML file that works offline, made from the files in the run folder."""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from disdiff.commands.common import build_parser, load_named_run
from disdiff.config.places import results_folder
from disdiff.report.album import PARTS, make_pictures
from disdiff.report.animation import ANIMATION, save_animation
from disdiff.report.html import name_run, write_report
from disdiff.report.sliders import FRAMES, load_frames
from disdiff.runs.results import list_pictures, progress_bar
from ldm.errors import UserError
from ldm.files import load_json
from ldm.training.weight_files import WEIGHTS

EXAMPLES = """examples:
  disdiff report runs/disdiff-shapes3d-small-s0                     write report.html there
  disdiff report pretrained/shapes3d --out report.html              write it elsewhere
  disdiff report runs/disdiff-shapes3d-small-s0 --pictures --seed 1 draw new pictures first

Pictures that are missing in a run folder of an earlier version are drawn first."""
NEWER = ("traversal", "fields")  # parts that run folders of earlier versions lack


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES, "file of the report (default: RUN/report.html)")
    parser.add_argument("--pictures", action="store_true", help="redraw the pictures of the run first")
    return parser


def list_missing(arguments: argparse.Namespace) -> list[str]:
    """Parts that are missing in the folder and can be drawn from its weights and codes."""
    folder = arguments.run
    if not ((folder / "stages" / "code" / WEIGHTS).exists() and (folder / "codes.npz").exists()):
        return []
    needed = {part: [name for name in PARTS[part] if name != ANIMATION] for part in NEWER}
    return [part for part, names in needed.items() if not all((folder / name).exists() for name in names)]


def animate(folder: Path) -> None:
    """Write the animation of a run of an earlier version, which has the frames but no animation."""
    if (folder / FRAMES).exists() and not (folder / ANIMATION).exists():
        names = name_run(folder, load_json(folder / "metrics.json"))
        save_animation(folder / ANIMATION, load_frames(folder), names)


def draw(arguments: argparse.Namespace, parts: Collection[str], seed: int | None) -> None:
    """Draw the given parts, as far as the model supports them; `seed` None uses the seed of the run.

    Raises:
        UserError: the run cannot be loaded, or the data found here are not those of the run.
    """
    run = load_named_run(arguments)
    config, codes, scores = run.config, run.require_codes(), run.scores
    made_on = ((run.metrics() or {}).get("dataset") or {}).get("procedural", run.source.procedural)
    if made_on != run.source.procedural:
        kinds = ("real", "procedural")
        raise UserError(
            f"the run was trained on {kinds[made_on]} {run.source.name}, but {kinds[not made_on]} images "
            "were found; set data.root and data.procedural in its config.yaml"
        )
    parts = [part for part in list_pictures(run.model) if part in parts]
    if not parts:
        return
    seed = config.seed if seed is None else seed
    with progress_bar("pictures") as progress:
        shared = (
            run.model,
            run.source,
            run.eval_index,
            codes,
            scores,
            run.folder,
            config.sampler,
            seed,
            progress,
        )
        make_pictures(*shared, parts=parts)


def main(arguments: argparse.Namespace) -> None:
    """Draw the missing or requested pictures, then write the report."""
    if arguments.pictures:
        if results_folder(arguments.run) != arguments.run:
            raise UserError(
                f"{arguments.run} is part of the installed package and is not changed; copy it with "
                "`disdiff export pretrained/shapes3d FOLDER` and use the copy"
            )
        draw(arguments, PARTS, arguments.seed)
    elif missing := list_missing(arguments):
        try:
            draw(arguments, missing, None)
        except UserError as error:  # the report is useful without these pictures
            sys.stderr.write(f"note: the pictures {' and '.join(missing)} were not drawn: {error}\n")
    if results_folder(arguments.run) == arguments.run:
        animate(arguments.run)
    out = arguments.out or results_folder(arguments.run) / "report.html"
    print(write_report(arguments.run, out))
