"""Run the command line with `python -m disdiff COMMAND`, the same as `disdiff COMMAND`."""

from disdiff.commands.app import main

if __name__ == "__main__":
    main()
