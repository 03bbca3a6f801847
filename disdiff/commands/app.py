"""The command line `disdiff`: dispatches to one subcommand per task and imports only that subcommand."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from disdiff.commands.terminal import run_script
from disdiff.config.version import find_version

# name on the command line: (module in disdiff.commands, what it does)
COMMANDS = {
    "demo": ("demo", "show what the shipped model learned, in seconds; trains nothing"),
    "train": ("train", "train and evaluate a system: --base configs/disdiff/shapes3d.yaml"),
    "show": ("show", "show a finished run, or what a configuration would train; trains nothing"),
    "swap": ("swap", "swap units between images"),
    "traverse": ("traverse", "move the units of an image one at a time"),
    "edit": ("edit", "edit a picture by units or by their names"),
    "sample": ("sample", "sample new images"),
    "report": ("report", "write the report of a run, one HTML page"),
    "evaluate": ("evaluate", "compute disentanglement scores over seeds and runs"),
    "compare": ("compare", "compare runs in a table; --train trains missing runs first"),
    "claims": ("claims", "write the page that tries the papers' claims; --train makes what is missing"),
    "discover": ("discover", "name units in words with a CLIP model"),
    "fid": ("fid", "FID and KID of samples or reconstructions"),
    "tad": ("tad", "TAD and linear probe of codes"),
    "mean-gap": ("mean_gap", "error of the predicted posterior mean over t"),
    "compose": ("compose", "measure whether the effects of units compose"),
    "new-codes": ("new_codes", "distance to the data of images from new codes: prior, two-phase, latent DPM"),
    "curves": ("curves", "training curves of a run, and how steady its gradient was"),
    "correction-stages": ("correction_stages", "find which stage of sampling needs the code"),
    "data": ("data", "describe, download, convert or check a data set"),
    "export": ("export", "export a run as a portable folder with a model card"),
    "import": ("import_checkpoint", "import released checkpoints as a run folder"),
    "tiny-clip": ("tiny_clip", "train the small CLIP that ships with disdiff"),
    "completion": ("completion", "print the Tab completion for a shell"),
}
WIDTH = max(map(len, COMMANDS)) + 2
LISTING = "\n".join(f"  {name:<{WIDTH}}{text}" for name, (_, text) in COMMANDS.items())
HELP = f"""usage: disdiff COMMAND [options]

Disentangled representation learning with diffusion models.

{LISTING}

`disdiff COMMAND --help` shows the options of a command with examples.
`disdiff --version` prints the version. To start, run `disdiff demo`,
or open notebooks/tour.ipynb of a checkout in Jupyter."""


def load_command(name: str) -> ModuleType:
    """The module of a command, with `make_parser()` and `main(arguments)`."""
    return import_module(f"disdiff.commands.{COMMANDS[name][0]}")


def main(words: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        words: the command line after `disdiff`; by default that of the process.

    Raises:
        SystemExit: with status 2 for bad input.
    """
    name, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(HELP)
    elif name == "--version":
        print(f"disdiff {find_version()}")
    elif name in COMMANDS:
        command = load_command(name)
        parser = command.make_parser()
        parser.prog = f"disdiff {name}"
        run_script(command.main, parser, rest)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`disdiff --help` lists the commands"
        sys.stderr.write(f"error: there is no command {name!r}; {hint}\n")
        sys.exit(2)
