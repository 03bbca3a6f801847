"""Paths of the shipped configurations, prompts and models, in a checkout and in an installed package.

In a checkout they are folders beside the packages; in a wheel they are in `disdiff/_data`.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "_data").is_dir()
ROOT = _PACKAGE / "_data" if INSTALLED else _PACKAGE.parent
CONFIGS, PROMPTS, PRETRAINED = ROOT / "configs", ROOT / "prompts", ROOT / "pretrained"


def find(path: str | Path) -> Path:
    """Return `path` if it exists, else the shipped file of that name if there is one, else `path`.

    This finds `configs/...`, `prompts/...` and `pretrained/...` from any working directory.
    """
    path = Path(path).expanduser()
    if path.exists() or path.parts[:1] not in [(place.name,) for place in (CONFIGS, PROMPTS, PRETRAINED)]:
        return path
    return ROOT / path if (ROOT / path).exists() else path


def results_folder(run: Path) -> Path:
    """Folder for new results of a run: the run folder, or `edits/...` for a run of the installed package."""
    place = run.resolve()
    inside = INSTALLED and place.is_relative_to(ROOT)
    return Path("edits") / place.relative_to(ROOT) if inside else run
