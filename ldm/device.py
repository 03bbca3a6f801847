"""Resolve a device name (`auto`, `cpu` or `cuda`)."""

import torch

from ldm.errors import UserError


def resolve_device(name: str) -> str:
    """Return `cpu` or `cuda`; `auto` is `cuda` if PyTorch sees a CUDA device.

    Raises:
        UserError: `name` is `cuda` and PyTorch sees no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no CUDA device; use the device cpu, or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
