"""What every command shares at the terminal, quick to import: its parser, its log, errors as one sentence."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from disdiff.config.advice import CONFIG, place_advice
from ldm.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser that refuses bad arguments as bad input is refused everywhere."""

    def error(self, message: str) -> NoReturn:
        """End with one sentence and exit status 2."""
        self.exit(2, f"error: {message}\n")


def begin_parser(
    description: str | None, examples: str | None = None, kind: type[argparse.ArgumentParser] = Parser
) -> argparse.ArgumentParser:
    """A parser without arguments that shows description and examples as they are written."""
    return kind(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run_script(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None = None,
) -> None:
    """Parse the command line and run; bad input ends in one sentence and exit status 2, or in its traceback
    after `--debug`, which every command takes.

    Args:
        main: the command.
        parser: of its options.
        words: the command line, by default the program's own.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(words)
    log_to_terminal(sys.stderr)
    try:
        main(arguments)
    except UserError as error:
        if arguments.debug:
            raise
        sys.stderr.write(f"error: {word_error(str(error), arguments)}\n")
        sys.exit(2)


def word_error(message: str, arguments: argparse.Namespace) -> str:
    """An error's message with its remedy as the command line `arguments` takes it."""
    if hasattr(arguments, "overrides"):  # the remedies are written for this command line
        return message
    return place_advice(
        message, "--set" if hasattr(arguments, "set") and not hasattr(arguments, "run") else CONFIG
    )


def log_to_terminal(stream: TextIO, level: int = logging.INFO) -> None:
    """Print what the library logs, from `level` on, as plain lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("ldm", "disdiff"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [handler], False
