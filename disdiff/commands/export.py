"""Export a run as a portable folder: weights of all stages, configuration, scores, codes and a model card.

The folder is self-contained, holds no paths of this machine, and is loaded with `disdiff.load(TARGET)`.
With --to-hub it is uploaded instead, and loaded with `disdiff.load("OWNER/NAME", download=True)`.
"""

import argparse

from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find
from disdiff.interop.exporting import export_run
from disdiff.interop.hub import push_run
from ldm.errors import UserError
from ldm.files import expand_home

EXAMPLES = """examples:
  disdiff export pretrained/shapes3d exports/shapes3d
  disdiff export runs/disdiff-folder-small-s0 exports/mine --license cc-by-4.0
then
  disdiff edit exports/mine photo.png --unit 0 --by 2
  disdiff export runs/disdiff-folder-small-s0 --to-hub NAME/MODEL --private
      upload it under your account (`hf auth login`); read exports/mine/README.md first"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", type=find, help="run folder, such as pretrained/shapes3d")
    parser.add_argument("target", metavar="TARGET", nargs="?", type=expand_home, help="new or empty folder")
    parser.add_argument("--to-hub", metavar="OWNER/NAME", help="upload to the hub instead")
    parser.add_argument("--private", action="store_true", help="create a private model with --to-hub")
    parser.add_argument(
        "--license", metavar="NAME", help="licence of the weights, for the card (default: none)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Export the run and print what was written.

    Raises:
        UserError: there is neither TARGET nor --to-hub, or both.
    """
    if (arguments.target is None) == (arguments.to_hub is None):
        raise UserError("give one place for the export: a folder TARGET, or --to-hub OWNER/NAME")
    if arguments.to_hub is not None:
        print(push_run(arguments.run, arguments.to_hub, arguments.license, arguments.private or None))
        return
    target = export_run(arguments.run, arguments.target, arguments.license)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 1e3:9,.1f} kB  {path.relative_to(target)}")
    print(arguments.target)
