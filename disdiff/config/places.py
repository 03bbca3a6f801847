"""Where configurations, prompts and shipped models lie, in a checkout and in an installed package.

In a checkout they are folders beside the packages; a wheel has them in `disdiff/_data`.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "_data").is_dir()
ROOT = _PACKAGE / "_data" if INSTALLED else _PACKAGE.parent
CONFIGS, PROMPTS, PRETRAINED = ROOT / "configs", ROOT / "prompts", ROOT / "pretrained"


def find(path: str | Path) -> Path:
    """A path as it is given, or what ships under that name if nothing lies there.

    So `configs/...`, `prompts/...` and `pretrained/...` are found from any working directory.
    """
    path = Path(path).expanduser()
    if path.exists() or path.parts[:1] not in [(place.name,) for place in (CONFIGS, PROMPTS, PRETRAINED)]:
        return path
    return ROOT / path if (ROOT / path).exists() else path


def results_folder(run: Path) -> Path:
    """Where results of a run folder go: into it, or, if it is installed with the package, below `edits`."""
    place = run.resolve()
    inside = INSTALLED and place.is_relative_to(ROOT)
    return Path("edits") / place.relative_to(ROOT) if inside else run
