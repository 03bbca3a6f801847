"""Train and evaluate a system: autoencoder, latent diffusion, the stages of its own, scores, pictures."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from disdiff.commands.terminal import Parser, begin_parser, log_to_terminal

EXAMPLES = """examples:
  disdiff train --base configs/disdiff/shapes3d.yaml
      train what is missing, then scores and pictures in runs/disdiff-shapes3d-small-s0; again: resume
  disdiff train --base configs/disdiff/shapes3d.yaml --dry-run
      say what would be done: configuration, stages, sizes, what is already trained; train nothing
  disdiff train --base configs/disdiff/shapes3d.yaml preset=smoke
      the whole pipeline in a minute, to see that it works
  disdiff train --base configs/disdiff/shapes3d.yaml preset=paper trainer.device=cuda
      the published sizes, for a GPU
  disdiff train --base configs/disdiff/shapes3d.yaml seed=1 code.num_units=6 run.name=six-units
      any key of the configuration can be set; a misspelt one is refused

presets: small (default; two CPU cores), smoke (a proof that all works), paper (published sizes)
configs/... are found from any folder: your own of that name first, then those that ship."""


class JobParser(Parser):
    """A parser that takes `--base FILE ...` and puts every `key=value` into `overrides`."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As of every parser; what is no option is an override."""
        arguments, overrides = self.parse_known_args(args, namespace)
        # `--base a.yaml key=value` hands overrides to --base; they are told apart by their form
        files = [text for text in arguments.base if not is_override(text)]
        arguments.overrides = [text for text in arguments.base if is_override(text)] + overrides
        if not files:
            self.error("--base needs a configuration file")
        arguments.base = files
        return arguments


def is_override(text: str) -> bool:
    """Whether a word after --base is `key=value`; a file that is there is none, whatever its path."""
    return "=" in text and not os.path.isfile(os.path.expanduser(text))


def begin_job_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with the configuration files and overrides of a run."""
    parser = begin_parser(description, examples, JobParser)
    parser.add_argument(
        "--base", nargs="+", required=True, metavar="FILE", help="configuration files, merged left to right"
    )
    return parser


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_job_parser(__doc__, EXAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="train and write nothing, as `disdiff show`")
    parser.add_argument("-t", "--train", action="store_true", help="changes nothing; main.py needs it")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train, or say what would be trained; exit status 130 when interrupted."""
    if arguments.dry_run and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `disdiff show --base FILE | head` ends quietly
    from disdiff.config.schema import load_config  # after the arguments, so that --help is immediate
    from disdiff.runs.context import open_context
    from disdiff.runs.overview import log_overview
    from disdiff.runs.pipeline import run_pipeline
    from ldm.training.ranks import read_ranks

    try:
        log_to_terminal(sys.stdout, logging.INFO if read_ranks().is_main else logging.ERROR)
        context = open_context(load_config(arguments.base, arguments.overrides))
        log_overview(context, full=arguments.dry_run)
        if not arguments.dry_run:
            run_pipeline(context)
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
