"""Data that is not whole in memory: a process that reads all of a file holds little of it."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from ldm.data.shapes3d import SHAPES3D, factors_to_labels

COUNT = 16_000  # 188 MiB of images
READER = """
import sys
from pathlib import Path
import torch
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.latents import encode_to_cache
from ldm.data.shapes3d import Shapes3D

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("RssAnon"))

def train(batches):
    seen = torch.zeros(len(batches), dtype=torch.int64)
    sampler = StepSampler(len(batches), batch_size=250, num_steps=len(batches) // 250, seed=0)
    peak = 0
    for positions, batch in zip(sampler, build_loader(batches, sampler, 0, False)):
        seen[positions] += 1
        peak = max(peak, anonymous())
    assert (seen == 1).all()
    return peak

root, cache = sys.argv[1:]
torch.set_num_threads(1)
start = anonymous()
source = Shapes3D(root)
index = torch.arange(len(source))
peaks = [train(ImageBatches(source, index))]
encode = lambda images: images[:, :, ::2, ::2].float()
made = encode_to_cache(encode, source, index, Path(cache), "key", 250, with_images=True)
peaks += [anonymous(), train(TensorBatches({"statistics": made.latents, "image": made.images}))]
print(max(peaks) - start, len(source))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from /proc")
def test_every_image_is_read_and_little_is_held(tmp_path):
    labels = factors_to_labels(SHAPES3D.factors(torch.arange(COUNT)))
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["labels"] = labels
        images = file.create_dataset("images", (COUNT, 64, 64, 3), np.uint8)
        block = np.random.default_rng(0).integers(0, 256, (1000, 64, 64, 3), dtype=np.uint8)
        for first in range(0, COUNT, 1000):
            images[first : first + 1000] = block
    command = [sys.executable, "-c", READER, str(tmp_path), str(tmp_path / "cache")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    held, count = map(int, run.stdout.split())
    assert count == COUNT and held < 64  # MiB, of 188 MiB of images and 188 MiB of latents
