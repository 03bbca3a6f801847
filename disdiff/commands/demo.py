"""Show what the shipped model learned about Shapes3D without labels: pictures, the report, and a new swap."""

import argparse
import shutil
from pathlib import Path

import torch

from disdiff.commands.common import load_named_run, number
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import PRETRAINED
from disdiff.editing.unit_names import name_data, name_numbers
from disdiff.editing.units import deterministic
from disdiff.report.grids import save_grid
from disdiff.report.pictures import draw_swap
from ldm.files import atomic_path
from ldm.numbers import SEED

EXAMPLES = """examples:
  disdiff demo                    write to the folder disdiff-demo
  disdiff demo --seed 1           swap between other images
  disdiff demo --out shown        write to another folder"""
SHOWN = {
    "report.html": "everything on one page, with a slider per unit; open it in a browser",
    "traversal.png": "each row moves one unit; the other units stay fixed",
    "swap.png": "source, target, and then the source with the units of one factor of the target per row",
}
FRESH, NUM_PAIRS = "fresh_swap.png", 6
NEXT = """next:
  disdiff edit pretrained/shapes3d 12 --unit "wall hue" --toward 70000     the wall of another image
  disdiff train --base configs/disdiff/shapes3d.yaml preset=smoke          the whole training, in miniature
  disdiff train --base configs/disdiff/folder.yaml data.root=PHOTOS        train on your own pictures
  disdiff --help                                                           all commands"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("disdiff-demo"), help="folder (disdiff-demo)")
    parser.add_argument(
        "--seed", type=number(SEED), default=0, help="seed of the images that are swapped (default: 0)"
    )
    parser.set_defaults(run=PRETRAINED / "shapes3d", device="cpu")
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Copy pictures and report, swap a factor between new images, and print where everything is."""
    run = load_named_run(arguments)
    for name in SHOWN:
        with atomic_path(arguments.out / name) as temporary:
            shutil.copyfile(run.folder / name, temporary)
    names = run.unit_names()
    factor, units = next(iter(names.of_factors.items()))
    model = run.model
    source, target = run.draw_images(2 * NUM_PAIRS, arguments.seed).chunk(2)
    sampler = deterministic(run.config.sampler)
    z_T = model.infer_noise(source, model.encode(source), sampler.num_steps)
    grid = draw_swap(model, source, target, [units], sampler, z_T)
    title = f"Only {factor} ({name_numbers(units)}) is taken from the target"
    save_grid(arguments.out / FRESH, grid, title, run.title, ["source", "target", "swapped"])
    scores = run.scores
    factor_vae, dci = scores["factor_vae"]["eval_accuracy"], scores["dci"]["disentanglement"]
    print(f"{name_data(run.source.name, run.source.procedural)}: FactorVAE {factor_vae:.3f}, DCI {dci:.3f}")
    print("units, named after the factors that they encode according to the scores:")
    print(*(f"  {names.labels[k]}" for k in names.shown), sep="\n")
    shown = {**SHOWN, FRESH: f"new: {factor} swapped between {NUM_PAIRS} pairs of images"}
    width = max(len(str(arguments.out / name)) for name in shown)
    print("", *(f"{str(arguments.out / name):<{width}}  {text}" for name, text in shown.items()), sep="\n")
    print("", NEXT, sep="\n")
