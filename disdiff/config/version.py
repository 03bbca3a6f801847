"""Find the version of the package; `setup.cfg` is the only place that states it."""

from configparser import ConfigParser
from importlib import metadata

from disdiff.config.places import INSTALLED, ROOT


def find_version() -> str:
    """The version: a checkout's own `setup.cfg`, else the installed metadata, else `0+unknown`."""
    checkout = ConfigParser()
    if not INSTALLED and checkout.read(ROOT / "setup.cfg", encoding="utf-8"):
        return checkout["metadata"]["version"]
    try:
        return metadata.version("disdiff")
    except metadata.PackageNotFoundError:
        return "0+unknown"
