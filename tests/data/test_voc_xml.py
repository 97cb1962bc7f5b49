"""Objects of VOC files as tools write them: boxes by number, or one line."""

import math
from pathlib import Path

import pytest

from fasterrcnn.data import voc_xml
from fasterrcnn.data.problems import Problems

CORNERS = "<xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax>"
BNDBOX = f"<bndbox>{CORNERS}</bndbox>"


def read(tmp_path: Path, content: str, *, first_pixel: int = 0):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation>{content}</annotation>")
    problems = Problems()
    return voc_xml.read(path, problems, first_pixel=first_pixel), problems


def numbered(tag: str, *numbers: object) -> str:
    """<tag><x1>1</x1><y1>2</y1>...</tag>"""
    parts = (f"<{'xy'[k % 2]}{k // 2 + 1}>{n}</{'xy'[k % 2]}{k // 2 + 1}>"
             for k, n in enumerate(numbers))  # fmt: skip
    return f"<{tag}>{''.join(parts)}</{tag}>"


def rotated(x: object, y: object, w: object, h: object, angle: object) -> str:
    return (f"<robndbox><cx>{x}</cx><cy>{y}</cy><w>{w}</w><h>{h}</h><angle>{angle}</angle>"
            "</robndbox>")  # fmt: skip


