import numpy as np
import pytest
import torch

from ldm.data.arrays import open_npy
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader


def test_each_epoch_is_another_permutation_and_no_batch_is_ragged():
    batches = list(StepSampler(num_items=10, batch_size=4, num_steps=10, seed=0))
    assert all(batch.shape == (4,) and batch.dtype == torch.int64 for batch in batches)
    epochs = torch.cat(batches).reshape(4, 10)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10).expand(4, 10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


@pytest.mark.parametrize("num_items, batch_size", [(10, 4), (10, 5), (3, 8), (7, 7), (1, 3)])
def test_resumed_steps_equal_the_uninterrupted_ones(num_items, batch_size):
    whole = list(StepSampler(num_items, batch_size, num_steps=12, seed=3))
    for first_step in range(13):
        resumed = StepSampler(num_items, batch_size, 12, 3, first_step)
        rest = list(resumed)
        assert len(rest) == 12 - first_step and len(resumed) == 12
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first_step:], strict=True))


def test_seed_matters_and_iterating_twice_does_not():
    sampler = StepSampler(100, 100, 1, seed=0)
    assert torch.equal(next(iter(sampler)), next(iter(sampler)))
    assert not torch.equal(next(iter(sampler)), next(iter(StepSampler(100, 100, 1, seed=1))))


@pytest.mark.parametrize(
    "arguments", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, -1, 0), (1, 1, 1, -1), (1, 1, 1, 0, -1)]
)
def test_impossible_samplers(arguments):
    with pytest.raises(ValueError, match="expected num_items"):
        StepSampler(*arguments)


def test_image_batches_go_through_the_index(fake_source):
    index = torch.tensor([299, 5, 17])
    batch = ImageBatches(fake_source, index)[torch.tensor([2, 0])]
    assert batch["index"].tolist() == [17, 299]
    assert torch.equal(batch["image"], fake_source.images(torch.tensor([17, 299])))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_serves_arrays_in_memory_and_on_disk(tmp_path, num_workers):
    latents = np.random.default_rng(0).normal(size=(30, 2, 4, 4)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    dataset = TensorBatches({"z_raw": open_npy(tmp_path / "latents.npy"), "number": torch.arange(30)})
    sampler = StepSampler(len(dataset), 8, num_steps=5, seed=0)
    state = torch.get_rng_state()
    loader = build_loader(dataset, sampler, num_workers, pin_memory=False)
    assert len(loader) == 5
    for positions, batch in zip(sampler, loader, strict=True):
        assert torch.equal(batch["number"], positions)
        assert torch.equal(batch["z_raw"], torch.from_numpy(latents[positions]))
    assert torch.equal(torch.get_rng_state(), state)


def test_arrays_of_different_lengths():
    with pytest.raises(ValueError, match="one length"):
        TensorBatches({"a": torch.zeros(3), "b": torch.zeros(4)})
