"""Train the stages of a system (autoencoder, latent diffusion, code), then write scores and pictures."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from disdiff.commands.terminal import Parser, begin_parser, interruptible, log_to_terminal

if TYPE_CHECKING:
    from disdiff.runs.context import Context

EXAMPLES = """examples:
  disdiff train --base configs/disdiff/shapes3d.yaml
      train the missing stages, then write scores and pictures to runs/disdiff-shapes3d-small-s0;
      run the same command again to resume
  disdiff train --base configs/disdiff/shapes3d.yaml --dry-run
      show what would be done (configuration, stages, sizes, what is already trained); train nothing
  disdiff train --base configs/disdiff/shapes3d.yaml preset=smoke
      run the whole pipeline in about a minute, as a check of the installation
  disdiff train --base configs/disdiff/shapes3d.yaml preset=paper trainer.device=cuda
      train the published sizes on a GPU
  disdiff train --base configs/disdiff/shapes3d.yaml --best-of 0,1,2,3,4,5
      begin to pre-train the code with six seeds, and go on with the one of the lowest loss
  disdiff train --base configs/disdiff/shapes3d.yaml seed=1 code.num_units=6 run.name=six-units
      override any configuration key; a misspelt key is an error

presets: small (default, for two CPU cores), smoke (a one-minute check), paper (published sizes)
configs/... works from any folder: your own file of that name is used first, then the shipped one."""


class JobParser(Parser):
    """A parser that accepts `--base FILE ...` and collects every `key=value` in `overrides`."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse as every parser does, and treat words that are not options as overrides."""
        arguments, overrides = self.parse_known_args(args, namespace)
        # argparse puts the overrides of `--base a.yaml key=value` into --base too; split them off by form
        files = [text for text in arguments.base if not is_override(text)]
        arguments.overrides = [text for text in arguments.base if is_override(text)] + overrides
        if arguments.base and not files:
            self.error("--base needs a configuration file")
        arguments.base = files
        return arguments


def is_override(text: str) -> bool:
    """Whether a word after --base is an override `key=value`; a path of an existing file is not."""
    return "=" in text and not os.path.isfile(os.path.expanduser(text))


def begin_job_parser(
    description: str | None, examples: str, needs_base: bool = True
) -> argparse.ArgumentParser:
    """A parser for the configuration files and overrides of a run."""
    parser = begin_parser(description, examples, JobParser)
    parser.add_argument(
        "--base",
        nargs="+",
        required=needs_base,
        default=[],
        metavar="FILE",
        help="configuration files, merged left to right",
    )
    return parser


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_job_parser(__doc__, EXAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="train and write nothing, like `disdiff show`")
    parser.add_argument(
        "-t", "--train", action="store_true", help="no effect; accepted because main.py has it"
    )
    add_best_of(parser)
    return parser


def add_best_of(parser: argparse.ArgumentParser) -> None:
    """Add `--best-of` to the parser of a run."""
    parser.add_argument(
        "--best-of",
        metavar="SEED,SEED",
        help="pre-train the code with each seed for a third of its steps, and go on with that of the lowest "
        "loss; uses no labels",
    )


def open_run(arguments: argparse.Namespace) -> "Context":
    """Open the run that the arguments describe; with `--best-of`, the best one of all seeds."""
    from disdiff.commands.common import parse_seeds  # after the arguments, so that --help is immediate
    from disdiff.config.schema import load_config
    from disdiff.runs.best_seed import choose_seed
    from disdiff.runs.context import open_context

    if arguments.dry_run or not arguments.best_of:
        return open_context(load_config(arguments.base, arguments.overrides))
    seeds = sorted(set(parse_seeds(arguments.best_of, "--best-of")))
    configs = [load_config(arguments.base, [*arguments.overrides, f"seed={seed}"]) for seed in seeds]
    if len({config.run.name for config in configs}) < len(configs):  # a name was given
        for config in configs:
            config.run.name = f"{config.run.name}-s{config.seed}"
    return choose_seed(configs)


def main(arguments: argparse.Namespace) -> None:
    """Train, or show what would be trained; an interrupt ends with exit status 130."""
    if arguments.dry_run and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `disdiff show --base FILE | head` ends quietly
    from disdiff.runs.overview import log_overview
    from disdiff.runs.pipeline import run_pipeline
    from ldm.training.ranks import read_ranks

    with interruptible():
        log_to_terminal(sys.stdout, logging.INFO if read_ranks().is_main else logging.ERROR)
        context = open_run(arguments)
        log_overview(context, full=arguments.dry_run)
        if not arguments.dry_run:
            run_pipeline(context)
