"""The page of compare and its text: numbers, verdicts, pictures; readable without seeing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.metrics.resampling import Difference, Differences
from fasterrcnn.reports import compare_page, differences
from fasterrcnn.reports.compare_page import Disagreement, Panel
from fasterrcnn.reports.differences import Compared, Report
from tests.reports import html_pages

NAUGHTY = "<script>alert('x')</script>\"&"
BETTER = Difference(0.5, 0.6, 0.05, 0.15)
WORSE = Difference(0.5, 0.4321, -0.1, -0.001)
NOISE = Difference(0.5, 0.51, -0.02, 0.04)
FEW = Difference(0.5, 0.6)
NONE = Difference(None, None)


def report(*pairs: Differences, name: str = "output/run") -> Report:
    detectors = [
        Compared(letter, f"{name}{letter}", "step 5")
        for letter, _ in zip("ABC", [None, *pairs], strict=False)
    ]
    return Report(detectors, Path("/data"), "val", 5000, 1000, list(pairs))


def render(found: Report, *disagreements: list[Disagreement]) -> html_pages.Page:
    return html_pages.check(compare_page.render(found, disagreements, 0.5))


@pytest.mark.parametrize(
    ("one", "verdict", "interval"),
    [
        (BETTER, "better", "+5.00 to +15.00"),
        (WORSE, "worse", "-10.00 to -0.10"),
        (NOISE, "within noise", "-2.00 to +4.00"),
        (Difference(0.5, 0.5, 0.0, 0.0), "within noise", "+0.00 to +0.00"),
        (FEW, "too few images", "-"),
        (NONE, "", "-"),
    ],
)
def test_verdicts(one: Difference, verdict: str, interval: str):
    assert (differences.verdict(one), differences.interval(one)) == (verdict, interval)


def test_lines():
    found = report(
        Differences({"AP": WORSE}, {"cat": NOISE, "dog": NONE}), Differences({"AP": FEW}, {})
    )
    text = differences.lines(found)
    assert text[:3] == [f"{letter}: output/run{letter}, step 5" for letter in "ABC"]
    assert text[3] == "split val of /data: 5000 images, 1000 resamples"
    cells = [line.split() for line in text]
    assert ["AP", "50.00", "43.21", "-6.79", "-10.00", "to", "-0.10", "worse"] in cells
    assert ["cat", "50.00", "51.00", "+1.00", "-2.00", "to", "+4.00", "within", "noise"] in cells
    assert ["AP", "50.00", "60.00", "+10.00", "-", "too", "few", "images"] in cells
    assert not any(row[:1] == ["dog"] for row in cells)
    assert text[-2] == differences.MEANING
    many = Differences({"AP": NOISE}, {f"class {i}": NOISE for i in range(101)})
    assert not any("class 5" in line for line in differences.lines(report(many)))
    assert "(AP of 101 classes: on the page)" in differences.lines(report(many))


def test_the_page_has_every_number_and_tables_that_can_be_read_aloud():
    found = report(
        Differences({"AP": WORSE, "AP50": NOISE, "AP75": FEW}, {"cat": BETTER, "dog": NONE}),
        Differences({"AP": BETTER}, {"cat": NOISE, "dog": FEW}),
    )
    page = render(found, [], [])
    text = page.text()
    for wanted in (
        "B is worse than A (-6.79 AP, -10.00 to -0.10).",
        "C is better than A (+10.00 AP, +5.00 to +15.00).",
        "AP 50.00 43.21 -6.79 -10.00 to -0.10 worse",
        "cat 50.00 60.00 +10.00 +5.00 to +15.00 better",
        "AP75 50.00 60.00 +10.00 - too few images",
        "dog - - - -",
        "1000 resamples",
        "another seed",
    ):
        assert wanted in text, wanted
    assert len(page.all("table")) == len(page.all("caption")) == 4
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert [cell["scope"] for cell in page.all("th")].count("row") == 3 + 2 + 1 + 2


def test_an_interval_is_drawn_where_it_is():
    """The longest one of a table fills half of its width: 50 on each side of 0."""
    page = render(report(Differences({"AP": WORSE, "AP50": NOISE}, {})), [])
    bars = [(rect["x"], rect["width"]) for rect in page.all("rect")]
    assert bars == [("-50.00", "49.50"), ("-10.00", "30.00")]


def test_pictures_are_beside_each_other_and_described():
    panels = [
        Panel("ground truth", "data:image/jpeg;base64,AAAA", "2 objects"),
        Panel("A", "data:image/jpeg;base64,BBBB", "F1 1.00, 2 found, 0 missed, 0 false"),
        Panel("B", "data:image/jpeg;base64,CCCC", "F1 0.00, 0 found, 2 missed, 1 false"),
    ]
    found = report(Differences({"AP": NOISE}, {}))
    page = render(found, [Disagreement("a.jpg", panels)])
    assert [(image["src"][-4:], image["alt"]) for image in page.all("img")] == [
        ("AAAA", "a.jpg, ground truth: 2 objects"),
        ("BBBB", "a.jpg, A: F1 1.00, 2 found, 0 missed, 0 false"),
        ("CCCC", "a.jpg, B: F1 0.00, 0 found, 2 missed, 1 false"),
    ]
    assert "a score of at least 0.5" in page.text()


def test_names_are_escaped():
    found = report(Differences({"AP": NOISE}, {NAUGHTY: NOISE}), name=NAUGHTY)
    page = render(found, [Disagreement(NAUGHTY, [Panel("A", "data:,", "1 found")])])
    assert page.all("script") == []
    assert NAUGHTY in page.text()
    assert page.all("img")[0]["alt"] == f"{NAUGHTY}, A: 1 found"