QUAD = "".join(
    f"<{axis}_{place}>{value}</{axis}_{place}>"
    for place, x, y in (("left_top", 5, 9), ("right_top", 30, 4), ("right_bottom", 35, 20))
    for axis, value in (("x", x), ("y", y))
)
MIT = "<polygon><username>me</username>{}</polygon>".format(
    "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((10, 5), (20, 5), (15, 30)))
)
SHAPES = {
    "corners": (BNDBOX, [1, 2, 10, 20], None),
    "in another order": (
        "<bndbox><xmax>11.50</xmax><ymax>22</ymax><xmin> 1 </xmin><ymin>2.0</ymin></bndbox>",
        [1, 2, 10.5, 20], None),
    "Roboflow's polygon beside its box": (
        BNDBOX + numbered("polygon", 50, 50, 60, 50, 60, 60), [1, 2, 10, 20], None),
    "roLabelImg's box beside a rotated one": (
        rotated(50, 60, 20, 40, 0.5) + BNDBOX, [1, 2, 10, 20], None),
    "polygon": (numbered("polygon", 50, 50, 60.5, 52, 55, 70), [50, 50, 10.5, 20], "polygon"),
    "MIT's LabelMe": (MIT, [10, 5, 10, 25], "polygon"),
    "polygon as text": ("<polygon>50,50, 60,50 60,70</polygon>", [50, 50, 10, 20], "polygon"),
    "rotated": (rotated(50, 60, 20, 40, math.pi / 2), [30, 50, 40, 20], "robndbox"),
    "rotated by nothing": (rotated(50, 60, 20, 40, 0), [40, 40, 20, 40], "robndbox"),
    "corners of a rotated box": (f"<robndbox>{QUAD}</robndbox>", [5, 4, 30, 16], "robndbox"),
    "eight numbers": (numbered("bndbox", 5, 9, 30, 4, 35, 20, 10, 25), [5, 4, 30, 21],
                      "box with other corners"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(tmp_path: Path, case: str):
    shape, xywh, note = SHAPES[case]
    file, problems = read(tmp_path, f"<object><name>cat</name>{shape}</object>")
    assert file is not None
    assert file.objects[0].xywh == pytest.approx(xywh)
    assert [(p.what, p.action) for p in problems.found] == (
        [(note, "its enclosing box is used")] if note else []
    )


WRONG = {
    "swapped": ("<bndbox><xmin>11</xmin><ymin>2</ymin><xmax>1</xmax><ymax>22</ymax></bndbox>",
                "bndbox", "must not be less"),
    "px": (BNDBOX.replace("11", "11px"), "bndbox", "must be four numbers"),
    "decimal comma": (BNDBOX.replace("11", "11,5"), "bndbox", "must be four numbers"),
    "underscore": (BNDBOX.replace("11", "1_1"), "bndbox", "must be four numbers"),
    "too large": (BNDBOX.replace("11", "1e400"), "bndbox", "finite numbers below 1e9"),
    "a number of 5000 digits": (BNDBOX.replace("11", "1" * 5000), "bndbox", "finite numbers"),
    "one corner": ("<bndbox><xmin>1</xmin></bndbox>", "bndbox", "must be four numbers"),
    "empty": ("<bndbox/>", "bndbox", "must be four numbers"),
    "width and height": ("<bndbox><x>1</x><y>2</y><width>3</width><height>4</height></bndbox>",
                         "bndbox", "must be four numbers"),
    "two boxes": (BNDBOX * 2, "bndbox", "one box expected, has bndbox, bndbox"),
    "two polygons": (numbered("polygon", 1, 1, 2, 1, 2, 2) * 2, "polygon", "one box expected"),
    "a line": (numbered("polygon", 1, 1, 2, 1), "polygon", "three points or more"),
    "odd": ("<polygon>1 2 3 4 5 6 7</polygon>", "polygon", "three points or more"),
    "x without y": ("<polygon><x1>1</x1><x2>1</x2><y1>3</y1></polygon>", "polygon", "numbers"),
    "degrees": (rotated(50, 60, 20, 40, 90), "robndbox", "angle must be in radians"),
    "negative side": (rotated(50, 60, -20, 40, 0), "robndbox", "must not be negative"),
    "rotated by nan": (rotated(50, 60, 20, 40, "nan"), "robndbox", "finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_can_mean_several_boxes_is_one_line(tmp_path: Path, case: str):
    shape, tag, what = WRONG[case]
    file, problems = read(
        tmp_path,
        f"<object><name>a</name>{shape}</object><object><name>b</name>{BNDBOX}</object>",
    )
    assert file is not None
    assert [(one.number, one.name) for one in file.objects] == [(2, "b")]
    (problem,) = problems.found
    assert (problem.field, problem.action) == (f"object 1/{tag}", "stop")
    assert what in problem.what


@pytest.mark.parametrize(
    ("written", "difficult"),
    [
        ("<difficult>1</difficult>", True),
        ("<difficult>True</difficult>", True),
        ("<difficult> true\n</difficult>", True),
        ("<difficult>0</difficult>", False),
        ("<difficult>False</difficult>", False),
        ("<difficult>Unspecified</difficult>", False),
        ("<difficult/>", False),
        ("", False),
        ("<difficult>2</difficult>", None),
    ],
)
def test_difficult(tmp_path: Path, written: str, difficult: bool | None):
    file, problems = read(tmp_path, f"<object><name>cat</name>{written}{BNDBOX}</object>")
    assert file is not None
    if difficult is None:
        assert file.objects == []
        assert str(problems.found[0]).endswith("object 1/difficult: 2: must be 0 or 1")
    else:
        assert file.objects[0].difficult is difficult


def test_names_parts_and_deleted_objects(tmp_path: Path):
    file, problems = read(
        tmp_path,
        f"<object><name>\n  traffic\n  light </name>{BNDBOX}"
        f"<part><name>lamp</name>{BNDBOX}</part></object>"
        f"<object><deleted>1</deleted><name>cat</name>{BNDBOX}</object>"
        f"<object>{BNDBOX}</object>",
    )
    assert file is not None
    assert [(one.number, one.name) for one in file.objects] == [(1, "traffic light")]
    assert [(p.field, p.what, p.action) for p in problems.found] == [
        ("object 2/deleted", "object that is marked as deleted", "left out"),
        ("object 3/name", "must be a class name", "stop"),
    ]


def test_pascals_pixels_start_at_1_but_points_are_points(tmp_path: Path):
    polygon = numbered("polygon", 50, 50, 60, 50, 60, 70)
    file, _ = read(
        tmp_path,
        f"<object><name>a</name>{BNDBOX}</object><object><name>b</name>{polygon}</object>",
        first_pixel=1,
    )
    assert file is not None
    assert [one.xywh for one in file.objects] == [[0, 1, 11, 21], [50, 50, 10, 20]]


@pytest.mark.parametrize(
    ("folder", "database", "xywh"),
    [
        ("VOC", "roboflow.ai", [0, 1, 11, 21]),  # the package supervision counts from 1
        ("", "roboflow.ai", [1, 2, 10, 20]),  # Roboflow's export
        ("VOC", "Unknown", [1, 2, 10, 20]),
    ],
)
def test_who_counts_pixels_from_1(tmp_path: Path, folder: str, database: str, xywh: list[float]):
    file, _ = read(
        tmp_path,
        f"<folder>{folder}</folder><source><database>{database}</database></source>"
        f"<object><name>a</name>{BNDBOX}</object>",
    )
    assert file is not None
    assert file.objects[0].xywh == xywh


@pytest.mark.parametrize(
    ("content", "field", "what"),
    [
        (f"<objects><object><name>a</name>{BNDBOX}</object></objects>", "object", "directly"),
        ("<size><width>-3</width><height>4</height></size>", "size", "positive whole numbers"),
    ],
)
def test_files_that_are_not_used(tmp_path: Path, content: str, field: str, what: str):
    file, problems = read(tmp_path, content)
    assert file is None
    assert problems.found[0].field == field
    assert what in problems.found[0].what


@pytest.mark.parametrize(
    ("content", "image", "size"),
    [
        (r"<filename>D:\x\a.jpg</filename>", "D:/x/a.jpg", None),
        ("<filename/><path>/home/x/a.jpg</path>", "/home/x/a.jpg", None),
        ("<size><width>60.0</width><height>40</height></size>", "", (40, 60)),
        ("<size><width>0</width><height>0</height><depth>3</depth></size>", "", None),
        ("<size><width>60</width></size>", "", None),
    ],
)
def test_image_and_size(tmp_path: Path, content: str, image: str, size: object):
    file, problems = read(tmp_path, content)
    assert file == voc_xml.File(image, size, [])  # type: ignore[arg-type]
    assert not problems.found
