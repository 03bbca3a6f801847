import pytest
import torch

import disdiff
from disdiff.commands.common import build_parser
from ldm.device import DEVICES, resolve_device
from ldm.errors import UserError
from ldm.training import machine
from ldm.training.machine import resolve_machine
from ldm.training.ranks import Ranks


@pytest.fixture
def has(monkeypatch):
    """Return a function that makes PyTorch see CUDA and MPS or not."""

    def see(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return see


@pytest.mark.parametrize(
    ("cuda", "mps", "auto"), [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu")]
)
def test_auto_takes_cuda_else_the_cpu(has, cuda, mps, auto):
    has(cuda, mps)
    assert resolve_device("auto") == auto and resolve_machine("auto", "auto").device == auto
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_refused_in_one_sentence(has, name):
    has(False, False)
    for call, key in (
        (resolve_device, "device"),
        (lambda name: resolve_machine(name, "auto"), "trainer.device"),
    ):
        with pytest.raises(UserError) as caught:
            call(name)
        said = str(caught.value)
        assert said.startswith(f"{key}={name}, but PyTorch sees no") and said.endswith(f"use {key}=cpu")
    with pytest.raises(UserError, match=f"device={name}, but PyTorch sees no"):
        disdiff.load("pretrained/shapes3d", name)
    has(True, True)
    assert resolve_device(name) == name


@pytest.mark.parametrize("name", ["gpu", "", "cuda:1", "MPS", "None"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match="choose one of auto, cpu, cuda, mps"):
        resolve_device(name)


def test_mps_computes_in_float32(has):
    has(False, True)
    for precision in ("auto", "float32"):
        chosen = resolve_machine("mps", precision)
        assert (chosen.device, chosen.precision, chosen.tf32) == ("mps", "32-true", False)
    for precision in ("bf16", "tf32"):
        with pytest.raises(UserError, match=f"trainer.precision={precision} is not for mps"):
            resolve_machine("mps", precision)


def test_several_processes_do_not_share_mps(has, monkeypatch):
    has(False, True)
    monkeypatch.setattr(machine, "read_ranks", lambda: Ranks(1, 2, 2))
    with pytest.raises(UserError, match="without torchrun"):
        resolve_machine("mps", "auto")
    assert resolve_machine("cpu", "auto").device == "cpu"


def test_every_command_takes_the_devices():
    for name in DEVICES:
        assert build_parser("", "").parse_args(["run", "--device", name]).device == name
