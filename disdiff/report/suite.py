"""The table over several data sets: a row per system, a group of columns per data set.

Each group is the `Comparison` of one data set and has its own header with data set and protocol: values of
different data sets or protocols never share a column.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from disdiff.editing.unit_names import name_data
from disdiff.report.comparison import Column, Comparison, compare_runs, load_metrics
from disdiff.report.comparison_page import save_comparison, write_texts
from disdiff.report.elements import render
from disdiff.report.summary import EDITING, SCORES
from disdiff.report.tables import escape, explain, fill_latex, format_cell, format_csv, to_json
from ldm.errors import UserError
from ldm.files import save_json

HEADLINES = {  # (row of a comparison): short name
    SCORES["factor_vae", "eval_accuracy"]: "FactorVAE",
    SCORES["dci", "disentanglement"]: "DCI",
    EDITING["success_mean"]: "swaps right",
}


class Row(NamedTuple):
    """A system's row: its name with the preset, and for each data set its column there, or None."""

    name: str
    columns: list[Column | None]


def compare_data_sets(paths: Sequence[Path], protocol: str | None = None) -> list[Comparison]:
    """Build a comparison for each data set of some runs, in the order of the runs.

    Args:
        paths: run folders or `metrics.json` files.
        protocol: protocol of the scores; None for the one that the runs of a data set share.

    Raises:
        UserError: as `compare_runs`, or the scores of two data sets are of different protocols.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        data = load_metrics(path)["dataset"]
        groups.setdefault(name_data(data["name"], bool(data.get("procedural"))), []).append(path)
    tables = [compare_runs(group, protocol) for group in groups.values()]
    kinds = {table.protocol.split(",")[0] for table in tables if table.protocol}
    if len(kinds) > 1:
        raise UserError(
            f"the runs have scores of different protocols ({' and '.join(sorted(kinds))}); choose one with "
            "--protocol, or compare fewer data sets"
        )
    return tables


def list_rows(tables: Sequence[Comparison]) -> list[Row]:
    """The systems of all tables in the order of their first appearance; published values are left out."""
    found: dict[tuple[str, str], list[Column | None]] = {}
    for place, table in enumerate(tables):
        for column in table.columns:
            if column.runs:
                title = column.title.removesuffix(f"-{column.runs[0].data}")
                found.setdefault((title, column.preset), [None] * len(tables))[place] = column
    return [Row(f"{title} ({preset})", columns) for (title, preset), columns in found.items()]


def list_cells(rows: Sequence[Row], place: int) -> list[list[str]]:
    """The columns of one data set: for each headline its short name, then a cell per system."""
    return [
        [
            short,
            *("-" if row.columns[place] is None else format_cell(row.columns[place], name) for row in rows),
        ]
        for name, short in HEADLINES.items()
    ]


def format_suite(tables: Sequence[Comparison], width: int | None = None) -> str:
    """Format the table as text.

    Groups that exceed `width` characters continue in another block below, which repeats the systems.
    """
    rows = list_rows(tables)
    first = _block("", [["", *(row.name for row in rows)]], left=True)
    blocks = [[first]]
    for place, table in enumerate(tables):
        group = _block(name_group(table), list_cells(rows, place))
        used = sum(len(lines[0]) + 3 for lines in blocks[-1])
        if width is not None and used + len(group[0]) > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(group)
    texts = ["\n".join(" | ".join(line).rstrip() for line in zip(*block, strict=True)) for block in blocks]
    return "\n\n".join([*texts, "\n".join(list_notes(tables))])


def _block(title: str, columns: list[list[str]], left: bool = False) -> list[str]:
    """Lines of equal length: the title, then the columns side by side, with a rule below their names."""
    widths = [max(map(len, cells)) for cells in columns]
    lines = [
        "  ".join(cell.ljust(w) if left else cell.rjust(w) for cell, w in zip(cells, widths, strict=True))
        for cells in zip(*columns, strict=True)
    ]
    longest = max(len(title), len(lines[0]))
    lines = [title, lines[0], "-" * longest, *lines[1:]]
    return [line.ljust(longest) if left or line == title else line.rjust(longest) for line in lines]


def name_group(table: Comparison) -> str:
    """Data set and protocol of a group of columns."""
    return f"{table.data}, {table.protocol or 'no scores'}"


def list_notes(tables: Sequence[Comparison]) -> list[str]:
    """Notes on all tables, each once."""
    return list(dict.fromkeys(text for table in tables for text in explain(table)))


def format_suite_latex(tables: Sequence[Comparison]) -> str:
    """The table as a LaTeX `table` environment, which needs the package booktabs."""
    rows, each = list_rows(tables), len(HEADLINES)
    groups = [rf"\multicolumn{{{each}}}{{c}}{{{escape(name_group(table))}}}" for table in tables]
    columns = [["", *(row.name for row in rows)]]
    columns += [cells for place in range(len(tables)) for cells in list_cells(rows, place)]
    names, *lines = ([*map(escape, line)] for line in zip(*columns, strict=True))
    return fill_latex(list_notes(tables), [["", *groups], names], lines)


def format_suite_csv(tables: Sequence[Comparison]) -> str:
    """One line per value of every table, below one header."""
    texts = [format_csv(table).split("\n", 1) for table in tables]
    return "\n".join([texts[0][0], "".join(values for _, values in texts)])


def save_suite(
    folder: Path, tables: Sequence[Comparison], commands: Mapping[Path, str], failures: Mapping[str, str]
) -> Path:
    """Write the table in every format, and below a folder per data set its own comparison.

    Args:
        folder: output folder.
        tables: the comparisons.
        commands: commands that made the runs, by run folder.
        failures: reasons of failed runs, by name.

    Returns:
        Path of the page.
    """
    pages = [save_comparison(folder / name_folder(table), table, commands, {}) for table in tables]
    rows = list_rows(tables)
    cells = [list_cells(rows, place) for place in range(len(tables))]
    page = render(
        "suite.html",
        title=f"{len(rows)} systems on {len(tables)} data sets",
        run=", ".join(table.data for table in tables),
        groups=[
            (name_group(table), os.path.relpath(path, folder))
            for table, path in zip(tables, pages, strict=True)
        ],
        names=list(HEADLINES.values()),
        rows=[
            (row.name, [column[line] for group in cells for column in group])
            for line, row in enumerate(rows, 1)
        ],
        notes=list_notes(tables),
        failures=failures,
    )
    texts = {
        "table.txt": format_suite(tables) + "\n",
        "table.csv": format_suite_csv(tables),
        "table.tex": format_suite_latex(tables),
        "comparison.html": page,
    }
    write_texts(folder, texts)
    content: dict[str, Any] = {"tables": [to_json(table) for table in tables], "failures": dict(failures)}
    save_json(folder / "table.json", content)
    return folder / "comparison.html"


def name_folder(table: Comparison) -> str:
    """Name of a data set's folder, such as `shapes3d-procedural`."""
    return table.data.replace(" (", "-").removesuffix(")")
