"""Render HTML pages from the templates in this package, and embed pictures in them.

All values are HTML-escaped. A value that a template uses but that was not given is an error.
"""

import base64
import io
import re
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from disdiff.report.figures import to_png

DOT = re.compile(r"(?<=[a-z])\.(?=[A-Z])")  # possible line breaks in long names
MAX_BYTES = 1_000_000  # largest size of an embedded picture; a page has about five
TEMPLATES = Environment(
    loader=PackageLoader("disdiff.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["split_dots"] = DOT.split


class Picture(NamedTuple):
    """A picture embedded in a page: its data URL, title, kind (CSS class) and caption."""

    address: str
    title: str
    kind: str
    caption: str = ""


def render(template: str, **values: Any) -> str:
    """Render a template, a page or a part of one, with the given values."""
    return TEMPLATES.get_template(template).render(values)


def embed_figure(figure: Figure, title: str, caption: str = "") -> Picture:
    """Embed a chart; the dark style inverts its colours."""
    return embed_png(to_png(figure), title, "chart", caption)


def embed_png(data: bytes, title: str, kind: str, caption: str = "") -> Picture:
    """Embed a PNG with its caption; a large one is converted to JPEG to save space."""
    large = len(data) > MAX_BYTES
    address = to_address(shrink(data), "jpeg") if large else to_address(data, "png")
    return Picture(address, title, kind, caption)


def to_address(data: bytes, format_: str) -> str:
    """Encode a picture's bytes as a data URL."""
    return f"data:image/{format_};base64,{base64.b64encode(data).decode('ascii')}"


def shrink(data: bytes) -> bytes:
    """Convert a picture to a JPEG of at most `MAX_BYTES`, at the best possible quality, else at half size."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    for version, quality in ((picture, 88), (picture, 70), (half, 85), (half, 60), (half, 30)):
        buffer = io.BytesIO()
        version.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
