"""Train the shared stages of a preset for longer than its budget, and ship them for runs of that preset.

The first two stages serve every run on a data set, so those that ship are trained longer than a preset can
afford. A shipped stage has the hash of the preset's configuration, which is what a run looks for; its record
says on how many images it was trained, and `trained_as` is the hash of that configuration. A run with
`stages.pretrained=false` trains the preset's own budget.

usage:
  python benchmarks/ship_stages.py --base configs/latent_diffusion/shapes3d.yaml --into pretrained/shapes3d
  --images autoencoder=400000 --images latent_diffusion=512000

An interrupted command continues. Everything that was trained on the old stages must be trained again.
"""

import argparse
from pathlib import Path

from disdiff.commands.terminal import run_script
from disdiff.commands.train import begin_job_parser
from disdiff.config.schema import load_config
from disdiff.runs.context import open_context
from disdiff.runs.pipeline import run_pipeline
from disdiff.runs.stages import RECORD, Stage, copy_stage
from ldm.files import save_json


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_job_parser(__doc__, "")
    parser.add_argument(
        "--into", type=Path, required=True, metavar="FOLDER", help="folder of the shipped model"
    )
    parser.add_argument(
        "--images",
        action="append",
        type=read_budget,
        required=True,
        metavar="STAGE=N",
        help="training images of a stage; repeat it for the other",
    )
    return parser


def read_budget(text: str) -> str:
    """Turn `autoencoder=400000` into the override of that stage's budget."""
    name, _, count = text.partition("=")
    if name not in ("autoencoder", "latent_diffusion") or not count.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a stage with its images; write for example autoencoder=400000"
        )
    return f"{name}.train.images={count}"


def main(arguments: argparse.Namespace) -> None:
    """Train with the long budgets, then write the stages with the preset's hashes."""
    overrides = [*arguments.overrides, "stages.pretrained=false"]
    preset = load_config(arguments.base, overrides)
    longer = open_context(load_config(arguments.base, [*overrides, *arguments.images]))
    run_pipeline(longer)
    for name, stage in open_context(preset).stages.items():
        ship(longer.stages[name], stage, arguments.into / "stages" / name)


def ship(trained: Stage, stage: Stage, folder: Path) -> None:
    """Copy a stage that was trained longer than `stage` into `folder`, with the hash of `stage`."""
    copy_stage(trained, folder)
    record = {**trained.record, "hash": stage.hash, "trained_as": trained.hash}
    save_json(folder / RECORD, record)
    print(f"{stage.name}: {record['images']:,} images, {record['seconds'] / 60:.0f} minutes -> {folder}")


if __name__ == "__main__":
    run_script(main, make_parser())
