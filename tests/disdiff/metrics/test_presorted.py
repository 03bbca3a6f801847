"""Trees from presorted columns against scikit-learn's own, tree by tree."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from disdiff.metrics._presorted import FixedSeed, PresortedColumns, Undecided, Visits, swap_across

ROWS = 600


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)


def grow_both(codes, target, seed=3, depth=3):
    target = target.astype(np.float64)
    ours = PresortedColumns(codes).grow(target, depth, seed)
    theirs = DecisionTreeRegressor(max_depth=depth, random_state=FixedSeed(seed))
    return ours, theirs.fit(codes, target, check_input=False).tree_


def assert_same(ours, theirs):
    assert ours.node_count == theirs.node_count
    for name in ("feature", "threshold", "children_left", "children_right", "n_node_samples"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(ours.impurity, theirs.impurity, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-9, atol=1e-13)
    importances = [tree.compute_feature_importances(normalize=False) for tree in (ours, theirs)]
    np.testing.assert_allclose(*importances, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("seed", range(8))
def test_trees_of_continuous_columns_are_the_same(codes, seed):
    random = np.random.default_rng(seed)
    target = codes[:, seed % 5] + random.normal(size=ROWS)
    assert_same(*grow_both(codes, target, seed))


def test_nodes_of_a_few_rows_are_decided_as_scikit_learn_does(codes):
    """In a node of two rows every column splits alike: its order of visits and rounding decide."""
    grown, seen = 0, set()
    for seed in range(40):
        target = np.random.default_rng(seed).normal(size=ROWS) * 1e-3
        target[np.random.default_rng(seed).choice(ROWS, 3, replace=False)] += 1.0
        ours, theirs = grow_both(codes, target, seed)
        if ours is not None:
            assert_same(ours, theirs)
            grown += 1
            seen |= set(ours.n_node_samples.tolist())
    assert grown >= 35 and {1, 2, 3} & seen


def test_deeper_trees_are_the_same(codes):
    assert_same(*grow_both(codes, np.sin(3 * codes[:, 0]) + codes[:, 1] ** 2, depth=6))


def test_a_constant_column_is_never_split(codes):
    with_constant = np.column_stack([np.full(ROWS, 0.5, np.float32), codes])
    noise = np.random.default_rng(1).normal(size=ROWS)
    ours, theirs = grow_both(with_constant, codes[:, 2] + noise, depth=2)
    assert_same(ours, theirs)
    assert 0 not in ours.feature


def test_columns_of_few_values_are_the_same_or_left_to_scikit_learn():
    columns = np.random.default_rng(0).integers(0, 4, (ROWS, 3)).astype(np.float32)
    for seed in range(10):
        ours, theirs = grow_both(columns, columns[:, 1] + np.random.default_rng(seed).normal(size=ROWS), seed)
        if ours is not None:
            assert_same(ours, theirs)


def test_duplicated_columns_are_left_to_scikit_learn(codes):
    assert grow_both(codes[:, [0, 0, 1]], codes[:, 0])[0] is None


def test_a_pure_target_is_one_leaf_or_left_to_scikit_learn(codes):
    ours, theirs = grow_both(codes, np.zeros(ROWS))
    assert ours is None or ours.node_count == theirs.node_count == 1


def test_rows_change_places_across_a_split_as_the_swaps_leave_them():
    random = np.random.default_rng(0)
    for _ in range(300):
        size = int(random.integers(1, 12))
        rows, goes_left = random.permutation(size) + 100, random.random(size) < random.random()
        order, start, end = list(range(size)), 0, size
        while start < end:  # the definition
            if goes_left[order[start]]:
                start += 1
            else:
                end -= 1
                order[start], order[end] = order[end], order[start]
        left, right = swap_across(rows, goes_left)
        assert left.tolist() == rows[order[:end]].tolist()
        assert right.tolist() == rows[order[end:]].tolist()


def test_every_visit_is_of_all_columns_and_the_seed_decides():
    first, second = Visits(5, 6), Visits(5, 6)
    last = [first.advance() for _ in range(20)]
    assert last == [second.advance() for _ in range(20)] and sorted(first.columns) == list(range(6))
    assert last != [Visits(6, 6).advance() for _ in range(20)] and issubclass(Undecided, Exception)
