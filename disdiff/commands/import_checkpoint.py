"""Import released checkpoints (latent diffusion, DisDiff, diffusers autoencoders) as a run folder.

Files are read without executing code in them. OUT/import.json records where each tensor went or why it was
left out, what was assumed, and how the networks perform on images of the data set. With several files,
tensors of a later file replace those of the same name in an earlier one. Moving averages replace only the
weights of their own file.
"""

import argparse
from collections import Counter

from disdiff.commands.common import count
from disdiff.commands.terminal import begin_parser
from disdiff.interop.denoisers import Heads
from disdiff.interop.importing import SYSTEMS, ImportOptions, import_files
from disdiff.interop.run_folder import REPORT, write_run
from ldm.files import expand_home

EXAMPLES = """examples:
  disdiff import dis.ckpt --kind disdiff --data shapes3d --out runs/released
  disdiff import model.ckpt --kind ldm --data shapes3d --head-channels 32 --out runs/ldm
  disdiff import vae/ --kind autoencoder --data shapes3d --out runs/vae
      (vae/ holds config.json and diffusion_pytorch_model.safetensors, the layout of diffusers)
then, for an imported DisDiff:
  disdiff train --base runs/released/config.yaml                  compute scores and pictures, no training
  disdiff swap runs/released
or, for an imported autoencoder or latent diffusion model:
  disdiff train --base runs/vae/config.yaml system=disdiff run.name=mine   train the missing stages"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=expand_home,
        help="checkpoints; later files override earlier ones",
    )
    parser.add_argument("--kind", choices=tuple(SYSTEMS), required=True, help="what the files hold")
    parser.add_argument("--data", metavar="NAME", required=True, help="data set, such as shapes3d")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        type=expand_home,
        help="folder of the data set's files (default: as configured)",
    )
    parser.add_argument("--out", metavar="RUN", type=expand_home, required=True, help="run folder to write")
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="use moving averages if there are any, or raw weights (default: ema)",
    )
    heads = parser.add_mutually_exclusive_group()
    heads.add_argument("--heads", type=count, metavar="N", help="attention heads, which files do not store")
    heads.add_argument("--head-channels", type=count, metavar="C", help="instead: channels per head")
    parser.add_argument(
        "--units", type=count, metavar="N", help="units of DisDiff (default: from the widths)"
    )
    parser.add_argument("--allow-extra", action="store_true", help="leave out unknown tensors")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Import, write the run folder, and print a summary."""
    options = ImportOptions(
        kind=arguments.kind,
        data=arguments.data,
        root=arguments.root and str(arguments.root),
        averaged=arguments.weights == "ema",
        heads=Heads(arguments.heads, arguments.head_channels),
        num_units=arguments.units,
        allow_extra=arguments.allow_extra,
    )
    print_report(write_run(import_files(arguments.files, options), arguments.out))
    print(arguments.out)


def print_report(report: dict) -> None:
    """Print where the tensors went and how the networks perform."""
    for file in report["files"]:
        print(", ".join(f"{key} {value}" for key, value in file.items()))
    placed = (place.split(":")[0] for place in report["placed"].values() if ": replaced by" not in place)
    for line in report["replaced"]:
        print(line)
    for stage, placements in sorted(Counter(placed).items()):
        print(f"{stage}: {placements} tensors placed")
    for reason, tensors in Counter(report["left_out"].values()).most_common():
        print(f"left out: {tensors} ({reason})")
    for line in report["assumed"]:
        print(f"assumed: {line}")
    data = "procedural " * report["checked_on"]["procedural"] + report["checked_on"]["name"]
    for stage, scores in report["checks"].items():
        print(f"{stage} on {data}: {', '.join(f'{name} {value}' for name, value in scores.items())}")
    errors = report["checks"].get("code") or report["checks"].get("latent_diffusion") or {}
    if max((value for name, value in errors.items() if name.startswith("noise_error")), default=0) >= 1:
        print("warning: its noise prediction is no better than chance; check data set, heads and weights")
    print(f"full report: {REPORT}")
