"""The parts that a report's sections are made of: tables, and figures that lie within the page."""

import base64
from html import escape

from matplotlib.figure import Figure

from disdiff.report.figures import to_png
from disdiff.report.summary import Rows


def write_table(caption: str, heads: list[str], rows: Rows) -> str:
    """A table; numbers stand to the right with three decimals."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{escape(value)}</td>"
        return f'<td class="number">{value:.3f}</td>'

    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def embed_figure(figure: Figure, title: str, caption: str = "") -> str:
    """A chart within the page; the dark style inverts it."""
    return embed_png(to_png(figure), title, "chart", caption)


def embed_png(data: bytes, title: str, kind: str, caption: str = "") -> str:
    """A PNG within the page and, under it, what it says."""
    encoded = base64.b64encode(data).decode("ascii")
    says = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img class="{kind}" alt="{escape(title)}" src="data:image/png;base64,{encoded}">'
        f"{says}</figure>"
    )
