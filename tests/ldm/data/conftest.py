from dataclasses import dataclass, field

import h5py
import numpy as np
import pytest
import torch

from ldm.data.factor_space import FactorSpace
from ldm.data.shapes3d import SHAPES3D, factors_to_labels


@dataclass
class FakeSource:
    """Image i is filled with i mod 256, but for its first pixel, which holds i div 256."""

    size: int = 300
    name: str = "fake"
    procedural: bool = True
    identity: str = "fake-1"
    image_size: int = 8
    channels: int = 3
    factor_space: FactorSpace = field(default_factory=lambda: FactorSpace(("a", "b"), (30, 10)))

    def __len__(self):
        return self.size

    def images(self, index):
        images = (index % 256).to(torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8)
        images[:, :, 0, 0] = (index // 256)[:, None]
        return images

    def factors(self, index):
        return self.factor_space.factors(index)


@dataclass(frozen=True)
class Shapes3DFixture:
    """A random subset of the grid with random images, and how to write it in every layout."""

    combinations: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def write_h5(self, root, **layout):
        with h5py.File(root / "3dshapes.h5", "w") as file:
            file.create_dataset("images", data=self.images, **layout)
            file["labels"] = self.labels
        return root / "3dshapes.h5"

    def write_npz(self, root, save=np.savez_compressed, **arrays):
        save(root / "3dshapes.npz", **({"images": self.images, "labels": self.labels} | arrays))
        return root / "3dshapes.npz"


@pytest.fixture
def fake_source():
    return FakeSource()


@pytest.fixture
def shapes3d():
    rng = np.random.default_rng(0)
    combinations = np.sort(rng.choice(len(SHAPES3D), 50, replace=False))
    images = rng.integers(0, 256, (50, 64, 64, 3), dtype=np.uint8)
    labels = factors_to_labels(SHAPES3D.factors(torch.from_numpy(combinations)))
    return Shapes3DFixture(combinations, images, labels)
