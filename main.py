"""Train and evaluate a system: `python main.py --base configs/disdiff/shapes3d.yaml -t`."""

import argparse
import logging
import os
import signal
import sys

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
  python main.py --base configs/disdiff/shapes3d.yaml -t seed=1 factors.num_units=6 run.name=six-units
      any key of the configuration can be set; a misspelt one is refused

presets: small (default; two CPU cores), smoke (a proof that all works), paper (published sizes)
"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", nargs="+", required=True, metavar="FILE", help="configuration files, merged left to right"
    )
    parser.add_argument(
        "-t", "--train", action="store_true", help="train; without it nothing is trained or written"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments, overrides = parser.parse_known_args()
    files = [text for text in arguments.base if not is_override(text)]
    arguments.overrides = [text for text in arguments.base if is_override(text)] + overrides
    if not files:
        parser.error("--base needs a configuration file")
    arguments.base = files
    return arguments


def is_override(text: str) -> bool:
    """Whether a word after --base is `key=value`; a file that is there is none, whatever its path."""
    return "=" in text and not os.path.isfile(os.path.expanduser(text))


def main() -> int:
    """Run; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    arguments = parse_arguments()
    if not arguments.train and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `main.py --base FILE | head` ends quietly
    from disdiff.commands.common import log_to_terminal  # after the arguments, so that --help is immediate
    from disdiff.config.schema import load_config
    from disdiff.runs.context import open_context
    from disdiff.runs.overview import log_overview
    from disdiff.runs.pipeline import run_pipeline
    from ldm.errors import UserError
    from ldm.training.ranks import read_ranks

    try:
        log_to_terminal(sys.stdout, logging.INFO if read_ranks().is_main else logging.ERROR)
        context = open_context(load_config(arguments.base, arguments.overrides))
        log_overview(context, full=not arguments.train)
        if arguments.train:
            run_pipeline(context)
    except UserError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
