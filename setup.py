"""Build: configurations, prompts and trained models are installed too, in `disdiff/_data`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = ("configs", "prompts", "pretrained")


class BuildWithData(build_py):
    """`build_py` that also copies `DATA`; an editable install reads them where they lie."""

    def run(self) -> None:
        """Build the packages, then copy."""
        super().run()
        if self.editable_mode:
            return
        for name in DATA:
            target = Path(self.build_lib, "disdiff", "_data", name)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("fid", "__pycache__", "*.orig"))


setup(cmdclass={"build_py": BuildWithData})
