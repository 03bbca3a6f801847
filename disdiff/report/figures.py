"""Figures of the report: matrices that relate units to factors, and training curves."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from disdiff.metrics.dci import compute_completeness, compute_disentanglement

DPI = 130
CURVE = "#0969da"


def plot_importance(importance: np.ndarray, units: list[int], factors: list[str]) -> Figure:
    """Plot the DCI importance (N, F) of some units, with D of each unit and C of each factor (all units)."""
    importance = np.asarray(importance, dtype=float)
    figure, axes = _matrix(importance[units], units, factors, "{:.2f}")
    unit_scores = [compute_disentanglement(importance[unit][None]) for unit in units]
    factor_scores = [compute_completeness(column[:, None]) for column in importance.T]
    for row, score in enumerate(unit_scores):
        axes.text(len(factors) - 0.3, row, f"{score:.2f}", va="center", fontsize=8)
    for factor, score in enumerate(factor_scores):
        axes.text(factor, len(units) - 0.3, f"{score:.2f}", ha="center", va="top", fontsize=8)
    axes.text(len(factors) - 0.3, -0.7, "D", va="center", fontsize=9, weight="bold")
    axes.text(-0.7, len(units) - 0.3, "C", ha="right", va="top", fontsize=9, weight="bold")
    return figure


def plot_information(information: np.ndarray, units: list[int], factors: list[str]) -> Figure:
    """Plot the mutual information (N, F) in nats of some units; frames mark the two units of the MIG gap."""
    information = np.asarray(information, dtype=float)
    figure, axes = _matrix(information[units], units, factors, "{:.2f}")
    for factor, ranking in enumerate(np.argsort(-information, axis=0, kind="stable")[:2].T):
        for place, unit in enumerate(ranking.tolist()):
            if unit in units:
                style: dict[str, Any] = {"linewidth": 1.8, "linestyle": "-" if place == 0 else ":"}
                corner = (factor - 0.46, units.index(unit) - 0.46)
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, ec="#cf222e", **style))
    return figure


def plot_votes(votes: np.ndarray, units: list[int], factors: list[str]) -> Figure:
    """Plot the FactorVAE votes (N, F): how often a unit varied least while a factor was fixed."""
    return _matrix(np.asarray(votes, dtype=float)[units], units, factors, "{:.0f}")[0]


def plot_training(rows: list[dict[str, str]]) -> Figure:
    """Plot one curve per column of a training log over the steps; values may be empty."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "step"]
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.1 * columns, 1.9 * lines), dpi=DPI, layout="constrained")
    panels = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for name, axes in zip(names, panels, strict=False):
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), color=CURVE, linewidth=1.2)
        axes.set_title(name.replace("_", " "), fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlabel("step", fontsize=7, labelpad=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure


def to_png(figure: Figure) -> bytes:
    """Convert a figure to PNG bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, facecolor="white")
    return buffer.getvalue()


def _matrix(values: np.ndarray, units: list[int], factors: list[str], number: str) -> tuple[Figure, Axes]:
    """Heatmap of non-negative values (K, F) of K units, with the number in each cell."""
    size = (1.5 + 0.72 * len(factors), 1.2 + 0.36 * len(units) + 0.5)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    top = values.max() if values.size and values.max() > 0 else 1.0
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(factors)), factors, fontsize=8, rotation=30, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(units)), [f"unit {unit}" for unit in units], fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (unit, factor), value in np.ndenumerate(values):
        color = "white" if value > 0.6 * top else "#1b1f24"
        axes.text(factor, unit, number.format(value), ha="center", va="center", fontsize=7.5, color=color)
    return figure, axes
