"""Weights of a module on disk, as safetensors; what identifies them, and how many there are."""

import hashlib
from pathlib import Path

import safetensors.torch
from torch import nn

from ldm.errors import UserError
from ldm.files import atomic_path

WEIGHTS = "model.safetensors"  # the name under which a stage keeps them


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(
            safetensors.torch.save(tensors)
        )  # save_file has an error of its own for a full disk


def load_weights(path: Path, module: nn.Module) -> None:
    """Read weights into a module; every tensor must be there and fit.

    Raises:
        UserError: the file is missing, damaged, or of another configuration.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except Exception as error:  # safetensors raises its own kind for damaged files
        message = f"cannot read the weights {path} ({error}); delete their folder to train that stage again"
        raise UserError(message) from error
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        message = f"{path} holds weights of another configuration ({first}); choose another run.name"
        raise UserError(message) from error
