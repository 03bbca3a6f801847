"""Disentangled representation learning with diffusion models: `disdiff.load(path)` gives a trained one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disdiff.api import Edit, Model, load

__all__ = ["Edit", "Model", "load"]


def __getattr__(name: str) -> Any:
    """Import the interface when it is asked for, so that `import disdiff` takes no time."""
    if name in __all__:
        from disdiff import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
