"""Add to an error message where its advised settings can be set, for commands other than `main.py`."""

import re

CONFIG = "config.yaml in the run folder"
ADVICE = re.compile(r"\b(?:autoencoder|data|weights)\.[a-z_.]+=(?:[A-Z]|always|local-dir|none|skip|true)")
TOLD = ("--set ", "disdiff train", "main.py", "main job", "config.yaml")


def add_settings_hint(message: str, where: str = CONFIG) -> str:
    """Append to an error message where the advised settings are read from.

    Messages advise `key=value`, which only `main.py` and `disdiff train` accept. Elsewhere, the setting is
    made in `where`, such as the config.yaml of the run folder.
    """
    if any(place in message for place in TOLD) or not ADVICE.search(message):
        return message
    return f"{message} (here such settings are read from {where})"
