"""A comparison as one HTML file that opens offline: who leads by how much, every seed's values, pictures."""

import base64
import io
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from disdiff.report.comparison import SPEED, Column, Comparison, RunRecord
from disdiff.report.elements import embed_figure
from disdiff.report.figures import CURVE, DPI
from disdiff.report.style import PAGE, STYLE
from disdiff.report.summary import EDITING, PSNR_ROWS
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
    *("DCI completeness", "DCI informativeness", "MIG"),
    *EDITING.values(),
    *(PSNR_ROWS[kind] for kind in ("inferred", "random")),
    *("Parameters, trainable (M)", SPEED),
)
SHARES = {*CHARTS[:5], *EDITING.values()}  # from 0 to 1
THUMBNAILS = {"swap": "Swaps", "traversal": "Traversals"}
WIDTH = 560  # of a thumbnail, in pixels
OWN_STYLE = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.pair img { width: 100%; height: auto; border-radius: 6px; display: block; background: #fff; }
td code { font-size: .8rem; overflow-wrap: anywhere; }
"""


def save_comparison(
    folder: Path, table: Comparison, commands: Mapping[Path, str], failures: Mapping[str, str]
) -> Path:
    """Write `table.txt`, `.csv`, `.tex`, `.json` and `comparison.html`.

    Args:
        folder: to write into.
        table: what to write.
        commands: that made the runs, by run folder; for others the one that repeats them is told.
        failures: why runs are missing, by name.

    Returns:
        Where the page is.
    """
    texts = {
        "table.txt": format_text(table) + "\n",
        "table.csv": format_csv(table),
        "table.tex": format_latex(table),
        "comparison.html": write_page(folder, table, commands, failures),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    told = {str(run.path): name_command(run, commands) for column in table.columns for run in column.runs}
    save_json(folder / "table.json", {**to_json(table), "commands": told, "failures": dict(failures)})
    return folder / "comparison.html"


def write_page(
    folder: Path, table: Comparison, commands: Mapping[Path, str], failures: Mapping[str, str]
) -> str:
    """The page; links to reports are relative to `folder`."""
    runs = [run for column in table.columns for run in column.runs]
    sections = [
        *write_lead(table, runs[0].procedural),
        *write_table(table),
        *write_pictures(folder, table),
        *write_failures(failures),
        *write_runs(runs, commands),
    ]
    systems = sum(bool(column.runs) for column in table.columns)
    return PAGE.format(
        title=escape(f"{systems} systems on {table.data}"),
        run=escape(f"{len(runs)} runs, protocol {table.protocol or 'none'}"),
        style=STYLE + OWN_STYLE,
        script="",
        body="\n".join(sections),
    )


def write_lead(table: Comparison, procedural: bool) -> Iterator[str]:
    """Who leads, in words, and the main values with every seed's."""
    if procedural:
        yield (
            '<p class="notice">The data are procedural: our own rendering with the factors of the published '
            "data set. The numbers do not compare with those published on the original images.</p>"
        )
    sentences = [text for row in RANKED if (text := describe_lead(table, row))]
    yield f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in sentences)}</ul>"
    rows = [row for row in CHARTS if any(row in column.values for column in table.columns)]
    if rows:
        says = "A bar is the mean over seeds, a dot one seed, a diamond a published value."
        yield f"<h2>Values</h2>{embed_figure(plot_values(table, rows), 'values by system', says)}"


def describe_lead(table: Comparison, row: str) -> str:
    """Which mean of a row is the highest and which the second, and what their difference is worth.

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
        worth = "with a single seed of one, that says little"
    else:
        worth = "more than" if gap > max(spreads) else "within"
        worth += " the larger of their standard deviations over seeds"
    return f"{row}: highest {named[0]}, then {named[1]}. They differ by {gap:.3f}, {worth}."


def plot_values(table: Comparison, rows: list[str]) -> Figure:
    """A panel per row: a bar per system at the mean, a dot per seed, a diamond for a published value."""
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


def write_table(table: Comparison) -> Iterator[str]:
    """All values, mean and standard deviation."""
    head = "".join(f"<th>{escape(c.title)}<br>{escape(describe(c))}</th>" for c in table.columns)
    body = "".join(
        f"<tr><td>{escape(row)}</td>"
        + "".join(f'<td class="number">{format_cell(c, row, " ± ")}</td>' for c in table.columns)
        + "</tr>"
        for row in table.rows
    )
    yield (
        f'<h2>Table</h2><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    yield "".join(f"<p>{escape(text.replace('+-', '±'))}</p>" for text in explain(table))


def write_pictures(folder: Path, table: Comparison) -> Iterator[str]:
    """Swaps and traversals of each system's first run, where it has them."""
    cards = [card for column in table.columns if column.runs and (card := write_card(folder, column))]
    if cards:
        says = "Of each system the first run; its report has them in full."
        yield f"<h2>Pictures</h2><p>{says}</p>{''.join(cards)}"


def write_card(folder: Path, column: Column) -> str:
    """One system's pictures; nothing without any."""
    run = column.runs[0]
    images = [
        f'<img alt="{title} of {escape(column.title)}" src="{embed_thumbnail(run.folder / f"{name}.png")}">'
        for name, title in THUMBNAILS.items()
        if (run.folder / f"{name}.png").exists()
    ]
    if not images:
        return ""
    report = run.folder / "report.html"
    link = f' · <a href="{escape(os.path.relpath(report, folder))}">report</a>' if report.exists() else ""
    return (
        f"<h3>{escape(column.title)}</h3><p class=faint>seed {run.seed}{link}</p>"
        f'<div class="pair">{"".join(images)}</div>'
    )


def embed_thumbnail(path: Path) -> str:
    """A small JPEG of a picture, as an address within the page."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, small.height))
        small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def write_failures(failures: Mapping[str, str]) -> Iterator[str]:
    """Runs that are missing, and why."""
    if failures:
        items = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failures.items())
        yield f"<h2>Failed</h2><ul>{items}</ul>"


def write_runs(runs: list[RunRecord], commands: Mapping[Path, str]) -> Iterator[str]:
    """What made every run, when, and on what."""
    head = "".join(f"<th>{name}</th>" for name in ("run", "command", "finished", "device", "commit"))
    body = "".join(
        f"<tr><td>{escape(run.folder.name)}</td><td><code>{escape(name_command(run, commands))}</code></td>"
        + "".join(f"<td>{escape(run.facts[key])}</td>" for key in ("finished", "device", "commit"))
        + "</tr>"
        for run in runs
    )
    yield (
        f'<h2>Commands</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def name_command(run: RunRecord, commands: Mapping[Path, str]) -> str:
    """The command that made a run, or one that repeats it."""
    return commands.get(run.folder) or f"disdiff train --base {run.folder / 'config.yaml'}"
