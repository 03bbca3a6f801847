"""scikit-learn's gradient boosting classifier, faster: the trees of a round are grown in parallel.

A round of boosting on K classes fits K trees, each to the residual of one class under the predictions of the
*previous* round. So the trees are independent, and growing a tree releases the interpreter lock. Each tree
gets the seed that it would get in the sequential loop. Trees on many rows are grown from columns that are
sorted once (`disdiff.metrics._presorted`).

Splits, leaves and predictions are bit-identical to scikit-learn's. Importances are bit-identical on fewer
than `PRESORT_FROM` rows; otherwise they agree to rounding (below 1e-12), as impurities are summed in another
order. This module and `_presorted` use private parts of scikit-learn. Fit through
`disdiff.metrics._classifiers`, which falls back to the public class if these parts have changed.
"""

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.ensemble._gb import _update_terminal_regions
from sklearn.tree import DecisionTreeRegressor

from disdiff.metrics._presorted import MAX_SEED, FixedSeed, PresortedColumns

PRESORT_FROM = 4_000  # fewest rows for presorting; sorting fewer rows is cheap


class ParallelGradientBoosting(GradientBoostingClassifier):
    """`GradientBoostingClassifier(n_estimators=..., random_state=...)` that grows its trees in `executor`."""

    def __init__(
        self,
        executor: Executor,
        *,
        n_estimators: int = 100,
        random_state: int = 0,
        on_round: Callable[[], None] | None = None,
        presort_from: int | None = None,
    ) -> None:
        super().__init__(n_estimators=n_estimators, random_state=random_state)
        self.executor = executor
        self.on_round = on_round
        self.presort_from = PRESORT_FROM if presort_from is None else presort_from

    def _fit_stage(
        self,
        i: int,
        X: np.ndarray,
        y: np.ndarray,
        raw_predictions: np.ndarray,
        sample_weight: np.ndarray,
        sample_mask: np.ndarray,
        random_state: np.random.RandomState,
        **sparse: None,
    ) -> np.ndarray:
        """Fit round `i` (scikit-learn's hook, with its arguments)."""
        residual = -self._loss.gradient(y_true=y, raw_prediction=raw_predictions, sample_weight=None)
        residual = np.asfortranarray(residual.reshape(len(y), -1))
        seeds = [random_state.randint(MAX_SEED) for _ in range(self.n_trees_per_iteration_)]

        if i == 0:
            self._columns = PresortedColumns(X) if len(X) >= self.presort_from else None

        def grow(k: int) -> None:
            """Fit the tree of class k and add it to column k of the predictions; threads share no column."""
            tree = DecisionTreeRegressor(
                criterion=self._tree_criterion, max_depth=self.max_depth, random_state=FixedSeed(seeds[k])
            )
            tree.tree_ = self._columns and self._columns.grow(residual[:, k], self.max_depth, seeds[k])
            if tree.tree_ is None:
                tree.fit(X, residual[:, k], sample_weight=sample_weight, check_input=False)
            target = (y == k).astype(np.float64) if self._loss.is_multiclass else y
            _update_terminal_regions(
                self._loss,
                tree.tree_,
                X,
                target,
                residual[:, k],
                raw_predictions,
                sample_weight,
                sample_mask,
                learning_rate=self.learning_rate,
                k=k,
            )
            self.estimators_[i, k] = tree

        list(self.executor.map(grow, range(self.n_trees_per_iteration_)))
        if self.on_round:
            self.on_round()
        return raw_predictions

    @property
    def _tree_criterion(self) -> str:
        """The trees' criterion; newer versions of scikit-learn fix it and deprecate the argument."""
        return "squared_error" if self.criterion == "deprecated" else self.criterion
