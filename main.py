"""Train and evaluate a system: `python main.py --base configs/disdiff/shapes3d.yaml -t`."""

import argparse

from disdiff.commands import train
from disdiff.commands.terminal import run_script

EXAMPLES = """
examples:
  python main.py --base configs/disdiff/shapes3d.yaml
      say what would be done: configuration, stages, sizes, what is already trained; train nothing
  python main.py --base configs/disdiff/shapes3d.yaml -t
      train what is missing, then scores and pictures in runs/disdiff-shapes3d-small-s0; again: resume
  python main.py --base configs/disdiff/shapes3d.yaml -t preset=smoke
      the whole pipeline in a minute, to see that it works
  python main.py --base configs/disdiff/shapes3d.yaml -t preset=paper trainer.device=cuda
      the published sizes, for a GPU
  python main.py --base configs/disdiff/shapes3d.yaml -t seed=1 code.num_units=6 run.name=six-units
      any key of the configuration can be set; a misspelt one is refused

presets: small (default; two CPU cores), smoke (a proof that all works), paper (published sizes)
`disdiff train` is the same, and trains without -t.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = train.begin_job_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "-t", "--train", action="store_true", help="train; without it nothing is trained or written"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train if asked to, else say what would be trained."""
    arguments.dry_run = not arguments.train
    train.main(arguments)


if __name__ == "__main__":
    run_script(main, make_parser())
