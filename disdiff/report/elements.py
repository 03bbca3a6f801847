"""Pages from the templates beside this file, and pictures that lie within the page.

Every text that a template shows is escaped; a value that the template names and nobody gave is an error.
"""

import base64
import io
import re
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from disdiff.report.figures import to_png

DOT = re.compile(r"(?<=[a-z])\.(?=[A-Z])")  # where a long name may break
MAX_BYTES = 1_000_000  # of a picture; a page has five
TEMPLATES = Environment(
    loader=PackageLoader("disdiff.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["split_dots"] = DOT.split


class Picture(NamedTuple):
    """A picture within a page: its address (its own bytes), title, kind (a style) and what it says."""

    address: str
    title: str
    kind: str
    caption: str = ""


def render(template: str, **values: Any) -> str:
    """A page, or a part of one, from a template and the values that it shows."""
    return TEMPLATES.get_template(template).render(values)


def embed_figure(figure: Figure, title: str, caption: str = "") -> Picture:
    """A chart within the page; the dark style inverts it."""
    return embed_png(to_png(figure), title, "chart", caption)


def embed_png(data: bytes, title: str, kind: str, caption: str = "") -> Picture:
    """A PNG within the page and, under it, what it says; a large one becomes a JPEG, which is smaller."""
    large = len(data) > MAX_BYTES
    address = to_address(shrink(data), "jpeg") if large else to_address(data, "png")
    return Picture(address, title, kind, caption)


def to_address(data: bytes, format_: str) -> str:
    """A picture's bytes as an address within the page."""
    return f"data:image/{format_};base64,{base64.b64encode(data).decode('ascii')}"


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
