"""Show what a configuration would train (all keys, stages, sizes, stages already trained); trains nothing."""

import argparse

from disdiff.commands import train

EXAMPLES = """examples:
  disdiff show --base configs/disdiff/shapes3d.yaml
  disdiff show --base configs/disdiff/shapes3d.yaml preset=paper code.num_units=6"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return train.begin_job_parser(__doc__, EXAMPLES)


def main(arguments: argparse.Namespace) -> None:
    """Show what would be trained."""
    arguments.dry_run = True
    train.main(arguments)
