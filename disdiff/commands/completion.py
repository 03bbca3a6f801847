"""Print the Tab completion of `disdiff` for a shell; needs `pip install disdiff[completion]`."""

import argparse

from disdiff.commands.terminal import begin_parser
from ldm.errors import UserError

EXAMPLES = """examples:
  disdiff completion bash > ~/.local/share/bash-completion/completions/disdiff
  disdiff completion zsh > ~/.zfunc/_disdiff          in a folder of $fpath"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="target shell")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Build the parser of every command and print the completion script."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab; run `pip install shtab`") from None
    print(shtab.complete(build_whole_parser(), arguments.shell))


def build_whole_parser() -> argparse.ArgumentParser:
    """One parser with all commands as its subcommands."""
    from disdiff.commands.app import COMMANDS, load_command

    whole = argparse.ArgumentParser(prog="disdiff")
    commands = whole.add_subparsers()
    for name, (_, text) in COMMANDS.items():
        own = load_command(name).make_parser()
        commands.add_parser(name, parents=[own], add_help=False, help=text)
    return whole
