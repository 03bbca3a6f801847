"""Resolve a device name (`auto`, `cpu` or `cuda`)."""

import torch

from ldm.errors import UserError, check_option

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str, key: str = "device") -> str:
    """`cpu`, `cuda` or `mps`; `auto` is CUDA where PyTorch sees it, else the CPU. `key` is for messages.

    Raises:
        UserError: the name is not one of `DEVICES`, or there is no such device here.
    """
    check_option(key, name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}=cuda, but PyTorch sees no CUDA device; use {key}=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{key}=mps, but PyTorch sees no GPU of an Apple computer (MPS); use {key}=cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
