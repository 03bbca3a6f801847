"""The faster gradient boosting gives way to scikit-learn's own where private parts have changed."""

import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from disdiff.metrics import _boosting, _classifiers, _presorted
from disdiff.metrics.dci import compute_dci

RANDOM = np.random.RandomState(0)
CODES = RANDOM.normal(size=(300, 3))
FACTORS = np.stack([np.digitize(CODES[:, 0], [-0.5, 0.5]), CODES[:, 1] > 0.2], axis=1).astype(int)


@pytest.fixture(autouse=True)
def found_anew():
    _classifiers.find_parallel.cache_clear()
    yield
    _classifiers.find_parallel.cache_clear()


def check_public_class_works(caplog, reason):
    shares = []
    result = compute_dci(
        CODES,
        FACTORS,
        seed=3,
        num_train=200,
        num_test=100,
        estimator="gradient_boosting_20_rounds",
        num_workers=2,
        progress=shares.append,
    )
    rows = np.random.RandomState(3).permutation(300)
    for factor in range(2):
        model = GradientBoostingClassifier(n_estimators=20, random_state=3)
        model.fit(CODES[rows[:200]], FACTORS[rows[:200], factor])
        assert np.array(result["importance"])[:, factor].tolist() == model.feature_importances_.tolist()
        assert result["accuracy"][factor] == model.score(CODES[rows[200:]], FACTORS[rows[200:], factor])
    assert sorted(shares) == pytest.approx(np.arange(1, 41) / 40)
    (line,) = caplog.messages
    assert "scikit-learn's own gradient boosting" in line and reason in line
    assert _classifiers.find_parallel() is None


def test_here_the_faster_class_does_the_work(caplog):
    assert _classifiers.find_parallel() is _boosting.ParallelGradientBoosting and not caplog.messages


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("sklearn.ensemble._gb", "_update_terminal_regions"),
        ("sklearn.tree._tree", "NODE_DTYPE"),
        ("sklearn.tree._tree", "Tree"),
        ("sklearn.tree._tree", None),
    ],
)
def test_private_names_may_be_absent(monkeypatch, caplog, module, name):
    """The names, or the module, are gone for ours; scikit-learn itself keeps what it has already imported."""
    without = ModuleType(module)
    without.__dict__.update({key: value for key, value in vars(sys.modules[module]).items() if key != name})
    monkeypatch.setitem(sys.modules, module, without if name else None)
    for ours in ("_boosting", "_presorted"):
        monkeypatch.delitem(sys.modules, f"disdiff.metrics.{ours}")
    check_public_class_works(caplog, "Error: ")


def half_the_leaves(monkeypatch):
    update = _boosting._update_terminal_regions
    monkeypatch.setattr(
        _boosting,
        "_update_terminal_regions",
        lambda *args, learning_rate, **rest: update(*args, learning_rate=learning_rate / 2, **rest),
    )


def other_arguments(monkeypatch):
    monkeypatch.setattr(_boosting, "_update_terminal_regions", lambda loss, tree: None)


def hook_never_called(monkeypatch):
    monkeypatch.delattr(_boosting.ParallelGradientBoosting, "_fit_stage")


def attribute_gone(monkeypatch):
    loss = property(lambda self: self.gone, lambda self, value: None)
    monkeypatch.setattr(_boosting.ParallelGradientBoosting, "_loss", loss, raising=False)


def other_splits_when_presorted(monkeypatch):
    monkeypatch.setattr(_presorted._Growth, "_best_split", lambda self, order: (0, 0))


def other_impurities_when_presorted(monkeypatch):
    add_node = _presorted._Growth.add_node

    def add(self, order, depth_left, rows):
        index = add_node(self, order, depth_left, rows)
        self.nodes[index]["impurity"] *= 1 + 1e-6 * depth_left
        return index

    monkeypatch.setattr(_presorted._Growth, "add_node", add)


def other_draws_of_seeds(monkeypatch):
    """Leaves of two rows: which column splits them depends on the seed of the tree."""
    monkeypatch.setattr(_boosting.FixedSeed, "randint", lambda self, *bounds: self.number ^ 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (half_the_leaves, "other predictions"),
        (other_arguments, "TypeError"),
        (hook_never_called, "other rounds"),
        (attribute_gone, "AttributeError"),
        (other_splits_when_presorted, "other predictions"),
        (other_impurities_when_presorted, "other importances"),
        (other_draws_of_seeds, "other"),
    ],
)
def test_private_parts_may_behave_differently(monkeypatch, caplog, change, reason):
    change(monkeypatch)
    check_public_class_works(caplog, reason)
