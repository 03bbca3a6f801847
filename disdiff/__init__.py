"""Disentangled representation learning with diffusion models; `disdiff.load(path)` loads a trained model."""

from typing import TYPE_CHECKING, Any

import ldm

if TYPE_CHECKING:
    from disdiff.api import Edit, Model, load

__version__: str
__all__ = ["Edit", "Model", "__version__", "load"]

if getattr(ldm, "PROJECT", None) != "disdiff":
    place = [*getattr(ldm, "__path__", []), ldm.__file__][0]
    raise ImportError(
        f"disdiff needs its own package `ldm`, but Python imports another package of that name from {place}; "
        "leave that folder, remove it from PYTHONPATH, or install disdiff in a separate environment"
    )


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that `import disdiff` is fast."""
    if name == "__version__":
        from disdiff.config.version import find_version

        return find_version()
    if name in __all__:
        from disdiff import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
