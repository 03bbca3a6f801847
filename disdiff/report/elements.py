"""The parts that a report's sections are made of: tables, and figures that lie within the page."""

import base64
import io
import re
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from disdiff.report.figures import to_png
from disdiff.report.summary import Rows

DOT = re.compile(r"(?<=[a-z])\.(?=[A-Z])")  # where a long name may break
MAX_BYTES = 1_000_000  # of a picture; a page has five


def write_table(caption: str, heads: list[str], rows: Rows) -> str:
    """A table; numbers stand to the right with three decimals."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{DOT.sub('.<wbr>', escape(value))}</td>"
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
    """A PNG within the page and, under it, what it says; a large one becomes a JPEG, which is smaller."""
    large = len(data) > MAX_BYTES
    data = shrink(data) if large else data
    encoded, format_ = base64.b64encode(data).decode("ascii"), "jpeg" if large else "png"
    says = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img class="{kind}" alt="{escape(title)}" src="data:image/{format_};base64,{encoded}">'
        f"{says}</figure>"
    )


def shrink(data: bytes) -> bytes:
    """A picture as JPEG of at most `MAX_BYTES`, in the best quality that allows, else at half the size."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    for version, quality in ((picture, 88), (picture, 70), (half, 85), (half, 60), (half, 30)):
        buffer = io.BytesIO()
        version.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
