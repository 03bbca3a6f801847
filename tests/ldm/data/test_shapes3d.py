import pickle

import h5py
import numpy as np
import pytest
import torch

from ldm.data.batches import ImageBatches, StepSampler, build_loader
from ldm.data.shapes3d import (
    FACTOR_VALUES,
    SHAPES3D,
    Shapes3D,
    factors_to_labels,
    find_shapes3d,
    labels_to_factors,
    write_shapes3d,
)
from ldm.errors import UserError

EVERYTHING = torch.arange(50)
H5_LAYOUTS = {
    "mapped": {},
    "lazy": {"chunks": (1, 64, 64, 3), "compression": "gzip"},
    "unpacked": {"chunks": (25, 4, 4, 1), "compression": "gzip"},
}


def first_last_and_random(count):
    """The first, the last and 1,000 random positions."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.tensor([0, count - 1]), torch.randint(count, (1000,), generator=generator)])


@pytest.fixture(params=[*H5_LAYOUTS, "npz"])
def source(request, tmp_path, shapes3d):
    if request.param == "npz":
        shapes3d.write_npz(tmp_path)
    else:
        shapes3d.write_h5(tmp_path, **H5_LAYOUTS[request.param])
    return Shapes3D(tmp_path)


def test_declaration():
    assert SHAPES3D.sizes == (10, 10, 10, 8, 4, 15) and len(SHAPES3D) == 480_000
    assert tuple(FACTOR_VALUES) == SHAPES3D.names
    assert tuple(map(len, FACTOR_VALUES.values())) == SHAPES3D.sizes
    values = SHAPES3D.factors(torch.tensor([0, 479_999, 1]))
    labels = [[0, 0, 0, 0.75, 0, -30], [0.9, 0.9, 0.9, 1.25, 3, 30], [0, 0, 0, 0.75, 0, -30 + 60 / 14]]
    np.testing.assert_allclose(factors_to_labels(values), labels)


def test_labels_and_factors_are_inverse():
    index = torch.randint(len(SHAPES3D), (1000,), generator=torch.Generator().manual_seed(0))
    factors = SHAPES3D.factors(index)
    assert torch.equal(labels_to_factors(factors_to_labels(factors)), factors)
    assert torch.equal(labels_to_factors(factors_to_labels(factors).astype(np.float32)), factors)


def test_images_and_factors(source, shapes3d):
    """First, last and 1,000 random indices against plain indexing and numpy's arithmetic."""
    assert len(source) == 50 and not source.procedural
    index = first_last_and_random(50)
    images = source.images(index)
    assert images.is_contiguous() and images.dtype == torch.uint8
    assert np.array_equal(images, shapes3d.images[index].transpose(0, 3, 1, 2))
    factors = np.stack(np.unravel_index(shapes3d.combinations[index], SHAPES3D.sizes), axis=1)
    assert np.array_equal(source.factors(index), factors)
    for wrong in (-1, 50):
        with pytest.raises(ValueError, match="from 0 to 49"):
            source.images(torch.tensor([wrong]))


def test_workers_read_what_this_process_reads(source):
    sampler = StepSampler(50, batch_size=20, num_steps=4, seed=0)
    source.images(EVERYTHING)  # whatever this process opened must not disturb the forked workers
    loader = build_loader(ImageBatches(source, EVERYTHING), sampler, num_workers=2, pin_memory=False)
    for positions, batch in zip(sampler, loader, strict=True):
        assert torch.equal(batch["index"], positions)
        assert torch.equal(batch["image"], source.images(positions))


def test_spawned_workers_are_sent_no_images(source):
    sent = pickle.dumps(source)
    assert len(sent) < 5000
    received = pickle.loads(sent)
    assert torch.equal(received.images(EVERYTHING), source.images(EVERYTHING))
    assert received.identity == source.identity


def test_identity_follows_the_content_and_not_the_file(tmp_path, shapes3d):
    identities = []
    for name, layout in H5_LAYOUTS.items():
        (tmp_path / name).mkdir()
        shapes3d.write_h5(tmp_path / name, **layout)
        identities.append(Shapes3D(tmp_path / name).identity)
    shapes3d.write_npz(tmp_path)
    identities.append(Shapes3D(tmp_path).identity)
    assert len(set(identities)) == 1
    shapes3d.images[0] += 1
    shapes3d.write_h5(tmp_path)
    assert Shapes3D(tmp_path).identity != identities[0]


