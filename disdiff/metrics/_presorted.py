"""Regression trees from columns that are sorted once: scikit-learn's trees, without its sorting.

A split of a node sends the p smallest of its rows to the left along one column; the best one maximises
`S_l^2 / n_l + S_r^2 / n_r` with S the sums of the targets on either side. scikit-learn sorts every column again in every
node of every tree. Here a column is sorted once for all trees, the sums are cumulative sums in that order, and a child inherits
its parent's orders by a stable selection.

The tree is the same whenever no two candidates are nearly equal, for then rounding cannot change the choice. Where two are within
`TOLERANCE` (duplicated columns, nodes of a few rows), scikit-learn breaks the tie by its own random numbers and its own
order of summation; `grow` then returns None and the caller lets scikit-learn grow that tree.
"""

import numpy as np
from sklearn.tree._tree import NODE_DTYPE, TREE_LEAF, TREE_UNDEFINED, Tree

TOLERANCE = 1e-9
EPSILON = np.finfo(np.float64).eps
MIN_STEP = np.float32(1e-7)


class _Ambiguous(Exception):
    """Rounding decides how this tree continues."""


class PresortedColumns:
    """Columns of codes (n, N) in float32, sorted, from which trees for many targets are grown."""

    def __init__(self, codes: np.ndarray) -> None:
        """Sort `codes`, float32 of shape (n, N)."""
        self.columns = np.ascontiguousarray(codes.T)
        self.order = np.argsort(self.columns, axis=1, kind="stable")

    def grow(self, target: np.ndarray, max_depth: int) -> Tree | None:
        """Grow the least-squares tree of `target`, float64 of shape (n,), or return None where rounding would decide."""
        nodes: list[tuple] = []
        values: list[float] = []
        try:
            self._add_node(nodes, values, self.order, target, max_depth)
        except _Ambiguous:
            return None
        tree = Tree(len(self.columns), np.ones(1, dtype=np.intp), 1)
        tree.__setstate__(
            {
                "max_depth": max_depth,
                "node_count": len(nodes),
                "nodes": np.array(nodes, dtype=NODE_DTYPE),
                "values": np.array(values).reshape(-1, 1, 1),
            }
        )
        return tree

    def _add_node(
        self, nodes: list[tuple], values: list[float], order: np.ndarray, target: np.ndarray, depth_left: int
    ) -> int:
        """Append a node and what is below it in depth-first order; return the node's index."""
        size = order.shape[1]
        mean, impurity, doubt = _moments(target[order[0]])
        index = len(nodes)
        nodes.append(())
        values.append(mean)
        split = None
        if depth_left > 0 and size > 1:
            if abs(impurity - EPSILON) <= doubt:
                raise _Ambiguous
            split = self._best_split(order, target) if impurity > EPSILON else None
        leaf = (TREE_LEAF, TREE_LEAF, TREE_UNDEFINED, float(TREE_UNDEFINED))
        if split is not None:
            column, place = split
            left, right = self._children(order, column, place, last=depth_left == 1)
            below, above = self.columns[column, order[column, place : place + 2]].astype(np.float64)
            first = self._add_node(nodes, values, left, target, depth_left - 1)
            second = self._add_node(nodes, values, right, target, depth_left - 1)
            leaf = (first, second, column, below / 2.0 + above / 2.0)
        goes_left = split is not None and 2 * (split[1] + 1) > size
        nodes[index] = (*leaf, impurity, size, float(size), goes_left)
        return index

    def _best_split(self, order: np.ndarray, target: np.ndarray) -> tuple[int, int] | None:
        """Column and place of the best split of a node, None if no column varies; `_Ambiguous` if two are as good."""
        size = order.shape[1]
        sums = np.cumsum(target[order], axis=1)
        left = sums[:, :-1]
        right = sums[:, -1:] - left
        count = np.arange(1, size)
        gain = left * left / count
        gain += right * right / (size - count)
        sorted_columns = np.take_along_axis(self.columns, order, axis=1)
        gain[sorted_columns[:, 1:] <= sorted_columns[:, :-1] + MIN_STEP] = -1.0
        best = int(gain.argmax())
        largest = gain.flat[best]
        if largest < 0:
            return None
        if np.count_nonzero(gain >= largest * (1 - TOLERANCE)) > 1:
            raise _Ambiguous
        return divmod(best, size - 1)

    def _children(self, order: np.ndarray, column: int, place: int, last: bool) -> tuple[np.ndarray, np.ndarray]:
        """Orders of the rows left and right of a split, (N, n_left) and (N, n_right); one row of each where `last`."""
        if last:
            return order[column : column + 1, : place + 1], order[column : column + 1, place + 1 :]
        is_left = np.zeros(self.columns.shape[1], dtype=bool)
        is_left[order[column, : place + 1]] = True
        chosen = is_left[order]
        return order[chosen].reshape(len(order), -1), order[~chosen].reshape(len(order), -1)


def _moments(target: np.ndarray) -> tuple[float, float, float]:
    """Mean and variance of a node's targets, and a bound on the rounding error of any way to compute the variance."""
    mean, square = target.mean(), (target * target).mean()
    return float(mean), float(square - mean * mean), float(2 * len(target) * EPSILON * square)
