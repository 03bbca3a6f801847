"""`python -m disdiff COMMAND`, the command `disdiff`."""

from disdiff.commands.app import main

if __name__ == "__main__":
    main()
