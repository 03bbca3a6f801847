"""`disdiff traverse` as a script."""

from disdiff.commands.terminal import run_script
from disdiff.commands.traverse import main, make_parser

if __name__ == "__main__":
    run_script(main, make_parser())
