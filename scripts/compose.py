"""`disdiff compose` as a script."""

from disdiff.commands.compose import main, make_parser
from disdiff.commands.terminal import run_script

if __name__ == "__main__":
    run_script(main, make_parser())
