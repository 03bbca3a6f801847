"""The released networks with random weights, and files of theirs in the layout of Lightning 1.4."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch


def load_beside(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ReleasedAutoencoder = load_beside("released_autoencoder").ReleasedAutoencoder
ReleasedUNet, ReleasedEncoder = (
    getattr(load_beside("released_unet"), name) for name in ("ReleasedUNet", "ReleasedEncoder")
)


def fill(module, seed):
    """Random weights of such a size that numbers neither vanish nor explode; also running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 and "embedding" not in name else 4
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5 + offset)
    return module.eval()


class Released:
    """A whole model with its file's content."""

    def __init__(self, kind="vq", residual=True, units=None, orthogonal=True, gaussian=False):
        z = 3 if kind == "vq" else 4
        self.first_stage = fill(ReleasedAutoencoder(kind, z=z), 1)
        self.unet = fill(ReleasedUNet(z, residual=residual, units=units, orthogonal=orthogonal), 2)
        self.averaged = fill(ReleasedUNet(z, residual=residual, units=units, orthogonal=orthogonal), 3)
        self.encoder = fill(ReleasedEncoder(32, units[0] * units[1] * (1 + gaussian)), 4) if units else None
        if units:  # frozen: has no shadow
            frozen = {
                n: p
                for n, p in self.unet.state_dict().items()
                if not n.startswith(("shift", "part", "repre"))
            }
            self.averaged.load_state_dict(frozen, strict=False)

    def state_dict(self, scale=0.8):
        state = {f"model.diffusion_model.{n}": p for n, p in self.unet.state_dict().items()}
        for name, tensor in self.averaged.state_dict().items():
            if not self.encoder or name.startswith(("shift", "part", "repre")):
                state["model_ema.diffusion_model" + name.replace(".", "")] = tensor
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
        state |= {f"first_stage_model.{n}": p for n, p in self.first_stage.state_dict().items()}
        state["first_stage_model.loss.logvar"] = torch.zeros(())
        if self.encoder:
            state |= {f"cond_stage_model.{n}": p for n, p in self.encoder.state_dict().items()}
        beta = np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
        bar = np.cumprod(1 - beta)
        before = np.append(1.0, bar[:-1])
        arrays = {
            "betas": beta,
            "alphas_cumprod": bar,
            "sqrt_alphas_cumprod": bar**0.5,
            "posterior_variance": beta * (1 - before) / (1 - bar),
            "shift_coef": -((1 - beta) ** 0.5) * (1 - before) / (1 - bar) ** 0.5,
            "ddim_coef": -((1 - bar) ** 0.5),
        }
        state |= {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
        return {**state, "scale_factor": torch.tensor(scale)} if scale else state


@pytest.fixture
def released():
    """The released networks: functions that build them with random weights."""
    return types.SimpleNamespace(
        model=Released, autoencoder=ReleasedAutoencoder, unet=ReleasedUNet, encoder=ReleasedEncoder, fill=fill
    )


@pytest.fixture
def save_checkpoint(tmp_path):
    """Return a function that writes a state in Lightning 1.4's layout, foreign callbacks and all."""

    def save(name, state, legacy=False):
        module = types.ModuleType("lightning_of_old.callbacks")
        parent = types.ModuleType("lightning_of_old")
        for kind in ("ModelCheckpoint", "ImageLogger"):
            made = type(kind, (), {"__module__": module.__name__})
            setattr(module, kind, made)
        callback = module.ModelCheckpoint()
        callback.best_model_score, callback.dirpath = torch.tensor(0.5), "logs"
        content = {
            "epoch": 64,
            "global_step": 240_000,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": state,
            "callbacks": {module.ModelCheckpoint: {"monitor": "loss", "object": callback}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [module.ImageLogger()],
        }
        sys.modules |= {parent.__name__: parent, module.__name__: module}
        try:
            path = tmp_path / name
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        finally:
            del sys.modules[parent.__name__], sys.modules[module.__name__]
        return path

    return save
