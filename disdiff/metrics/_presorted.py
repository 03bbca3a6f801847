"""Regression trees that equal scikit-learn's, grown from columns that are sorted only once.

A split of a node sends the p smallest of its rows along one column to the left; the best split maximises
`S_l^2 / n_l + S_r^2 / n_r`, where S are the sums of the targets on the two sides. scikit-learn sorts every
column in every node of every tree. Here a column is sorted once for all trees, the sums are cumulative sums
in that order, and a child gets its parent's orders by a stable selection.

Sums in another order differ by rounding. If two candidate splits are closer than this rounding, as in nodes
of a few rows, scikit-learn grows that part of the tree, from the same rows and random numbers as in its own
tree: it visits columns in a random order, leaves the rows sorted by the column visited last, and swaps them
across the split from both ends. If this order is unknown (equal values within a column), `grow` returns None,
and the caller lets scikit-learn grow the whole tree.
"""

from collections.abc import Callable

import numpy as np
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import NODE_DTYPE, TREE_LEAF, TREE_UNDEFINED, Tree

EPSILON = np.finfo(np.float64).eps  # also scikit-learn's limit for the impurity of a pure node
MIN_STEP = np.float32(1e-7)  # scikit-learn treats closer values as equal
MAX_SEED = 2**31 - 1
Rows = Callable[[], np.ndarray]


class Undecided(Exception):
    """The next split depends on rounding, or on an unknown order of rows."""


