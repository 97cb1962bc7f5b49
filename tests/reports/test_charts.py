"""Charts: valid inside a page, in its colors, and readable without being seen."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.reports import charts
from fasterrcnn.reports.charts import Line

ONE = Line("loss & more", [1, 2, 3], [3.0, 2.0, 1.5])
NAMES = ("cat", "<dog>", "$x$")
CURVES = np.array([[1.0, 0.5, 0.25], [0.5, 0.5, 0.0], [np.nan] * 3])
MATRIX = np.array([[3, 1, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0]])
BINS = [
    {"bin_lower": 0.0, "bin_upper": 0.5, "avg_confidence": 0.2, "avg_accuracy": 0.1, "count": 5},
    {"bin_lower": 0.5, "bin_upper": 1.0, "avg_confidence": 0.0, "avg_accuracy": 0.0, "count": 0},
]
ALL = {
    "lines": charts.lines("Loss", "step", "loss", [ONE], marks=[(2.0, "drop")]),
    "dots": charts.lines("AP", "step", "AP", [ONE._replace(dots=True)] * 2, limits=(0, 1)),
    "per_class": charts.per_class("PR", "recall", "precision", np.arange(3) / 2, CURVES, NAMES),
    "many": charts.per_class("PR", "r", "p", np.arange(3) / 2, CURVES.repeat(9, 0), NAMES * 9),
    "bars": charts.bars("Errors", "points", ["missed"], [1.25]),
    "calibration": charts.calibration(BINS),
    "confusion": charts.confusion(MATRIX, NAMES),
    "large confusion": charts.confusion(np.eye(91, dtype=int), ["x"] * 90),
}


@pytest.mark.parametrize("name", ALL)
def test_an_element_of_a_page(name: str):
    text = ALL[name].svg("c7")
    assert text == ALL[name].svg("c7")  # pages can be compared
    svg = ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))
    assert svg.get("role") == "img"
    assert svg.get("aria-label", "").startswith(f"{ALL[name].title}: ")
    assert {"width", "height"}.isdisjoint(svg.keys())
    ids = [element.get("id") for element in svg.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(id.startswith("c7-") for id in ids)
    assert "var(--ink)" in text
    assert "#01020" not in text
    assert "<style" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_what_is_said_of_lines_and_classes():
    assert ALL["lines"].description == "loss & more from 3 to 1.5, lowest 1.5, highest 3"
    assert ALL["per_class"].description == "mean of 2 classes: highest 0.750 at 0.000"
    assert "missed 1.2" in ALL["bars"].description
    assert ALL["calibration"].description.endswith("0.20: 0.10")
    assert "0.42" in ALL["confusion"].description  # of 3 / 4, 2 / 4 and 0


def test_names_are_drawn_as_they_are():
    text = ALL["confusion"].svg("c")
    assert "&lt;dog&gt;" in text
    assert "$x$" in text


def test_png(tmp_path: Path):
    ALL["lines"].save_png(tmp_path / "loss.png")
    picture = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB"))
    assert picture.shape[1] > 1000
    assert (picture == [0, 0x72, 0xB2]).all(axis=2).any()  # the line
    assert (picture[0, 0] == 255).all()
