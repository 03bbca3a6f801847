"""Train and evaluate a system: `python main.py --base configs/disdiff/shapes3d.yaml -t`."""

import argparse

from disdiff.commands import train
from disdiff.commands.terminal import run_script

EXAMPLES = """
examples:
  python main.py --base configs/disdiff/shapes3d.yaml
      show what would be done (configuration, stages, sizes, what is already trained); train nothing
  python main.py --base configs/disdiff/shapes3d.yaml -t
      train the missing stages, then write scores and pictures to runs/disdiff-shapes3d-small-s0;
      run the same command again to resume
  python main.py --base configs/disdiff/shapes3d.yaml -t preset=smoke
      run the whole pipeline in about a minute, as a check of the installation
  python main.py --base configs/disdiff/shapes3d.yaml -t preset=paper trainer.device=cuda
      train the published sizes on a GPU
  python main.py --base configs/disdiff/shapes3d.yaml -t seed=1 code.num_units=6 run.name=six-units
      override any configuration key; a misspelt key is an error

presets: small (default, for two CPU cores), smoke (a one-minute check), paper (published sizes)
`disdiff train` does the same but needs no -t.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = train.begin_job_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "-t", "--train", action="store_true", help="train; without -t nothing is trained or written"
    )
    train.add_best_of(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train with `-t`; without it, show what would be trained."""
    arguments.dry_run = not arguments.train
    train.main(arguments)


if __name__ == "__main__":
    run_script(main, make_parser())