class FixedSeed(np.random.RandomState):
    """A random state from which a scikit-learn tree draws one given number, its seed."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.number = number

    def randint(self, *bounds: int) -> int:
        """The seed."""
        return self.number


class Visits:
    """The random order in which scikit-learn visits columns, node by node; valid while `known` is true."""

    def __init__(self, seed: int, num_columns: int) -> None:
        self.state, self.columns, self.known = seed, list(range(num_columns)), True

    def advance(self) -> int:
        """Visit all columns of a node, none of them constant; return the last column visited."""
        columns, state = self.columns, self.state
        for left in range(len(columns), 0, -1):
            state = state or 1
            state ^= state << 13 & 0xFFFFFFFF
            state ^= state >> 17
            state ^= state << 5 & 0xFFFFFFFF
            drawn = (state & MAX_SEED) % left
            columns[left - 1], columns[drawn] = columns[drawn], columns[left - 1]
        self.state = state
        return columns[0]


class PresortedColumns:
    """Sorted columns of codes, from which trees for many targets are grown."""

    def __init__(self, codes: np.ndarray) -> None:
        """Sort `codes`, float32 of shape (n, N)."""
        self.columns = np.ascontiguousarray(codes.T)
        self.order = np.argsort(self.columns, axis=1, kind="stable")
        self.inverse = 1.0 / np.maximum(np.arange(len(codes) + 1), 1)

    def grow(self, target: np.ndarray, max_depth: int, seed: int) -> Tree | None:
        """Grow the least-squares tree of `target` (n,), float64, with this seed; None if undecided."""
        growth = _Growth(self, target, seed)
        try:
            growth.add_node(self.order, max_depth, None)
        except Undecided:
            return None
        table = np.zeros(len(growth.nodes), NODE_DTYPE)
        for name in NODE_DTYPE.names:
            table[name] = [node[name] for node in growth.nodes]
        values = np.array([node["value"] for node in growth.nodes]).reshape(-1, 1, 1)
        tree = Tree(len(self.columns), np.ones(1, dtype=np.intp), 1)
        state = {"max_depth": max_depth, "node_count": len(table), "nodes": table, "values": values}
        tree.__setstate__(state)
        return tree


class _Growth:
    """State of growing one tree; nodes are in scikit-learn's order, depth first."""

    def __init__(self, table: PresortedColumns, target: np.ndarray, seed: int) -> None:
        self.table, self.columns, self.target = table, table.columns, target
        self.visits, self.nodes = Visits(seed, len(table.columns)), []
        self.noise = 4 * len(target) * EPSILON * float(target @ target)  # rounding of a sum of squares

    def add_node(self, order: np.ndarray, depth_left: int, rows: Rows | None) -> int:
        """Append a node and all nodes below it; return its index.

        Args:
            order: the node's rows sorted by each column, shape (N, size); at the last level by one column.
            depth_left: number of levels that may follow.
            rows: returns the node's rows in scikit-learn's order; None for the root.
        """
        size, index = order.shape[1], len(self.nodes)
        inside = self.target[order[0]]
        mean, square = float(inside.mean()), float((inside * inside).mean())
        node = {
            "left_child": TREE_LEAF,
            "right_child": TREE_LEAF,
            "feature": TREE_UNDEFINED,
            "threshold": TREE_UNDEFINED,
            "impurity": square - mean * mean,
            "n_node_samples": size,
            "weighted_n_node_samples": size,
            "missing_go_to_left": False,
            "value": mean,
        }
        if depth_left and size > 1:
            if abs(node["impurity"] - EPSILON) <= self.noise / size:
                raise Undecided
            if node["impurity"] > EPSILON:
                ends = np.take_along_axis(self.columns, order[:, [0, -1]], axis=1)
                if (ends[:, 1] <= ends[:, 0] + MIN_STEP).any():
                    self.visits.known = False  # a constant column changes the order of visits
                try:
                    column, place = self._best_split(order)
                except Undecided:
                    return self._delegate(order, depth_left, rows)
                self._split(node, order, column, place, depth_left)
                return index
        self.nodes.append(node)
        return index

    def _split(self, node: dict, order: np.ndarray, column: int, place: int, depth_left: int) -> None:
        """Append a node that is split at `place` of `column`, and its children."""
        self.nodes.append(node)
        last = self.visits.advance()
        is_left = np.zeros(self.columns.shape[1], dtype=bool)
        is_left[order[column, : place + 1]] = True
        if depth_left == 1:
            left, right = order[column : column + 1, : place + 1], order[column : column + 1, place + 1 :]
        else:
            chosen = is_left.take(order)
            left, right = (order[side].reshape(len(order), -1) for side in (chosen, ~chosen))
        below, above = self.columns[column, order[column, place : place + 2]].astype(np.float64)
        node["feature"], node["threshold"] = column, below / 2 + above / 2
        node["missing_go_to_left"] = 2 * (place + 1) > order.shape[1]

        def rows(side: int) -> np.ndarray:
            """Rows of the left (0) or right (1) child in scikit-learn's order.

            Raises:
                Undecided: rows with equal values, whose order is unknown, are on that side.
            """
            values = self.columns[last, order[last]]
            goes_left = is_left[order[last]]
            equal = np.flatnonzero(values[1:] == values[:-1])
            if (goes_left[np.concatenate([equal, equal + 1])] == (side == 0)).any():
                raise Undecided
            return swap_across(order[last], goes_left)[side]

        node["left_child"] = self.add_node(left, depth_left - 1, lambda: rows(0))
        node["right_child"] = self.add_node(right, depth_left - 1, lambda: rows(1))

    def _best_split(self, order: np.ndarray) -> tuple[int, int]:
        """Column and place of the best split of a node."""
        size = order.shape[1]
        targets = self.target.take(order)
        # |gain' - gain| <= 4 sqrt(gain) |S' - S|, and the error of any order of summation is <= n eps sum |y|
        doubt = 8 * size * EPSILON * float(np.abs(targets[0]).sum())
        left = np.cumsum(targets, axis=1, out=targets)[:, :-1]
        right = targets[0, -1] - left
        gain = left * left
        gain *= self.table.inverse[1:size]
        right *= right
        right *= self.table.inverse[size - 1 : 0 : -1]
        gain += right
        for masked in (False, True):
            if masked:
                values = np.take_along_axis(self.columns, order, axis=1)
                gain[values[:, 1:] <= values[:, :-1] + MIN_STEP] = -1.0
            largest = float(gain.max())
            near = np.flatnonzero(gain >= largest - doubt * max(largest, 0.0) ** 0.5 - 16 * EPSILON * largest)
            columns, places = np.divmod(near, size - 1)
            below, above = (self.columns[columns, order[columns, places + step]] for step in (0, 1))
            possible = np.flatnonzero(above > below + MIN_STEP)
            if len(possible) == 1:
                return int(columns[possible[0]]), int(places[possible[0]])
            if len(possible) > 1:
                break
        raise Undecided

    def _delegate(self, order: np.ndarray, depth_left: int, rows: Rows | None) -> int:
        """Let scikit-learn grow a node and all nodes below it; return its index."""
        values = np.take_along_axis(self.columns, order, axis=1)
        if rows is None or not self.visits.known or (values[:, 1:] <= values[:, :-1] + MIN_STEP).any():
            raise Undecided
        chosen, visited, index = rows(), np.array(self.visits.columns), len(self.nodes)
        tree = DecisionTreeRegressor(max_depth=depth_left, random_state=FixedSeed(self.visits.state))
        codes = np.ascontiguousarray(self.columns[visited][:, chosen].T)
        tree.fit(codes, self.target[chosen], check_input=False)
        state = tree.tree_.__getstate__()
        for row, value in zip(state["nodes"], state["values"].ravel(), strict=True):
            node = {name: row[name] for name in NODE_DTYPE.names} | {"value": value}
            if node["left_child"] != TREE_LEAF:
                self.visits.advance()
                node["feature"] = visited[node["feature"]]
                node["left_child"] += index
                node["right_child"] += index
            self.nodes.append(node)
        return index


def swap_across(rows: np.ndarray, goes_left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows left and right of a split in the order after scikit-learn's swaps.

    From the left, a row that goes right is swapped with the last row that was not moved yet, until the row
    swapped in goes left.

    Args:
        rows: rows of a node, shape (n,).
        goes_left: whether each row goes left, shape (n,).
    """
    num_left = int(np.count_nonzero(goes_left))
    left, holes = rows[:num_left].copy(), np.flatnonzero(~goes_left[:num_left])
    tail, tail_left = rows[num_left:][::-1], goes_left[num_left:][::-1]
    left[holes] = tail[tail_left]
    group = np.cumsum(tail_left)[~tail_left]  # number of holes filled before a row of the tail was moved
    moved = tail[~tail_left]
    final = int(np.searchsorted(group, len(holes)))
    moved[final:] = np.roll(moved[final:], 1)
    moved = np.insert(moved, np.searchsorted(group, np.arange(len(holes))), rows[holes])
    return left, moved[::-1]
