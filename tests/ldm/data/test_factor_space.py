import itertools

import pytest
import torch

from ldm.data.factor_space import FactorSpace

SPACE = FactorSpace(("a", "b", "c"), (3, 1, 4))


def test_order_is_that_of_nested_loops_with_the_last_factor_fastest():
    expected = torch.tensor(list(itertools.product(range(3), range(1), range(4))))
    assert len(SPACE) == len(expected) == 12
    assert torch.equal(SPACE.factors(torch.arange(12)), expected)


def test_index_inverts_factors():
    index = torch.randint(len(SPACE), (50,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(SPACE.index(SPACE.factors(index)), index)
    assert SPACE.factors(index[:0]).shape == (0, 3)


@pytest.mark.parametrize("index", [[-1], [12], [0, 12]])
def test_index_out_of_range(index):
    with pytest.raises(ValueError, match="expected index from 0 to below 12"):
        SPACE.factors(torch.tensor(index))


@pytest.mark.parametrize("factors", [[[3, 0, 0]], [[0, 1, 0]], [[0, 0, -1]]])
def test_factors_out_of_range(factors):
    with pytest.raises(ValueError, match=r"below \[3, 1, 4\]"):
        SPACE.index(torch.tensor(factors))


def test_wrong_shapes_and_types():
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        SPACE.index(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64"):
        SPACE.factors(torch.zeros(2))


@pytest.mark.parametrize("names, sizes", [(("a",), (1, 2)), (("a", "a"), (2, 2)), ((), ()), (("a",), (0,))])
def test_impossible_spaces(names, sizes):
    with pytest.raises(ValueError, match="expected"):
        FactorSpace(names, sizes)
