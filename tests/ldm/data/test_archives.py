import os
import zipfile

import h5py
import numpy as np
import pytest
import torch

from ldm.data.archives import H5Rows, RowFormat, h5_rows, npz_array, npz_keys, npz_rows, verify_npz
from ldm.data.arrays import MappedArray, gather, npy_header
from ldm.errors import UserError

FORMAT = RowFormat("images", (4, 5), np.uint8)
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 4, 5), dtype=np.uint8)


def write_h5(path, **layout):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=IMAGES, **layout)


@pytest.mark.parametrize(
    "layout, kind, unpacks",
    [
        ({}, MappedArray, False),
        ({"chunks": (1, 4, 5), "compression": "gzip"}, H5Rows, False),
        ({"chunks": (50, 4, 5)}, MappedArray, True),
        ({"chunks": (30, 2, 5), "compression": "gzip"}, MappedArray, True),
    ],
)
def test_h5_layouts(tmp_path, monkeypatch, layout, kind, unpacks):
    monkeypatch.setattr("ldm.data.archives.BLOCK_BYTES", 700)  # several blocks
    write_h5(tmp_path / "a.h5", **layout)
    told = []
    rows = h5_rows(tmp_path / "a.h5", FORMAT, tmp_path / "a.npy", lambda *progress: told.append(progress))
    assert type(rows) is kind and (tmp_path / "a.npy").exists() == unpacks
    index = torch.tensor([99, 0, 7, 7])
    assert np.array_equal(gather(rows, index), IMAGES[index])
    assert (len(told) > 1 and told[-1] == (100, 100)) == unpacks


def test_a_compressed_npz_is_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.archives.BLOCK_BYTES", 700)
    path, unpacked = tmp_path / "a.npz", tmp_path / "a.npy"
    np.savez_compressed(path, images=IMAGES)
    assert np.array_equal(npz_rows(path, FORMAT, unpacked), IMAGES)
    first = unpacked.stat().st_mtime_ns
    npz_rows(path, FORMAT, unpacked)
    assert unpacked.stat().st_mtime_ns == first


def test_an_uncompressed_npz_is_mapped_where_it_lies(tmp_path):
    path, unpacked = tmp_path / "a.npz", tmp_path / "a.npy"
    np.savez(path, labels=np.arange(7), images=IMAGES, more=np.zeros(3))
    rows = npz_rows(path, FORMAT, unpacked)
    assert isinstance(rows, MappedArray) and rows.filename == path and not unpacked.exists()
    assert np.array_equal(rows, IMAGES) and npz_keys(path) == ["labels", "images", "more"]


def test_an_npz_whose_array_is_shorter_than_its_header_says(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy_header((100, 4, 5), np.dtype(np.uint8)) + IMAGES[:99].tobytes())
    with pytest.raises(
        UserError, match="a.npz is not an npz file, or is truncated or incomplete .*shorter than its header"
    ):
        npz_rows(path, FORMAT, tmp_path / "a.npy")


def test_verify_npz_finds_a_flipped_bit(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    verify_npz(path)
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="images.npy.*checksum|checksum.*images.npy"):
        verify_npz(path)


def test_stale_unpacked_files_are_redone(tmp_path):
    path, unpacked = tmp_path / "a.npz", tmp_path / "a.npy"
    np.savez_compressed(path, images=IMAGES)
    np.save(unpacked, IMAGES[:50])  # of another shape
    assert np.array_equal(npz_rows(path, FORMAT, unpacked), IMAGES)
    unpacked.write_bytes(unpacked.read_bytes()[:-1])  # not whole
    assert np.array_equal(npz_rows(path, FORMAT, unpacked), IMAGES)
    np.savez_compressed(path, images=255 - IMAGES)  # newer
    os.utime(unpacked, (0, 0))
    assert np.array_equal(npz_rows(path, FORMAT, unpacked), 255 - IMAGES)


def test_a_failed_unpacking_leaves_nothing(tmp_path, monkeypatch):
    path, unpacked = tmp_path / "a.npz", tmp_path / "a.npy"
    np.savez_compressed(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[1500] ^= 1  # in the middle of the images: the checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.npz is not an npz file, or is truncated or incomplete"):
        npz_rows(path, FORMAT, unpacked)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "images", [IMAGES[:0], IMAGES[:, :3], IMAGES.astype(np.int16), np.array(["a", None])]
)
def test_wrong_shape_and_dtype(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(UserError, match=r"expected 'images' to be uint8 of shape \(n, 4, 5\)"):
        npz_rows(tmp_path / "a.npz", FORMAT, tmp_path / "a.npy")
    if images.dtype != object:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["images"] = images
        with pytest.raises(UserError, match=r"expected 'images' to be uint8 of shape \(n, 4, 5\)"):
            h5_rows(tmp_path / "a.h5", FORMAT, tmp_path / "a.npy")


def test_fortran_order_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.asfortranarray(IMAGES))
    with pytest.raises(UserError, match="C order"):
        npz_rows(tmp_path / "a.npz", FORMAT, tmp_path / "a.npy")


def test_no_data_and_damaged_chunks(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8)
    with pytest.raises(UserError, match="has no data"):
        h5_rows(path, FORMAT, tmp_path / "a.npy")
    write_h5(path, chunks=(50, 4, 5), compression="gzip")
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.h5 is not an HDF5 file, or is truncated or incomplete"):
        h5_rows(path, FORMAT, tmp_path / "a.npy")
    assert list(tmp_path.iterdir()) == [path]


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.array([{}]))
    assert npz_array(tmp_path / "a.npz", "images") is None
    with pytest.raises(UserError, match="a.npz"):
        npz_array(tmp_path / "a.npz", "labels")
