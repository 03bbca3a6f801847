"""`disdiff curves` as a script."""

from disdiff.commands.curves import main, make_parser
from disdiff.commands.terminal import run_script

if __name__ == "__main__":
    run_script(main, make_parser())
