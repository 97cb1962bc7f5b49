"""HTML pages in one file: they open from disk and load nothing.

A page is a template in ``templates/`` that extends ``base.html``, which has the look of all pages
and forbids them to load anything. Values are escaped unless a template says otherwise.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from fasterrcnn.reports.drawing import PALETTE

_TEMPLATES = Path(__file__).parent / "templates"
_SIDES = (800, 640, 512, 400, 320, 256, 192)  # px
_QUALITY = 82


def render(template: str, **values: Any) -> str:
    """The page that `template` makes of `values`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["palette"] = [f"rgb({r} {g} {b})" for r, g, b in PALETTE]
    environment.filters["percent"] = percent
    return environment.get_template(template).render(values)


def write(page: str, path: Path) -> None:
    """Write a page as UTF-8, in a folder that is made if need be; what UTF-8 has no code for (bytes
    of file names) becomes a question mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def percent(value: float | None) -> str:
    """0.1234 as 12.3 %, with a space that keeps both on one line."""
    return "-" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def data_uri(picture: Image.Image, limit: int) -> str:
    """The picture as a JPEG in a URI, made smaller until it has at most `limit` bytes (or is 192 px
    long)."""
    data = b""
    for side in _SIDES:
        scale = min(1.0, side / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
        if len(data) * 4 // 3 <= limit:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
