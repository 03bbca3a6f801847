import pytest
import torch

from ldm.data.source import split_indices, to_float, to_uint8


def test_uint8_survives_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(images)
    assert floats.dtype == torch.float32 and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), images)


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-3.0, -1 + 0.6 / 127.5, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 1, 255, 255]


def test_split_is_fixed_disjoint_and_a_prefix(fake_source):
    train, evaluation = split_indices(fake_source, 200, 100)
    assert sorted(torch.cat([train, evaluation]).tolist()) == list(range(300))
    assert torch.equal(train, split_indices(fake_source, 200, 100)[0])
    assert torch.equal(train[:50], split_indices(fake_source, 50, 10)[0])
    assert torch.equal(evaluation[-10:], split_indices(fake_source, 50, 10)[1])
    assert train.tolist() != sorted(train.tolist())


def test_split_of_everything(fake_source):
    train, evaluation = split_indices(fake_source, None, 30)
    assert sorted(train.tolist()) == list(range(300)) and set(evaluation.tolist()) <= set(train.tolist())
    assert [len(part) for part in split_indices(fake_source, 1000, 1000)] == [300, 300]
    assert [len(part) for part in split_indices(fake_source, 0, 0)] == [0, 0]
    with pytest.raises(ValueError, match="-1"):
        split_indices(fake_source, -1, 0)
