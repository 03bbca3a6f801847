"""Arrays with known answers, shared by the metric tests."""

import numpy as np
import pytest

SIZES = (4, 3, 5)


def draw_factors(num_rows, sizes=SIZES, seed=0):
    return np.random.default_rng(seed).integers(0, sizes, (num_rows, len(sizes)))


@pytest.fixture(scope="session")
def factors():
    """3,000 rows of three independent factors with 4, 3 and 5 values."""
    return draw_factors(3_000)


@pytest.fixture(scope="session")
def identity(factors):
    """One unit per factor, equal to it."""
    return factors.astype(np.float64)


@pytest.fixture(scope="session")
def independent(factors):
    """Three units that know nothing of the factors."""
    return np.random.default_rng(1).normal(size=factors.shape)


@pytest.fixture(scope="session")
def rotated(factors):
    """Standardised factors turned so that every unit mixes all of them."""
    turn = np.eye(3) - 2 / 3
    centred = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    return centred @ turn