def test_the_full_file_needs_no_memory_and_is_in_index_order(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.shapes3d.digest_rows", lambda rows, progress: "0")  # takes long here
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        space = h5py.h5s.create_simple((len(SHAPES3D), 64, 64, 3))
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # 5.9 GB of which nothing is on disk
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, layout)
        file["images"][479_999] = 7
        labels = factors_to_labels(SHAPES3D.factors(torch.arange(len(SHAPES3D))))
        file["labels"] = labels
    source = Shapes3D(tmp_path)
    ends = torch.tensor([479_999, 0])
    assert source.images(ends).amax(dim=(1, 2, 3)).tolist() == [7, 0]
    index = first_last_and_random(480_000)
    expected = np.stack(np.unravel_index(index.numpy(), SHAPES3D.sizes), axis=1)
    assert np.array_equal(source.factors(index), expected)
    with h5py.File(tmp_path / "3dshapes.h5", "r+") as file:
        file["labels"][:2] = labels[[1, 0]]
    with pytest.raises(UserError, match="not in its order"):
        Shapes3D(tmp_path)


def test_written_files_are_read_back_and_named_procedural(tmp_path, shapes3d):
    shapes3d.write_npz(tmp_path)
    original = Shapes3D(tmp_path)
    for procedural in (True, False):
        original.procedural = procedural
        write_shapes3d(tmp_path / "copy" / "3dshapes.h5", original, EVERYTHING[10:40])
        copy = Shapes3D(tmp_path / "copy")
        assert copy.procedural == procedural and ("procedural" in copy.identity) == procedural
        assert torch.equal(copy.images(EVERYTHING[:30]), original.images(EVERYTHING[10:40]))
        assert torch.equal(copy.factors(EVERYTHING[:30]), original.factors(EVERYTHING[10:40]))


def test_a_full_disk_leaves_no_file(tmp_path, shapes3d, no_file_larger_than):
    shapes3d.write_npz(tmp_path)
    source = Shapes3D(tmp_path)
    path = tmp_path / "copy" / "3dshapes.h5"
    with (
        pytest.raises(UserError, match="^cannot write .*/3dshapes.h5: File too large; free"),
        no_file_larger_than(100_000),
    ):
        write_shapes3d(path, source, EVERYTHING)
    assert not list(path.parent.iterdir())


def test_missing(tmp_path):
    assert find_shapes3d(tmp_path) is None
    with pytest.raises(UserError, match="neither 3dshapes.h5 nor 3dshapes.npz; `disdiff data shapes3d`"):
        Shapes3D(tmp_path)


@pytest.mark.parametrize("layout", H5_LAYOUTS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_h5(tmp_path, shapes3d, layout, keep):
    path = shapes3d.write_h5(tmp_path, **H5_LAYOUTS[layout])
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="3dshapes.h5 is not HDF5, truncated or incomplete .*; get it again"):
        Shapes3D(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_npz(tmp_path, shapes3d, keep):
    path = shapes3d.write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="3dshapes.npz is not npz, truncated or incomplete .*; get it again"):
        Shapes3D(tmp_path)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_wrong_keys_in_h5(tmp_path, shapes3d, key):
    with h5py.File(shapes3d.write_h5(tmp_path), "r+") as file:
        file.move(key, "other")
    with pytest.raises(UserError, match=f"3dshapes.h5 is .*'{key}'"):
        Shapes3D(tmp_path)


def test_wrong_keys_in_npz(tmp_path, shapes3d):
    np.savez(tmp_path / "3dshapes.npz", other=shapes3d.images)
    with pytest.raises(UserError, match="3dshapes.npz is .*'images.npy'"):
        Shapes3D(tmp_path)


def test_wrong_images(tmp_path, shapes3d):
    shapes3d.write_npz(tmp_path, images=shapes3d.images[:, :32])
    with pytest.raises(UserError, match=r"\(n, 64, 64, 3\), got uint8 of shape \(50, 32, 64, 3\)"):
        Shapes3D(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda labels: labels[:-1], "50 images and 49 labels"),
        (lambda labels: labels[:, :5], r"shape \(n, 6\)"),
        (lambda labels: labels.astype("S"), "numeric labels"),
        (lambda labels: labels + [0, 0, 0, 0.02, 0, 0], "label 0 has scale"),
        (lambda labels: labels + [0, 0, 0, 0, 0, np.nan], "label 0 has orientation nan"),
        (lambda labels: labels + [1, 0, 0, 0, 0, 0], "label 0 has floor hue"),
    ],
)
def test_wrong_labels(tmp_path, shapes3d, change, message):
    shapes3d.write_npz(tmp_path, labels=change(shapes3d.labels))
    with pytest.raises(UserError, match=message):
        Shapes3D(tmp_path)


def test_a_subset_without_labels(tmp_path, shapes3d):
    np.savez(tmp_path / "3dshapes.npz", images=shapes3d.images)
    with pytest.raises(UserError, match="50 images and no labels"):
        Shapes3D(tmp_path)
