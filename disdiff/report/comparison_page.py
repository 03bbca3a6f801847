"""Write a comparison as one offline HTML file: leading systems, values of every seed, pictures."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from disdiff.report.comparison import SPEED, Column, Comparison, RunRecord
from disdiff.report.elements import Picture, embed_figure, render, to_address
from disdiff.report.figures import CURVE, DPI
from disdiff.report.summary import BY_NAME, EDITING, LENIENT, PSNR_ROWS
from disdiff.report.tables import (
    describe,
    explain,
    format_cell,
    format_csv,
    format_latex,
    format_text,
    to_json,
)
from ldm.files import atomic_path, save_json

RANKED = ("FactorVAE score", "DCI disentanglement")
CHARTS = (
    *RANKED,
    *("DCI completeness", "DCI informativeness", "MIG", "InfoM", "InfoE", "InfoC"),
    *EDITING.values(),
    *BY_NAME.values(),
    *LENIENT.values(),
    *(PSNR_ROWS[kind] for kind in ("inferred", "random")),
    *("Parameters, trainable (M)", SPEED),
)
SHARES = {*CHARTS[:8], *EDITING.values(), *BY_NAME.values(), *LENIENT.values()}  # values between 0 and 1
THUMBNAILS = {"swap": "Swaps", "traversal": "Traversals"}
WIDTH = 560  # width of a thumbnail, in pixels


def save_comparison(
    folder: Path, table: Comparison, commands: Mapping[Path, str], failures: Mapping[str, str]
) -> Path:
    """Write `table.txt`, `.csv`, `.tex`, `.json` and `comparison.html`.

    Args:
        folder: output folder.
        table: the comparison.
        commands: commands that made the runs, by run folder; for other runs, a command that repeats them is
            shown.
        failures: reasons of failed runs, by name.

    Returns:
        Path of the page.
    """
    texts = {
        "table.txt": format_text(table) + "\n",
        "table.csv": format_csv(table),
        "table.tex": format_latex(table),
        "comparison.html": write_page(folder, table, commands, failures),
    }
    write_texts(folder, texts)
    told = {str(run.path): name_command(run, commands) for column in table.columns for run in column.runs}
    save_json(folder / "table.json", {**to_json(table), "commands": told, "failures": dict(failures)})
    return folder / "comparison.html"


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files of `texts`, by name, into `folder`."""
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_page(
    folder: Path, table: Comparison, commands: Mapping[Path, str], failures: Mapping[str, str]
) -> str:
    """Render the page; links to reports are relative to `folder`."""
    runs = [run for column in table.columns for run in column.runs]
    return render(
        "comparison.html",
        title=f"{count_systems(table)} on {table.data}",
        run=f"{len(runs)} runs, protocol {table.protocol or 'none'}",
        procedural=runs[0].procedural,
        leads=[text for row in RANKED if (text := describe_lead(table, row))],
        chart=embed_values(table),
        heads=[(column.title, describe(column)) for column in table.columns],
        rows=[(row, [format_cell(c, row, " ± ") for c in table.columns]) for row in table.rows],
        notes=[text.replace("+-", "±") for text in explain(table)],
        cards=[card for column in table.columns if column.runs and (card := make_card(folder, column))],
        failures=failures,
        commands=[(run.folder.name, name_command(run, commands), run.facts) for run in runs],
    )


def count_systems(table: Comparison) -> str:
    """How many systems the table compares, and in how many configurations if these are more."""
    columns = [column.runs for column in table.columns if column.runs]
    names = {run.system for runs in columns for run in runs}
    systems = f"{len(names)} systems" if len(names) > 1 else str(*names)
    return systems if len(columns) == len(names) else f"{len(columns)} configurations of {systems}"


def describe_lead(table: Comparison, row: str) -> str:
    """One sentence on the best and second-best mean of a row, with their difference.

    Published values and supervised systems are left out.
    """
    ours = [c for c in table.columns if row in c.values and c.runs and not c.runs[0].supervision]
    ranked = sorted(ours, key=lambda column: -column.values[row].mean)
    if len(ranked) < 2:
        return ""
    named = [f"{c.title} {format_cell(c, row, ' ± ')} (n={c.values[row].num_runs})" for c in ranked[:2]]
    first, second = (column.values[row] for column in ranked[:2])
    gap, spreads = first.mean - second.mean, [v.std for v in (first, second) if v.std is not None]
    if len(spreads) < 2:
        worth = "but one of them has a single seed, so the difference is uncertain"
    else:
        worth = "more than" if gap > max(spreads) else "within"
        worth += " the larger of their standard deviations over seeds"
    return f"{row}: highest {named[0]}, then {named[1]}. They differ by {gap:.3f}, {worth}."


def embed_values(table: Comparison) -> Picture | None:
    """The main values with every seed's, as a chart; None without any."""
    rows = [row for row in CHARTS if any(row in column.values for column in table.columns)]
    says = "A bar is the mean over seeds, a dot one seed, a diamond a published value."
    return embed_figure(plot_values(table, rows), "Values by system", says) if rows else None


def plot_values(table: Comparison, rows: list[str]) -> Figure:
    """One panel per row: a bar per system for the mean, a dot per seed, a diamond per published value."""
    columns = min(3, len(rows))
    lines, names = -(-len(rows) // columns), [column.title for column in table.columns]
    size = (1.6 + 2.6 * columns, lines * (0.55 + 0.24 * len(names)))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for row, axes in zip(rows, panels.flat, strict=False):
        for place, column in enumerate(table.columns):
            if row not in column.values:
                continue
            if not column.runs:
                axes.plot(column.values[row].mean, place, "D", color="#59636e", markersize=5)
                continue
            axes.barh(place, column.values[row].mean, height=0.62, color=CURVE, alpha=0.25)
            seeds = [run.values[row] for run in column.runs if row in run.values]
            offsets = np.linspace(-0.16, 0.16, len(seeds)) if len(seeds) > 1 else [0.0]
            axes.plot(seeds, place + np.array(offsets), "o", color=CURVE, markersize=3.5)
        axes.set_title(row, fontsize=8, loc="left")
        axes.set_xlim(left=0, right=1 if row in SHARES else None)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    for axes in panels.flat[len(rows) :]:
        axes.set_axis_off()
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].invert_yaxis()
    return figure


def make_card(folder: Path, column: Column) -> dict[str, Any] | None:
    """Swaps, traversals and the report link of a system's first run; None without pictures."""
    run = column.runs[0]
    paths = {title: run.folder / f"{name}.png" for name, title in THUMBNAILS.items()}
    images = [(title, embed_thumbnail(path)) for title, path in paths.items() if path.exists()]
    report = run.folder / "report.html"
    link = os.path.relpath(report, folder) if report.exists() else ""
    return {"title": column.title, "seed": run.seed, "report": link, "images": images} if images else None


def embed_thumbnail(path: Path) -> str:
    """A small JPEG of a picture as a data URL."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, small.height))
        small.save(buffer, "JPEG", quality=80)
    return to_address(buffer.getvalue(), "jpeg")


def name_command(run: RunRecord, commands: Mapping[Path, str]) -> str:
    """The command that made a run, or a command that repeats it."""
    return commands.get(run.folder) or f"disdiff train --base {run.folder / 'config.yaml'}"
