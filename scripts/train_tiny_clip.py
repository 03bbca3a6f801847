"""`disdiff tiny-clip` as a script."""

from disdiff.commands.terminal import run_script
from disdiff.commands.tiny_clip import main, make_parser

if __name__ == "__main__":
    run_script(main, make_parser())
