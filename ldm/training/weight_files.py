"""Save and load a module's weights as safetensors; fingerprint and count them."""

import hashlib
from pathlib import Path

import safetensors.torch
from torch import nn

from ldm.errors import UserError
from ldm.files import atomic_path

WEIGHTS = "model.safetensors"  # file name of a stage's weights


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_path(path) as temporary:
        # unlike save_file, this raises OSError if the disk is full
        temporary.write_bytes(safetensors.torch.save(tensors))


def load_weights(path: Path, module: nn.Module) -> None:
    """Load weights into a module; the file must have every tensor with the right shape.

    Raises:
        UserError: the file is missing, damaged, or from another configuration.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except Exception as error:  # safetensors raises its own exception type for damaged files
        message = f"cannot read the weights {path} ({error}); delete their folder to train that stage again"
        raise UserError(message) from error
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"cannot use the weights {path}: {broken[0]} has NaN or infinity; delete their folder to train "
            "that stage again"
        )
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        message = f"{path} has weights of another configuration ({first}); choose another run.name"
        raise UserError(message) from error
