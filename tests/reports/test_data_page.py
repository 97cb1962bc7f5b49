"""The page of check-data: whole, self-contained, readable without seeing it, escaped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasterrcnn.data import statistics
from fasterrcnn.data.annotations import Annotations, Classes, Strings
from fasterrcnn.data.duplicates import Duplicates, Member
from fasterrcnn.data.problems import Problem
from fasterrcnn.metrics.anchors import Level, Recall
from fasterrcnn.reports import data_page
from fasterrcnn.reports.data_pictures import Drawn, Picture
from fasterrcnn.reports.data_report import Anchors, Report
from tests.data.make import annotations_of
from tests.reports import html_pages
from tests.reports.test_data_report import report

URI = "data:image/jpeg;base64,AAAA"
NAUGHTY = "<script>alert('x')</script>\"&"


def data(name: str = "thing") -> Annotations:
    found = annotations_of([[(0, 0, 10, 10), (390, 0, 20, 40)], []])
    return replace(found, classes=Classes((name,), (1,)), files=Strings(["a.jpg", "b.jpg"]))


def picture(file: str = "a.jpg", boxes: int = 1, **changes: object) -> Picture:
    drawn = [Drawn(1.0, 2.0, 30.0, 40.0, 1)] * boxes
    return replace(Picture(file, "train", URI, 64, 96, drawn, ["box clipped"]), **changes)


def everything(name: str = "thing") -> Report:
    """A report in which there is something to say in every section."""
    found = report(train=data(name), val=data(name))
    bars = [statistics.Bin(100.0 * k, 100.0 * (k + 1), k) for k in range(40)]
    recall = Recall(
        2, (1.0, 0.5), [Level(4, (32,), 2, (1.0, 0.5)), Level(8, (64,), 0, (None, None))]
    )
    both = {"train": recall, "val": recall}
    sides = {"train": found.splits[0].sizes, "val": found.splits[1].sizes}
    odd = [statistics.box(data(name), 0, "odd")]
    group = [Member("train", 0, name), Member("val", 0, "b.jpg")]
    return replace(
        found,
        data_path=f"/data/{name.replace('/', '')}",
        value_range="500,3000",
        values=bars,
        problems=[
            Problem("x.json", "/a", name, f"unusable {name}", "stop"),
            Problem("x.json", "/b", "1", "no area", "dropped"),
        ],
        failures=[f"{name}: not readable"],
        odd={"train": odd, "val": []},
        duplicates=Duplicates([group], [group], [group]),
        anchors=Anchors("--given 1", "--fitted 2", both, both, sides),
    )


def render(found: Report, pictures: list[Picture]) -> html_pages.Page:
    some = [("Smallest boxes", [picture(note="thing, 10 x 10 px")]), ("Largest boxes", [])]
    return html_pages.check(data_page.render(found, pictures, some, with_findings=1, found=7))


def test_everything_that_was_found_is_on_the_page():
    page = render(everything(), [picture(), picture("b.jpg", boxes=0, marks=[])])
    text = page.text()
    for wanted in (
        "Faults that stop a training: 2",
        "thing: not readable",
        "unusable thing",
        "no area",
        "train, boxes dropped or clipped to their image: 1",
        "train, boxes to look at: 1",
        "val, images without a box to train on: 1",
        "In several splits: 1",
        "--fitted 2",
        "--input.value-range 500,3000",
        "2 of 4 images as they are trained on",
        "1 of 7 with findings",
    ):
        assert wanted in text, wanted
    assert [image["alt"] for image in page.all("img")] == [
        "a.jpg: 1 thing", "a.jpg: 1 thing", "b.jpg: no box"
    ]  # fmt: skip
    figures = [f for f in page.all("figure") if "data-split" in f]
    assert [(f["data-classes"].split(), f["data-marks"]) for f in figures] == [
        (["1"], "box clipped"), ([], "")
    ]  # fmt: skip
    assert {"x": "1.0", "y": "2.0", "width": "30.0", "height": "40.0"}.items() <= next(
        rect for rect in page.all("rect") if "data-class" in rect
    ).items()


def test_names_from_the_data_are_escaped():
    page = render(everything(NAUGHTY), [picture(NAUGHTY, marks=[NAUGHTY])])
    assert len(page.all("script")) == 1  # the page's own
    assert f"{NAUGHTY}: not readable" in page.text()
    assert NAUGHTY in next(f for f in page.all("figure") if "data-split" in f)["data-marks"]


def test_a_data_set_without_faults_says_so():
    page = render(report(train=data()), [picture()])
    assert "No fault: this can be trained on" in page.text()
    assert "Anchors" not in page.text()
    assert "No file occurs twice" in page.text()


def test_what_could_not_be_read_at_all_still_has_a_page():
    found = replace(everything(), splits=[], odd={}, anchors=None)
    page = html_pages.check(data_page.render(found, [], [], with_findings=0, found=0))
    assert "thing: not readable" in page.text()
    assert page.all("script") == page.all("img") == []


def test_long_lists_are_cut_and_say_so():
    many = [Problem(f"{i}.xml", "", "", "no area", "dropped") for i in range(1000)]
    page = render(replace(report(train=data()), problems=many), [])
    assert "199.xml" in page.text()
    assert "200.xml" not in page.text()
    assert "The first 200 of 1000" in page.text()


def test_histograms_have_a_text_for_those_who_do_not_see_them():
    page = render(report(train=data()), [])
    labels = [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"]
    # 10 x 10 and, clipped, 10 x 40 px
    assert labels[0].startswith("train: size, ")
    assert ": 8 to 11.3 px of the file: 1, " in labels[0]
    assert labels[0].endswith("16 to 22.6 px of the file: 1")
    assert labels[1].endswith("4 to 5.66 height / width: 1")


def test_lines_mark_the_anchor_sizes_inside_the_histogram():
    """Bars start at 8 and 16 px end two bars later; an anchor of 32 px is beyond the last bar."""
    found = everything()
    recall = Recall(
        2, (1.0, 0.5), [Level(4, (8, 16), 2, (1.0, 0.5)), Level(8, (64,), 0, (None,) * 2)]
    )
    after = {"train": recall, "val": recall}
    marks = data_page._anchor_marks(replace(found, anchors=replace(found.anchors, after=after)))
    assert marks["train"] == [0.0, 2.0]


@pytest.mark.parametrize("count", [5, 31])
def test_rare_classes_are_folded_away(count: int):
    names = tuple(f"class {k}" for k in range(count))
    some = replace(data(), classes=Classes(names, tuple(range(count))))
    page = render(report(train=some), [])
    assert ("More classes: 1" in page.text()) == (count == 31)
    assert "class 30" in page.text() or count == 5
