import numpy as np

from disdiff.metrics._sampling import RowsByValue, repeat_rows, split_rows


def test_drawn_rows_share_only_the_fixed_factor(factors):
    random = np.random.RandomState(0)
    which, anchors = random.randint(3, size=400), random.randint(len(factors), size=400)
    rows = RowsByValue(factors).draw(which, anchors, random.random_sample((400, 64)))
    for factor in range(3):
        batch = which == factor
        assert (factors[rows[batch], factor] == factors[anchors[batch], factor][:, None]).all()
        free = (factor + 1) % 3
        share = np.bincount(factors[rows[batch], free].ravel()) / rows[batch].size
        np.testing.assert_allclose(share, np.bincount(factors[:, free]) / len(factors), atol=0.02)


def test_split_rows_are_disjoint_and_depend_on_the_seed_alone():
    train, test = split_rows(np.random.RandomState(3), 100, 60, 40)
    assert sorted([*train, *test]) == list(range(100))
    assert (train == split_rows(np.random.RandomState(3), 100, 60)[0]).all()


def test_repeated_rows_never_share_an_image_between_training_and_test():
    rows = repeat_rows(30, 4, 200, 100)
    train, test = (set(rows[part]) for part in split_rows(np.random.RandomState(4), 300, 200, 100))
    assert len(train) == 20 and len(test) == 10 and not train & test
    assert (rows == repeat_rows(30, 4, 200, 100)).all() and (rows != repeat_rows(30, 5, 200, 100)).any()
    counts = np.bincount(repeat_rows(30, 4, 20_000, 10_000), minlength=30)
    np.testing.assert_allclose(counts, 1000, rtol=0.15)
