"""Shared terminal code of all commands: argument parser, logging, one-sentence errors. Fast to import."""

import argparse
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

from disdiff.config.advice import CONFIG, add_settings_hint
from ldm.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors have the same form as all other input errors."""

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def begin_parser(
    description: str | None, examples: str | None = None, kind: type[argparse.ArgumentParser] = Parser
) -> argparse.ArgumentParser:
    """A parser without arguments that keeps the line breaks of description and examples."""
    return kind(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run_script(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None = None,
) -> None:
    """Parse the command line (`words`; by default that of the process) and run a command.

    Bad input ends with one sentence on standard error and exit status 2, an interrupt (Ctrl-C) with one word
    and exit status 130. With `--debug`, an option of every command, both end with the traceback.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(words)
    log_to_terminal(sys.stderr)
    if arguments.debug:
        main(arguments)
        return
    try:
        with interruptible("stopped"):
            main(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {word_error(str(error), arguments)}\n")
        sys.exit(2)


@contextmanager
def interruptible(
    message: str = "stopped; the same command continues from the last checkpoint",
) -> Iterator[None]:
    """End with this message and exit status 130 on an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        print(message, file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def many_runs() -> Iterator[None]:
    """Like `interruptible`, for commands that train several runs; on SIGTERM, too, a run saves its state."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with interruptible():
        yield


def end_with(failures: dict[str, str]) -> None:
    """Print the reasons of failed runs, by name, and end with status 1, if there are any."""
    if failures:
        print("failed:", *(f"  {name}: {reason}" for name, reason in failures.items()), sep="\n")
        raise SystemExit(1)


def word_error(message: str, arguments: argparse.Namespace) -> str:
    """An error message whose remedy fits the command line `arguments`; see `add_settings_hint`."""
    if hasattr(arguments, "overrides"):  # the command accepts key=value as the messages advise
        return message
    if not hasattr(arguments, "set"):  # some commands have options of their own for settings of the data
        message = re.sub(r"\bdata\.(\w+)=", lambda key: name_option(key, arguments), message)
    return add_settings_hint(
        message, "--set" if hasattr(arguments, "set") and not hasattr(arguments, "run") else CONFIG
    )


def name_option(key: re.Match[str], arguments: argparse.Namespace) -> str:
    """The option for a setting `data.NAME=`, such as `--root `, if the command has it, else the setting."""
    return f"--{key[1].replace('_', '-')} " if hasattr(arguments, key[1]) else key[0]


def log_to_terminal(stream: TextIO, level: int = logging.INFO) -> None:
    """Print the library's log messages of at least `level` as plain lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("ldm", "disdiff"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [handler], False
