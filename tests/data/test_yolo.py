"""YOLO folders: which boxes come out, what is counted, what stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.data import formats, yolo
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, Failure, UsageError
from tests.data import make

LINE = "1 0.5 0.5 0.25 0.5\n"  # of an image of 40 x 60: x y w h 22.5 10 15 20
NAMES = "names: [cat, dog]\n"


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files with this content; images of 40 x 60 where the name is an image's."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.lower().endswith((".png", ".jpg")):
            make.image(path, 40, 60)
        else:
            path.write_text(content)
    return root


def write(root: Path, *, images: str = "images/train", text: str = LINE, config: str = "") -> None:
    """Two images, the second without boxes, and the class names in `config` or classes.txt."""
    make.image(root / images / "a.png", 40, 60)
    make.image(root / images / "sub" / "empty.png", 20, 20)
    labels = images.replace("images", "labels")
    names = {"data.yaml": config} if config else {"classes.txt": "cat\ndog\n"}
    tree(root, {f"{labels}/a.txt": text, f"{labels}/sub/empty.txt": "", **names})


def read(
    root: Path, *, skip: bool = False, split: str = "train", classes: tuple[str, ...] = ()
) -> tuple[Annotations, Problems]:
    problems = Problems(skip)
    return formats.read(root, split, "auto", classes, problems), problems


def boxes(root: Path, split: str = "train") -> dict[str, list[list[float]]]:
    """Label, x1, y1, x2, y2 (px) of the boxes to train on, of each image."""
    data, _ = read(root, split=split)
    found = {}
    for i, name in enumerate(data.ids):
        corners, labels = data.training_boxes(i)
        rows = zip(labels.tolist(), corners.tolist(), strict=True)
        found[name] = [[label, *(round(v, 3) for v in box)] for label, box in rows]
    return found


def refusal(root: Path, split: str = "train", *, skip: bool = False) -> tuple[int, str]:
    """The exit code and the one line that reading ends with; `root` in it is written ROOT."""
    with pytest.raises(Failure) as error:
        read(root, split=split, skip=skip)
    (line,) = str(error.value).splitlines()
    return error.value.code, line.replace(str(root), "ROOT")


@pytest.mark.parametrize(
    ("images", "config"),
    [
        ("images/train", ""),
        ("train/images", ""),
        ("images/train", "names: {0: cat, 1: dog}\ntrain: images/train\n"),
        ("train/images", "names: [cat, dog]\ntrain: ../train/images\n"),
        ("stuff/images/x", "names: [cat, dog]\npath: stuff\ntrain: images/x\n"),
    ],
)
def test_layouts(tmp_path: Path, images: str, config: str):
    write(tmp_path, images=images, config=config)
    assert formats.recognize(tmp_path) == "yolo"
    data, problems = read(tmp_path)
    assert list(data.ids) == [f"{images}/a.png", f"{images}/sub/empty.png"]  # the relative path
    assert data.classes.names == ("cat", "dog")
    assert data.classes.category_ids == (0, 1)
    assert data.sizes.tolist() == [[40, 60], [20, 20]]
    assert data.xywh.tolist() == [[22.5, 10, 15, 20]]
    assert data.labels.tolist() == [2]
    assert data.with_boxes().tolist() == [True, False]
    assert problems.found == []


def test_coordinates_are_of_the_displayed_image(tmp_path: Path):
    write(tmp_path)
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "images/train/a.png", exif=exif)
    data, _ = read(tmp_path)
    assert data.sizes[0].tolist() == [60, 40]
    assert data.rotate.tolist() == [True, False]
    assert data.xywh.tolist() == [[15, 15, 10, 30]]


def test_a_faulty_row_is_named_and_skip_drops_it_alone(tmp_path: Path):
    write(tmp_path, text=f"\n{LINE}2 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.5 0.5\n")
    code, line = refusal(tmp_path)
    assert code == 3
    assert line.startswith("ROOT/labels/train/a.txt: line 3: 2 0.5 0.5 0.25 0.5: no class has the")
    data, problems = read(tmp_path, skip=True)
    assert data.labels.tolist() == [2, 1]
    assert problems.counts() == {"no class has the index 2; the classes go from 0 to 1: dropped": 1}


def test_outlines_become_their_enclosing_box_and_are_counted(tmp_path: Path):
    polygon = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.5 0.7 0.25 0.75\n"
    oriented = "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n"
    write(tmp_path, text=polygon + LINE + oriented)
    data, problems = read(tmp_path)
    assert data.xywh.tolist() == [[15, 10, 30, 20], [22.5, 10, 15, 20], [15, 10, 30, 20]]
    assert data.labels.tolist() == [1, 2, 2]
    assert problems.counts() == {"polygon or oriented box: its enclosing box is used": 2}
    assert [p.field for p in problems.found] == ["line 1", "line 3"]


def test_a_polygon_that_leaves_the_image_is_clipped_for_training(tmp_path: Path):
    write(tmp_path, text="0 -0.1 0.25 0.5 0.25 0.5 1.2\n")
    data, problems = read(tmp_path)
    assert data.xywh.round(6).tolist() == [[-6, 10, 36, 38]]
    assert data.training_boxes(0)[0].tolist() == [[0, 10, 30, 40]]
    assert "box partly outside the image: clipped" in problems.counts()


def test_kpt_shape_makes_rows_of_box_and_keypoints(tmp_path: Path):
    pose = "0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1\n"  # 11 numbers: a polygon of 5 points too
    config = f"{NAMES}train: images/train\nkpt_shape: [2, 3]\n"
    write(tmp_path, text=pose + LINE, config=config)
    assert boxes(tmp_path)["images/train/a.png"] == [[1, 15, 10, 45, 30], [2, 22.5, 10, 37.5, 30]]


def test_a_row_that_reads_both_ways_is_asked_about(tmp_path: Path):
    write(tmp_path, text="0 0.5 0.5 0.5 0.5 0.4 0.4 1 0.6 0.6 1\n")
    code, line = refusal(tmp_path)
    assert code == 3
    assert "line 1" in line
    assert "write kpt_shape: [2, 3] into data.yaml" in line


def test_keypoints_without_visibility_are_asked_about_by_what_all_rows_have(tmp_path: Path):
    row = "0 0.5 0.5 0.4 0.4 0.4 0.45 0.6 0.45 0.5 0.6\n"
    rows = "".join(row.replace("0.6", f"0.6{k}") for k in range(10))
    write(tmp_path, text=rows)
    code, line = refusal(tmp_path)
    assert code == 3
    assert "kpt_shape: [number, 2]" in line
    write(tmp_path, text=rows.replace("0.40 ", "0.4 ") + "0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    assert len(read(tmp_path)[0].labels) == 11  # of different lengths: polygons


def test_corners_are_seen_by_the_boxes_that_leave_the_image(tmp_path: Path):
    write(tmp_path, text="0 0.25 0.25 0.75 0.75\n1 0.6 0.6 0.9 0.9\n0 0.1 0.1 0.2 0.2\n")
    code, line = refusal(tmp_path, skip=True)
    assert code == 3
    assert line.startswith("ROOT: split train: 2 of 3 boxes leave their image when read as center")
    assert "corners x1, y1, x2, y2" in line


def test_a_box_over_the_edge_among_others_is_only_clipped(tmp_path: Path):
    write(tmp_path, text="0 0.05 0.5 0.3 0.6\n0 0.5 0.5 0.5 0.5\n")
    data, problems = read(tmp_path)
    assert data.training_boxes(0)[0].tolist() == [[0, 8, 12, 32], [15, 10, 45, 30]]
    assert problems.counts() == {"box partly outside the image: clipped": 1}


def test_rounding_beyond_the_range_is_read(tmp_path: Path):
    write(tmp_path, text="0 0.750001 0.5 0.500002 1.0000001\n0.000e+00 -0.001 0.5 0.1 1.005\n")
    found = boxes(tmp_path)["images/train/a.png"]
    assert found == [[1, 30, 0, 60, 40], [1, 0, 0, 2.94, 40]]


def test_the_same_box_twice_is_kept_and_counted(tmp_path: Path):
    write(tmp_path, text=f"{LINE}{LINE}0 0.5 0.5 0.25 0.5\n1.0 0.50 0.5 0.25 0.5\n")
    data, problems = read(tmp_path)
    assert data.labels.tolist() == [2, 2, 1, 2]
    assert problems.counts() == {"the same box twice: kept": 2}
    assert [p.field for p in problems.found] == ["line 2", "line 4"]


@pytest.mark.parametrize("content", [b"\xff\xfe1\x00 ", b"1 0.5 \xe9", b"1 0.5\x00 0.5 0.1 0.1"])
def test_a_label_file_that_is_not_text_leaves_its_image_out(tmp_path: Path, content: bytes):
    write(tmp_path)
    tree(tmp_path, {"images/train/b.png": "", "labels/train/b.txt": content})
    code, line = refusal(tmp_path)
    assert code == 3
    assert line.startswith("ROOT/labels/train/b.txt: text: b.txt: ")
    data, problems = read(tmp_path, skip=True)  # not taken for an image without boxes
    assert list(data.ids) == ["images/train/a.png", "images/train/sub/empty.png"]
    assert len(problems.found) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_honoured(tmp_path: Path, encoding: str):
    write(tmp_path, config=f"{NAMES}train: train.txt\n")
    tree(
        tmp_path,
        {
            "labels/train/a.txt": LINE.replace("\n", "\r\n").encode(encoding),
            "data.yaml": "names: [cat, Größe]\r\ntrain: train.txt\r\n".encode(encoding),
            "train.txt": "\r\n.\\images\\train\\a.png\r\n\r\n".encode(encoding),
        },
    )
    data, _ = read(tmp_path)
    assert data.classes.names == ("cat", "Größe")
    assert boxes(tmp_path) == {"images/train/a.png": [[2, 22.5, 10, 37.5, 30]]}


def test_what_has_no_partner_is_counted(tmp_path: Path):
    write(tmp_path)
    tree(
        tmp_path,
        {
            "images/train/b.png": "",
            "images/train/c.heic": "x",
            "images/val/d.png": "",
            "labels/val/d.txt": LINE,
            "labels/train/lost.txt": LINE,
            "labels/train/moved/lost.txt": "",
            "labels/train/c.txt": LINE,
            "labels/train/classes.txt": "cat\ndog\n",
            "labels/train/notes.txt": "ask Ann about a.png\n",
        },
    )
    data, problems = read(tmp_path)
    assert len(data) == 3
    assert problems.counts() == {
        "label file without an image: left out": 2,
        ".heic is not an image format that is read; convert it: left out": 1,
        "image without a label file: no boxes": 1,
    }
    found = {Path(p.file).name for p in problems.found}
    assert found == {"lost.txt", "c.heic", "b.png"}


def test_two_images_with_one_label_file_are_not_guessed_about(tmp_path: Path):
    write(tmp_path)
    tree(tmp_path, {"images/train/a.jpg": ""})
    with pytest.raises(DataError, match=r"another image has the label file a\.txt too") as error:
        read(tmp_path)
    assert len(str(error.value).splitlines()) == 2
    (tmp_path / "images/train/b.png").write_bytes((tmp_path / "images/train/a.png").read_bytes())
    tree(tmp_path, {"labels/train/b.txt": LINE})
    assert list(read(tmp_path, skip=True)[0].ids) == [
        "images/train/b.png",
        "images/train/sub/empty.png",
    ]


def test_hidden_files_are_not_images(tmp_path: Path):
    write(tmp_path)
    tree(tmp_path, {"images/train/._a.png": b"Mac", "images/train/.ipynb_checkpoints/a.png": ""})
    data, problems = read(tmp_path)
    assert len(data) == 2
    assert problems.found == []


def test_a_broken_link_is_a_missing_image(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "images/train/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "labels/train/gone.txt").write_text(LINE)
    code, line = refusal(tmp_path)
    assert code == 3
    assert "images/train/gone.png: missing" in line
    assert len(read(tmp_path, skip=True)[0]) == 2


def test_an_image_outside_has_its_relative_path_as_id(tmp_path: Path):
    write(tmp_path / "else")
    root = tree(tmp_path / "root", {"data.yaml": f"path: ../else\n{NAMES}train: images/train\n"})
    data, _ = read(root)
    assert list(data.ids) == ["../else/images/train/a.png", "../else/images/train/sub/empty.png"]
    assert data.path(0) == str(tmp_path / "else/images/train/a.png")
    assert data.xywh.tolist() == [[22.5, 10, 15, 20]]


def test_a_relative_root_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "data", config=f"{NAMES}train: ../images/train\n")
    absolute, _ = read(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    relative, _ = read(Path("data"))
    assert relative.digest() == absolute.digest()
    assert Path(relative.path(0)).is_file()


@pytest.mark.parametrize(
    ("files", "recognized"),
    [
        ({"data.yaml": ""}, True),
        ({"custom.yaml": f"{NAMES}train: x\n"}, True),
        ({"custom.yaml": "epochs: 3\n"}, False),
        ({"Images/a.png": "", "Labels/a.txt": LINE}, True),
        ({"valid/images/a.png": "", "valid/labels/a.txt": LINE}, True),
        ({"obj.data": "classes = 1\n"}, True),
        ({"a.png": "", "a.txt": LINE}, True),
        ({"some/a.png": "", "some/a.txt": LINE}, True),
        ({"a.png": "", "a.txt": "a dog on a sofa with a ball\n"}, False),
        ({"a.png": "", "b.txt": LINE}, False),
        ({"images/a.png": ""}, False),
    ],
)
def test_what_is_recognized(tmp_path: Path, files: dict[str, str | bytes], recognized: bool):
    assert yolo.recognizes(tree(tmp_path, files)) is recognized


def test_a_folder_that_may_not_be_entered_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stat = Path.stat

    def forbid(path: Path, **options: bool) -> os.stat_result:
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    tree(tmp_path, {"data.yaml": NAMES})
    monkeypatch.setattr(Path, "stat", forbid)
    assert not yolo.recognizes(tmp_path)


def test_of_many_captions_a_few_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"some/{k}" for k in range(50)]
    tree(tmp_path, {f"{name}.png": "" for name in names[:1]})
    tree(tmp_path, {f"{name}.jpeg": b"" for name in names[1:]})
    tree(tmp_path, {f"{name}.txt": "a dog on a sofa with a ball\n" for name in names})
    looked, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: looked.append(path) or read_bytes(path))
    assert not yolo.recognizes(tmp_path)
    assert len(looked) == 20


def test_what_is_missing_is_named(tmp_path: Path):
    write(tmp_path)
    with pytest.raises(UsageError, match=r"no split val; found: train \(--train-split"):
        read(tmp_path, split="val")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UsageError, match=r"no class names; list them in classes.txt"):
        read(tmp_path)


def test_the_label_file_that_was_looked_for_is_named(tmp_path: Path):
    tree(tmp_path, {"images/train/a.png": "", "labels/a.txt": LINE, "classes.txt": "cat\ndog\n"})
    code, line = refusal(tmp_path)
    assert code == 3
    assert "no image has a label file; for images/train/a.png ROOT/labels/train/a.txt was" in line


def test_a_label_file_that_cannot_be_read_is_one_line(tmp_path: Path):
    write(tmp_path)
    path = tmp_path / "labels/train/sub/empty.txt"
    path.unlink()
    os.mkfifo(path)  # reading it would block
    code, line = refusal(tmp_path)
    assert code == 3
    assert "empty.txt: text: empty.txt: not a regular file" in line
