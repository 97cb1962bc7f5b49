"""Pages are one file each: nothing is loaded, everything is escaped."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from fasterrcnn.reports import pages
from fasterrcnn.reports.drawing import PALETTE
from tests.reports import html_pages


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a template beside the base of all pages; its name."""
    base = (pages._TEMPLATES / "base.html").read_text()
    (tmp_path / "base.html").write_text(base)
    monkeypatch.setattr(pages, "_TEMPLATES", tmp_path)

    def write(body: str) -> str:
        head = '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}'
        (tmp_path / "x.html").write_text(f"{head}{{% block body %}}{body}{{% endblock %}}")
        return "x.html"

    return write


def test_a_page_from_the_base(template):
    html = pages.render(template("<h1>{{ name }}</h1>"), name="<script>alert(1)</script> & co")
    page = html_pages.check(html)
    assert page.all("script") == []
    assert page.texts.count("<script>alert(1)</script> & co") == 2


def test_a_value_that_is_missing_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError):
        pages.render(template("{{ missing }}"), name="")


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "12.3\xa0%"), (None, "-"), (1.0, "100.0\xa0%")]
)
def test_percent(value: float | None, text: str):
    assert pages.percent(value) == text


def test_pictures_are_made_smaller_until_they_fit():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    sizes = []
    for limit in (10**9, 60_000, 1):
        head, _, data = pages.data_uri(Image.fromarray(noise), limit).partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            sizes.append(picture.size)
        assert len(data) <= limit or limit == 1
    assert sizes[0] == (800, 600)
    assert sizes[1][0] < 800
    assert sizes[2] == (192, 144)


def test_file_names_that_are_no_text_can_be_written(tmp_path: Path):
    pages.write("a\udcff", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == b"a?"


def test_every_class_has_its_color_once(template):
    """On paper too: no rule is nested in another."""
    html = pages.render(template("<h1>x</h1>"), name="")
    for k, (r, g, b) in enumerate(PALETTE):
        rule = f".color{k} {{ stroke: rgb({r} {g} {b}); background: rgb({r} {g} {b}); }}"
        assert html.count(rule) == html.count(f".color{k} ") == 1
    assert html.count("{") == html.count("}")
