"""benchmarks/kernels.py: its closed form is the MMD of the package."""

import importlib.util
from pathlib import Path

import pytest
import torch

from disdiff.method.losses import KERNELS, mmd

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("std", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", KERNELS)
def test_the_closed_form_is_the_mmd_of_many_codes(script, name, std):
    x, y = torch.randn(2, 1500, 10, generator=torch.Generator().manual_seed(0))
    (kernel,) = [kernel for kernel in script.WIDTHS if kernel.startswith(name)]
    found = mmd(std * x, y, KERNELS[name]).item()
    assert found == pytest.approx(script.mmd_of_scale(kernel, std, 10), abs=3e-3, rel=0.05)


def test_the_released_kernel_is_flat_for_many_numbers(script):
    reference, ours = script.WIDTHS
    assert script.mmd_of_scale(reference, 0.0, 32) == pytest.approx(1.0e-3, rel=0.1)
    assert script.mmd_of_scale(ours, 0.0, 32) > 50 * script.mmd_of_scale(reference, 0.0, 32)
