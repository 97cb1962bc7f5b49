"""CVAT for images: boxes by number, splits, and one line for what is wrong."""

from pathlib import Path

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

BOX = '<box label="{}" source="manual" occluded="0" xtl="1.50" ytl="2" xbr="11" ybr="22" {}/>'
META = """<meta><task><id>7</id><name>my task</name><subset>{}</subset><labels>
  <label><name>dog</name><attributes/></label><label><name>cat</name></label>
  <label><name>nose</name><parent>dog</parent></label></labels></task></meta>"""


def box(label: str = "cat", more: str = "") -> str:
    return BOX.format(label, more)


def image(name: str, *shapes: str, size: str = 'width="60" height="40"', **more: str) -> str:
    attributes = " ".join(f'{key}="{value}"' for key, value in more.items())
    return f'<image id="3" name="{name}" {size} {attributes}>{"".join(shapes)}</image>'


def write(path: Path, *images: str, meta: str = "") -> None:
    meta = meta or META.format("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f"<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>"
    )


def pictures(root: Path, *names: str) -> None:
    for name in names:
        make.image(root / name, 40, 60)


def read(root: Path, split: str = "train", *, skip: bool = False):
    problems = Problems(skip)
    return formats.read(root, split, "auto", (), problems), problems


def fails(root: Path, split: str = "train", error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as failure:
        read(root, split)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize(
    ("xml", "folder"),
    [
        ("annotations.xml", "images/"),
        ("labels.xml", "data/"),
        ("annotations.xml", ""),
        ("annotations/default.xml", "images/"),
        ("task_7.xml", "Images/"),
    ],
)
def test_one_file_is_one_set(tmp_path: Path, xml: str, folder: str):
    write(tmp_path / xml, image("a.png", box(), box("dog")), image("sub/b.png"))
    pictures(tmp_path, f"{folder}a.png", f"{folder}sub/b.png")
    assert formats.recognize(tmp_path) == "cvat"
    assert make.splits(tmp_path) == []
    data, problems = read(tmp_path)
    assert list(data.files) == list(data.ids) == [f"{folder}a.png", f"{folder}sub/b.png"]
    assert data.classes.names == ("dog", "cat")
    assert data.classes.category_ids == (1, 2)
    assert data.xywh.tolist() == [[1.5, 2, 9.5, 20]] * 2
    assert data.labels.tolist() == [2, 1]
    assert data.first.tolist() == [0, 2, 2]
    assert not problems.found
    assert "everything in it is one set" in fails(tmp_path, "val", UsageError)


def test_a_link_to_nothing_is_no_file(tmp_path: Path):
    (tmp_path / "annotations.xml").symlink_to(tmp_path / "gone.xml")
    pictures(tmp_path, "images/a.png")
    with pytest.raises(UsageError, match="no CVAT annotations found"):
        formats.read(tmp_path, "train", "cvat", (), Problems())
    write(tmp_path / "labels.xml", image("a.png", box()))
    assert len(read(tmp_path)[0]) == 1


def test_labels_without_meta_are_sorted(tmp_path: Path):
    write(tmp_path / "labels.xml", image("a.png", box("dog"), box("cat")), meta="<meta/>")
    pictures(tmp_path, "data/a.png")
    data, _ = read(tmp_path)
    assert data.classes.names == ("cat", "dog")
    assert data.labels.tolist() == [2, 1]


SHAPES = {
    box(more='rotation="90"'): ([-3.75, 7.25, 20, 9.5], "rotated box"),
    box(more='rotation="0.0"'): ([1.5, 2, 9.5, 20], None),
    '<polygon label="cat" points="5.0,9.5;30,4;10,25"/>': ([5, 4, 25, 21], "polygon"),
    '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5"/>': ([20, 15, 20, 10], "ellipse"),
    '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5" rotation="90"/>': (
        [25, 10, 10, 20],
        "rotated ellipse",
    ),
    '<mask label="cat" rle="3, 4" left="5" top="6" width="7" height="8"/>': (
        [5, 6, 7, 8],
        "mask",
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_shapes_become_the_box_around_them(tmp_path: Path, shape: str):
    xywh, what = SHAPES[shape]
    write(tmp_path / "annotations.xml", image("a.png", shape))
    pictures(tmp_path, "images/a.png")
    data, problems = read(tmp_path)
    assert data.xywh.tolist()[0] == pytest.approx(xywh)
    notes = [(p.what, p.action) for p in problems.found if "outside" not in p.what]
    assert notes == ([(what, "its enclosing box is used")] if what else [])


def test_what_has_no_box_is_counted(tmp_path: Path):
    shapes = (
        '<points label="cat" points="1,2"/>',
        '<polyline label="cat" points="1,2;3,4"/>',
        '<skeleton label="cat"><points label="nose" points="1,2"/></skeleton>',
        '<tag label="cat"/>',
    )
    write(tmp_path / "annotations.xml", image("a.png", box(), *shapes))
    pictures(tmp_path, "images/a.png", "images/other.png", "images/.b.png")
    data, problems = read(tmp_path)
    assert len(data.xywh) == 1
    assert problems.counts() == {
        "points, which is not a box: left out": 1,
        "polyline, which is not a box: left out": 1,
        "skeleton, which is not a box: left out": 1,
        "tag, which is not a box: left out": 1,
        "image that annotations.xml does not name: left out": 1,
    }


def test_an_object_with_box_and_outline_counts_once(tmp_path: Path):
    """Datumaro writes COCO's objects so: an outline in one part or several, in the box's group."""
    one = box().replace("/>", 'group_id="{}"/>')
    half = '<polygon label="{}" points="{},2;{},22;{},9" group_id="{}"/>'
    shapes = (
        one.format(1), half.format("cat", 1.5, 11, 5, 1),  # fits
        one.format(2), half.format("cat", 1.5, 6, 5, 2), half.format("cat", 7, 11, 8, 2),  # fits
        one.format(3), half.format("dog", 1.5, 11, 5, 3),  # another class
        box(), half.format("cat", 1.5, 11, 5, 0), half.format("cat", 1.5, 6, 5, 0),  # first fits
        one.format(4), half.format("cat", 4, 11, 5, 4),  # too small
    )  # fmt: skip
    write(tmp_path / "annotations.xml", image("a.png", *shapes))
    pictures(tmp_path, "images/a.png")
    data, problems = read(tmp_path)
    assert problems.counts() == {
        "polygon: left out, its box is there too": 4,
        "polygon: its enclosing box is used": 3,
        "the same box twice: kept": 4,  # of these objects, which are all drawn at one place
    }
    assert data.labels.tolist() == [2, 2, 2, 1, 2, 2, 2, 2]
    assert data.xywh[-1].tolist() == [4, 2, 7, 20]


def test_thousands_of_shapes_in_an_image(tmp_path: Path):
    polygon = '<polygon label="cat" points="{0},2;{0},22;30,9"/>'
    shapes = [text for k in range(3000) for text in (box(), polygon.format(k % 20))]
    write(tmp_path / "annotations.xml", image("a.png", *shapes))
    pictures(tmp_path, "images/a.png")
    assert len(read(tmp_path)[0].labels) == 6000


WRONG = {
    box().replace("11", "11px"): "image 3 (a.png)/box 1: .*: must be finite numbers",
    box().replace("11", "1e400"): "must be finite numbers",
    box().replace("1.50", "30"): "xbr and ybr must not be less than xtl and ytl",
    box().replace("ybr", "ybottom"): "must be finite numbers",
    box(more='rotation="left"'): "must be finite numbers",
    box("Cat"): "image 3 .a.png./box 1/label: Cat: no label of this name in <meta>",
    box(""): "must have a label",
    '<polygon label="cat" points="1,2;3,4"/>': "three points or more",
    '<polygon label="cat" points="1,2;3,4;5"/>': "three points or more",
    '<polygon label="cat"/>': "three points or more",
    '<mask label="cat" left="5" top="6" width="-7" height="8"/>': "must not be negative",
}


@pytest.mark.parametrize("shape", WRONG, ids=range(len(WRONG)))
def test_faulty_shapes(tmp_path: Path, shape: str):
    write(tmp_path / "annotations.xml", image("a.png", shape, box("dog")))
    pictures(tmp_path, "images/a.png")
    message = fails(tmp_path)
    assert message.startswith(f"{tmp_path / 'annotations.xml'}: image 3 (a.png)/")
    assert WRONG[shape].rpartition(": ")[2] in message
    data, problems = read(tmp_path, skip=True)
    assert data.labels.tolist() == [1]
    assert len(problems.found) == 1


def test_subsets_are_splits(tmp_path: Path):
    """CVAT puts the images of a project into folders of the subsets' names."""
    write(
        tmp_path / "annotations.xml",
        image("a.png", box(), subset="Train"),
        image("a.png", box("dog"), subset="Validation"),
        image("b.png", box("dog")),
        meta=META.format("").replace("task", "project"),
    )
    pictures(tmp_path, "images/Train/a.png", "images/Validation/a.png", "images/b.png")
    assert make.splits(tmp_path) == ["Train", "Validation", "default"]
    train, problems = read(tmp_path)
    assert list(train.files) == ["images/Train/a.png"]
    assert train.labels.tolist() == [2]
    assert list(read(tmp_path, "val")[0].files) == ["images/Validation/a.png"]
    assert list(read(tmp_path, "default")[0].files) == ["images/b.png"]
    assert not problems.found
    assert "no split test; found: Train, Validation, default (--tr" in fails(
        tmp_path, "test", UsageError
    )


def test_the_subset_of_the_task(tmp_path: Path):
    write(tmp_path / "annotations.xml", image("a.png", box()), meta=META.format("Test"))
    pictures(tmp_path, "images/a.png")
    assert make.splits(tmp_path) == ["Test"]
    assert len(read(tmp_path, "test")[0]) == 1
    assert "no split train; found: Test" in fails(tmp_path, error=UsageError)


@pytest.mark.parametrize(
    ("names", "splits"), [(("train", "val"), ["train", "val"]), (("monday", "tuesday"), [])]
)
def test_tasks_of_a_project(tmp_path: Path, names: tuple[str, str], splits: list[str]):
    tasks = "".join(f"<task><id>{k}</id><name>{n}</name></task>" for k, n in enumerate(names))
    labels = "<labels><label><name>cat</name></label></labels>"
    write(
        tmp_path / "annotations.xml",
        image("a.png", box(), task_id="0"),
        image("b.png", box(), task_id="1"),
        meta=f"<meta><project><tasks>{tasks}</tasks>{labels}</project></meta>",
    )
    pictures(tmp_path, "images/a.png", "images/b.png")
    assert make.splits(tmp_path) == splits
    assert list(read(tmp_path)[0].files) == ["images/a.png", "images/b.png"][: 2 - len(splits) // 2]


@pytest.mark.parametrize(
    ("xml", "folder"),
    [
        ("{}/annotations.xml", "{}/images/"),
        ("{}/labels.xml", "{}/data/"),
        ("annotations/{}.xml", "images/"),
        ("{}.xml", "images/"),  # as Datumaro does
    ],
)
def test_a_file_for_each_split(tmp_path: Path, xml: str, folder: str):
    for split, name in (("train", "a.png"), ("test", "b.png")):
        write(tmp_path / xml.format(split), image(name, box()))
        pictures(tmp_path, f"{folder.format(split)}{name}")
    assert make.splits(tmp_path) == ["test", "train"]
    data, problems = read(tmp_path)
    assert list(data.files) == [f"{folder.format('train')}a.png"]
    assert len(read(tmp_path, "test")[0]) == 1
    assert not problems.found
    assert "no split val; found: test, train" in fails(tmp_path, "val", UsageError)


def test_one_file_called_like_a_split(tmp_path: Path):
    write(tmp_path / "val.xml", image("a.png", box()))
    pictures(tmp_path, "images/a.png")
    assert make.splits(tmp_path) == ["val"]
    assert len(read(tmp_path, "val")[0]) == 1
    assert "no split train; found: val" in fails(tmp_path, error=UsageError)


def test_missing_images(tmp_path: Path):
    write(tmp_path / "annotations.xml", image("a.png", box()), image("../b.png", box()))
    (tmp_path / "images").mkdir()
    message = fails(tmp_path)
    assert "annotations.xml: image: none of its images (2, the first is a.png) is in " in message
    assert message.endswith("/images; export with images, or put them there")
    pictures(tmp_path, "images/a.png", "b.png")
    assert "image 3/name: ../b.png: no such image in " in fails(tmp_path)
    assert list(read(tmp_path, skip=True)[0].files) == ["images/a.png"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([image("a.png", box(), size='width="-1" height="2"')], "image 3: 2 x -1: height and"),
        ([image("", box())], "image 3/name: : must be the name of a file"),
        ([image("a.png", box()), image("a.png")], "another image has this id too"),
        ([image("a.png", box(), size='width="61" height="40"')], "has height 40, width 60"),
        ([image("c.png", box())], "can be images/x/c.png or images/y/c.png; leave one"),
        ([], "annotations.xml: image: no such element; export it as 'CVAT for images 1.1'"),
        (["<track/>"], "annotations.xml: track: of a video; export it as 'CVAT for images 1.1'"),
        (
            [image("a.png", '<mask label="cat" left="0" top="0" width=".5" height="1"/>')],
            "no number is above",
        ),
        ([image("a.png"), "<image>"], "annotations.xml: line .*: not XML"),
    ],
)
def test_faulty_images_and_files(tmp_path: Path, images: list[str], message: str):
    write(tmp_path / "annotations.xml", *images)
    pictures(tmp_path, "images/a.png", "images/x/c.png", "images/y/c.png")
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "<annotations", "annotations\0"])
def test_a_damaged_file_is_known_by_its_name(tmp_path: Path, content: str):
    (tmp_path / "annotations.xml").write_text(content)
    pictures(tmp_path, "images/a.png")
    assert formats.recognize(tmp_path) == "cvat"
    assert fails(tmp_path).startswith(f"{tmp_path / 'annotations.xml'}: ")


def test_a_file_without_sizes_is_measured_and_text_is_decoded(tmp_path: Path):
    content = f"<annotations>{META.format('')}{image('猫.png', box(), size='')}</annotations>"
    (tmp_path / "annotations.xml").write_bytes(
        ('<?xml version="1.0" encoding="gbk"?>' + content).encode("gbk")
    )
    pictures(tmp_path, "images/猫.png")
    data, _ = read(tmp_path)
    assert data.sizes.tolist() == [[40, 60]]
    assert list(data.files) == ["images/猫.png"]
