"""Format a comparison as text for the terminal, CSV, LaTeX and JSON.

The library tabulate is not enough: it has no two-row headers and does not split wide tables into blocks.
"""

import csv
import io
from typing import Any

from disdiff.report.comparison import Column, Comparison

LATEX = r"""\begin{{table}}
\centering
\caption{{{}}}
\begin{{tabular}}{{l{}}}
\toprule
{}
\midrule
{}
\bottomrule
\end{{tabular}}
\end{{table}}
"""
SPECIAL = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}}


def format_text(table: Comparison, width: int | None = None) -> str:
    """Format a table with one row per value and one column per system, followed by notes.

    Columns that exceed `width` characters continue in another block below, which repeats the row names.
    """
    names = ["", "", *table.rows]
    first = max(map(len, names))
    blocks, used = [[names]], first
    for column in table.columns:
        cells = [column.title, describe(column), *(format_cell(column, row) for row in table.rows)]
        used += 2 + max(map(len, cells))
        if width is not None and used > width and len(blocks[-1]) > 1:
            blocks.append([names])
            used = first + 2 + max(map(len, cells))
        blocks[-1].append(cells)
    return "\n\n".join([*(_block(block) for block in blocks), "\n".join(explain(table))])


def _block(columns: list[list[str]]) -> str:
    """Columns side by side, the first left-aligned, with a line below the two header rows."""
    widths = [max(map(len, cells)) for cells in columns]
    lines = [
        "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])
        for name, *cells in zip(*columns, strict=True)
    ]
    lines.insert(2, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def format_csv(table: Comparison) -> str:
    """One self-explanatory line per value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["value", "system", "preset", "data", "protocol", "source", "runs", "mean", "std"])
    for column in table.columns:
        source = "ours" if column.seeds else "published"
        for row, (mean, std, num_runs) in column.values.items():
            kind = [row, column.title, column.preset, table.data, table.protocol or "", source]
            writer.writerow([*kind, num_runs or "", mean, "" if std is None else std])
    return buffer.getvalue()


def format_latex(table: Comparison) -> str:
    """A LaTeX `table` environment, which needs the package booktabs."""
    columns = table.columns
    head = [["", *(escape(c.title) for c in columns)], ["", *(escape(describe(c)) for c in columns)]]
    rows = [[escape(row), *(_cell_latex(c, row) for c in columns)] for row in table.rows]
    return fill_latex(explain(table), head, rows)


def fill_latex(notes: list[str], head: list[list[str]], rows: list[list[str]]) -> str:
    """A LaTeX `table` environment of escaped cells, with notes as its caption."""
    top, body = ("\n".join(" & ".join(cells) + r" \\" for cells in part) for part in (head, rows))
    return LATEX.format(escape(" ".join(notes)), "r" * (len(rows[0]) - 1), top, body)


def to_json(table: Comparison) -> dict[str, Any]:
    """The complete table with the values of every run, ready for JSON."""

    def pool(column: Column) -> dict[str, Any]:
        return {row: {"mean": v.mean, "std": v.std, "runs": v.num_runs} for row, v in column.values.items()}

    columns = [
        {
            "system": column.title,
            "preset": column.preset,
            "source": "ours" if column.runs else "published",
            "note": column.note,
            "values": pool(column),
            "runs": [
                {"run": str(run.path), "seed": run.seed, **run.facts, "values": run.values}
                for run in column.runs
            ],
        }
        for column in table.columns
    ]
    return {"data": table.data, "protocol": table.protocol, "rows": table.rows, "columns": columns}


def describe(column: Column) -> str:
    """Second header of a column: preset and number of runs, or a note that the values are published."""
    return f"{column.preset}, n={len(column.seeds)}" if column.seeds else "published"


def explain(table: Comparison) -> list[str]:
    """Notes that explain the numbers."""
    protocol = f"protocol {table.protocol}" if table.protocol else "no scores"
    facts = [f"{table.data}, {protocol}; mean +- standard deviation over n seeds (dividing by n)."]
    return facts + [f"{column.note}." for column in table.columns if column.note]


def escape(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(SPECIAL.get(character, character) for character in text).replace("+-", r"$\pm$")


def format_cell(column: Column, row: str, between: str = " +- ") -> str:
    """One value of a column, or a dash."""
    if row not in column.values:
        return "-"
    mean, std, _ = column.values[row]
    number = ".2e" if 0 < abs(mean) < 5e-3 else ".3f"
    return f"{mean:{number}}" + ("" if std is None else f"{between}{std:{number}}")


def _cell_latex(column: Column, row: str) -> str:
    text = format_cell(column, row, r" \pm ")
    return "--" if text == "-" else f"${text}$"
