"""`disdiff new-codes` as a script."""

from disdiff.commands.new_codes import main, make_parser
from disdiff.commands.terminal import run_script

if __name__ == "__main__":
    run_script(main, make_parser())
