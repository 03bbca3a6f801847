"""The device that a name stands for."""

import torch

from ldm.errors import UserError


def resolve_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no CUDA device; use the device cpu, or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
