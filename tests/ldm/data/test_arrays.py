import pickle

import numpy as np
import pytest
import torch

from ldm.data.arrays import MappedArray, NpyWriter, gather, holds_rows, open_npy
from ldm.errors import UserError


@pytest.fixture
def array():
    return np.arange(20 * 3, dtype=np.float32).reshape(20, 3)


def test_mapped_array_pickles_as_its_address(tmp_path, array):
    np.save(tmp_path / "a.npy", np.tile(array, (1000, 1)))
    mapped = open_npy(tmp_path / "a.npy")
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert isinstance(received, MappedArray) and np.array_equal(received, mapped)
    view = pickle.loads(pickle.dumps(mapped[5:7]))
    assert np.array_equal(view, mapped[5:7])


@pytest.mark.parametrize("rows", [[3, 1, 1, 19], [0], []])
def test_gather_copies_rows_in_the_order_asked_for(tmp_path, array, rows):
    np.save(tmp_path / "a.npy", array)
    index = torch.tensor(rows, dtype=torch.int64)
    for held in (array, open_npy(tmp_path / "a.npy"), torch.from_numpy(array)):
        assert torch.equal(gather(held, index), torch.from_numpy(array[rows]))


@pytest.mark.parametrize("row", [-1, 20])
def test_gather_out_of_range(array, row):
    with pytest.raises(ValueError, match="rows from 0 to 19"):
        gather(array, torch.tensor([row]))


def test_writer_continues_where_it_stopped(tmp_path, array):
    path = tmp_path / "a.npy"
    with NpyWriter(path, array.shape, array.dtype) as writer:
        writer.append(array[:12])
    assert holds_rows(path, array.shape, np.float32, 12) and not holds_rows(path, array.shape, np.float32, 13)
    assert not holds_rows(path, (21, 3), np.float32, 12)
    with pytest.raises(ValueError):
        open_npy(path)
    with NpyWriter(path, array.shape, array.dtype, done=10) as writer:
        writer.append(array[10:])
    assert np.array_equal(open_npy(path), array)


def test_writer_refuses_other_rows(tmp_path, array):
    with NpyWriter(tmp_path / "a.npy", array.shape, np.float32) as writer:
        with pytest.raises(ValueError, match="float64"):
            writer.append(array.astype(np.float64))
        with pytest.raises(ValueError, match="expected float32 rows"):
            writer.append(array[:, :2])


def test_a_full_disk_is_the_users_error(tmp_path, no_file_larger_than):
    with pytest.raises(UserError, match="a.npy.*free some space"), no_file_larger_than(2000):
        with NpyWriter(tmp_path / "a.npy", (1000, 3), np.float32) as writer:
            writer.append(np.zeros((1000, 3), np.float32))
            writer.sync()
