"""Where the settings that an error message advises are read from, outside `main.py`."""

import re

CONFIG = "config.yaml in the run folder"
ADVICE = re.compile(r"\b(?:autoencoder|data|weights)\.[a-z_.]+=(?:[A-Z]|always|local-dir|none|skip|true)")
TOLD = ("--set ", "disdiff train", "main.py", "main job", "config.yaml")


def place_advice(message: str, where: str = CONFIG) -> str:
    """An error's message, with `where` the settings that it advises are read from outside main.py, for whose
    command line the remedies of errors are written.
    """
    if any(place in message for place in TOLD) or not ADVICE.search(message):
        return message
    return f"{message} (here such settings are read from {where})"
