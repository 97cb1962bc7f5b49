"""Which images a split has: data.yaml obeyed, the layouts of exporters, one line for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.data import formats, yolo
from fasterrcnn.data.images import Header
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make
from tests.data.test_yolo import LINE, NAMES, boxes, read, refusal, tree

BOX = [2, 22.5, 10, 37.5, 30]
SETS = {  # images and labels of four folders
    f"{kind}/{name}/{name}.{suffix}": content
    for name in ("north", "south", "hold", "extra")
    for kind, suffix, content in (("images", "png", ""), ("labels", "txt", LINE))
}


def ids(root: Path, split: str = "train") -> list[str]:
    return list(read(root, split=split)[0].ids)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("images/north", ["north"]),
        ("./images/north/", ["north"]),
        ("[images/north, images/south]", ["north", "south"]),
        ("\n  - images/south\n  - images/north", ["north", "south"]),
        ("images", ["extra", "hold", "north", "south"]),
        (".", ["extra", "hold", "north", "south"]),
        ("Images/NORTH", ["north"]),  # written where upper and lower case are the same
        ("images\\north", ["north"]),
        ("images/*th", ["north", "south"]),
        ("images/*/s*.png", ["south"]),
        ("images/**/*.png", ["extra", "hold", "north", "south"]),
        ("images/[ns]*", ["north", "south"]),
        ("[images/n*, images/extra]", ["extra", "north"]),
        ("images/north/north.png", ["north"]),
        ("train.txt", ["north", "south"]),
        ("[train.txt, images/hold]", ["hold", "north", "south"]),
        ("[train.txt, more.txt]", ["extra", "north", "south"]),
        ("'*.txt'", ["extra", "north", "south"]),
        ("lists/deep.lst", ["extra", "hold"]),
        ("../images/north", ["north"]),
        ("../../images/north", ["north"]),
        ("..\\images\\north", ["north"]),
        ("/content/data/images/north", ["north"]),
        ("C:\\Users\\Ann\\data\\images\\north", ["north"]),
        ("D:/data/images/north", ["north"]),
        ("/content/data/images/n*", ["north"]),
        ("/content/data/train.txt", ["north", "south"]),
    ],
)
def test_entries_of_data_yaml(tmp_path: Path, entry: str, names: list[str]):
    tree(tmp_path, SETS)
    tree(
        tmp_path,
        {
            "data.yaml": f"train: {entry}\nnames: [cat, dog]\n",
            "train.txt": "images/north/north.png\n\n# the south\n./images/south/south.png\n",
            "more.txt": f"{tmp_path}/images/extra/extra.png\r\n",
            "lists/deep.lst": "../images/hold/hold.png\nimages/extra/extra.png\n",
        },
    )
    assert boxes(tmp_path) == {f"images/{name}/{name}.png": [BOX] for name in names}


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("inner", "images/a"),
        ("./inner", "images/a"),
        ("{tmp}/root/inner", "images/a"),
        ("../root/inner", "images/a"),
        ("inner/images", "a"),
        ("/content/root/inner", "images/a"),  # elsewhere: the end is there
        ("C:\\root\\inner", "images/a"),
        ("nowhere", "inner/images/a"),  # not there, but the yaml's folder has the entry
        ("../datasets/mine", "inner/images/a"),
        ("inner", "inner/images/a"),
        ("", "inner/images/a"),
        ("null", "inner/images/a"),
        (".", "{tmp}/root/inner/images/a"),
    ],
)
def test_path_of_data_yaml(tmp_path: Path, path: str, entry: str):
    config = f"path: {path}\ntrain: {entry}\n{NAMES}".replace("{tmp}", str(tmp_path))
    files = {"data.yaml": config, "inner/images/a/x.png": "", "inner/labels/a/x.txt": LINE}
    root = tree(tmp_path / "root", files)
    assert boxes(root) == {"inner/images/a/x.png": [BOX]}


def test_a_home_that_is_not_known_is_looked_for_by_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    config = f"path: ~/ds\ntrain: images/a\n{NAMES}"
    tree(tmp_path, {"data.yaml": config, "images/a/x.png": "", "labels/a/x.txt": LINE})
    assert boxes(tmp_path) == {"images/a/x.png": [BOX]}


def test_a_pattern_is_relative_to_path_first(tmp_path: Path):
    tree(tmp_path, {"images/x.png": "", "inner/images/y.png": "", "inner/labels/y.txt": LINE})
    tree(tmp_path, {"data.yaml": f"path: inner\ntrain: im*\n{NAMES}"})
    assert ids(tmp_path) == ["inner/images/y.png"]


def test_a_place_elsewhere_on_this_machine_is_used_as_said(tmp_path: Path):
    tree(tmp_path / "there", {"images/train/x.png": "", "labels/train/x.txt": LINE})
    config = f"path: {tmp_path}/there\ntrain: images/train\n{NAMES}"
    root = tree(tmp_path / "root", {"data.yaml": config, "images/train/y.png": ""})
    assert boxes(root) == {"../there/images/train/x.png": [BOX]}


@pytest.mark.parametrize("key", ["val", "valid", "validation", "Validation"])
def test_names_of_the_validation_split(tmp_path: Path, key: str):
    tree(tmp_path, SETS)
    tree(tmp_path, {"data.yaml": f"train: images/north\n{key}: images/hold\n{NAMES}"})
    assert ids(tmp_path, "val") == ids(tmp_path, "valid") == ["images/hold/hold.png"]
    assert make.splits(tmp_path) == ["train", "val"]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("train: images/nroth", "/train: images/nroth: not found (no ROOT/images/nroth)"),
        ("train: [images/north, images/nroth]", "/train: images/nroth: not found"),
        ("train: nroth.txt", "/train: nroth.txt: not found (no ROOT/nroth.txt)"),
        ("train: images/x*", "/train: images/x*: not found"),
        ("train: imags/north", "/train: imags/north: not found"),
        ("train: sub/images/north", "/train: sub/images/north: not found"),
        ("train: /content/train/images", "/train: /content/train/images: not found"),
        ("path: over/there\ntrain: images/x", "(no ROOT/images/x, path: over/there)"),
        ("train: empty", "/train: empty: no image in ROOT/empty"),
        ("train: labels/north", "/train: labels/north: no image in ROOT/labels/north"),
        ("train: empty.txt", "/train: empty.txt: no image in ROOT/empty.txt"),
        ("train: {a: images/north}", "/train: must be a path or a list of paths"),
        ("train: [[images/north], images/south]", "/train: must be a path or a list of paths"),
        ("train: []", "/train: must be a path or a list of paths"),
        ("train: [images/north, '']", "/train: must be a path or a list of paths"),
        ("train: ..", "/train: ..: holds the data set itself"),
        ("train: /", "/train: /: holds the data set itself"),
        ("train: /**/*.png", "/train: /**/*.png: starts above the data set"),
        ("train: data.yaml", "ROOT/data.yaml: neither a folder of images nor a list of them"),
        (f"train: {'x' * 300}/y", "not found"),
        ("train: list.txt", "ROOT/list.txt: line 2: /x/a.jpg: no such image, nor any other of"),
        ("train: latin.txt", "ROOT/latin.txt: byte 1: not UTF-8"),
        ("train: '2024-01-01'", "/train: 2024-01-01: not found"),
        ("train: 2024-01-01", "/train: 2024-01-01: not found"),
        ("train: images/north\ntrain: images/south", "/train: stands there twice"),
        ("train: 2017", "/train: 2017: not found"),
        ("train: true", "/train: true: not found"),
    ],
)
def test_an_entry_that_is_wrong_is_one_line(tmp_path: Path, config: str, line: str):
    """The folders by convention are there too, and are not taken instead."""
    tree(tmp_path, SETS)
    tree(
        tmp_path,
        {
            "images/train/x.png": "",
            "labels/train/x.txt": LINE,
            "images/a.png": "",
            "north/a.png": "",
            "empty/notes.md": "x",
            "empty.txt": "\n\n",
            "list.txt": "\n/x/a.jpg\n/x/b.jpg\n",
            "latin.txt": b"a\xe9.png\n",
            "data.yaml": f"{config}\n{NAMES}",
        },
    )
    code, message = refusal(tmp_path)
    assert code == 3
    assert line in message
    assert "ROOT/data.yaml: /train" in message or message.startswith("ROOT/")


def test_a_list_with_some_images_missing(tmp_path: Path):
    tree(tmp_path, SETS)
    lines = "images/north/north.png\nimages/gone.png\nimages/north/../north/north.png\n"
    tree(tmp_path, {"data.yaml": f"train: train.txt\n{NAMES}", "train.txt": lines})
    code, line = refusal(tmp_path)
    assert code == 3
    assert line.startswith("ROOT/train.txt: line 2: images/gone.png: no such image")
    data, problems = read(tmp_path, skip=True)
    assert list(data.ids) == ["images/north/north.png"]
    assert problems.counts() == {"no such image: dropped": 1, "image listed twice: used once": 1}


def test_lines_are_relative_to_the_list_only_with_a_dot(tmp_path: Path):
    tree(tmp_path, SETS)
    tree(tmp_path, {f"sub/{name}": content for name, content in SETS.items()})
    lines = "./images/north/north.png\nimages/south/south.png\n"
    tree(tmp_path, {"data.yaml": f"train: sub/train.txt\n{NAMES}", "sub/train.txt": lines})
    assert ids(tmp_path) == ["images/south/south.png", "sub/images/north/north.png"]


def test_a_list_that_another_machine_wrote_has_one_root_there(tmp_path: Path):
    tree(tmp_path, SETS)
    lines = "C:\\ds\\images\\north\\north.png\nC:\\other\\images\\south\\south.png\n"
    tree(tmp_path, {"data.yaml": f"train: train.txt\n{NAMES}", "train.txt": lines})
    code, line = refusal(tmp_path)
    assert code == 3
    assert "line 2: C:\\other\\images\\south\\south.png: no such image" in line


def test_a_misspelled_folder_of_another_machine_shows_by_the_others(tmp_path: Path):
    tree(tmp_path, SETS)
    tree(tmp_path, {"north/a.png": "", "north/a.txt": LINE})
    config = "train: /content/ds/imagse/north\nval: /content/ds/images/hold\n"
    tree(tmp_path, {"data.yaml": config + NAMES})
    code, line = refusal(tmp_path)
    assert code == 3
    assert "/train: /content/ds/imagse/north: not found" in line
    assert ids(tmp_path, "val") == ["images/hold/hold.png"]


def test_two_places_that_an_entry_can_name_are_asked_about(tmp_path: Path):
    tree(tmp_path, {"train/images/other.png": "", "train/labels/other.txt": LINE})
    files = {"train/images/x.png": "", "train/labels/x.txt": LINE}
    root = tree(tmp_path / "root", {**files, "data.yaml": f"train: ../train/images\n{NAMES}"})
    code, line = refusal(root)
    assert code == 3
    assert f"can be {tmp_path}/train/images or ROOT/train/images; write the whole path" in line


def test_linked_folders_are_followed_and_labels_found_by_the_written_path(tmp_path: Path):
    tree(tmp_path / "store", {"pictures/x.png": "", "pictures/y.png": ""})
    root = tree(tmp_path / "root", {"labels/train/x.txt": LINE, "labels/train/y.txt": ""})
    (root / "images").mkdir()
    (root / "images/train").symlink_to(tmp_path / "store/pictures")
    tree(root, {"data.yaml": f"train: images/train\n{NAMES}"})
    assert boxes(root) == {"images/train/x.png": [BOX], "images/train/y.png": []}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("images/train", "labels/train"), "images/train"),
        (("images/Train", "labels/Train"), "images/Train"),
        (("Images/train", "Labels/train"), "Images/train"),
        (("IMAGES/train", "labels/train"), "IMAGES/train"),
        (("images/train2017", "labels/train2017"), "images/train2017"),
        (("images/training", "labels/training"), "images/training"),
        (("train/images", "train/labels"), "train/images"),
        (("TRAIN/Images", "TRAIN/labels"), "TRAIN/Images"),
        (("train", "train"), "train"),
        (("obj_train_data", "obj_train_data"), "obj_train_data"),
        (("images/train", "images/train"), "images/train"),  # labels beside the images
    ],
)
def test_folders_named_after_the_split(tmp_path: Path, files: tuple[str, str], found: str):
    images, labels = files
    tree(
        tmp_path,
        {f"{images}/x.png": "", f"{labels}/x.txt": LINE, "data.yaml": NAMES, "readme.txt": "x"},
    )
    assert boxes(tmp_path) == {f"{found}/x.png": [BOX]}
    assert make.splits(tmp_path) == ["train"]
    with pytest.raises(UsageError) as error:
        read(tmp_path, split="val")
    assert str(error.value) == (
        f"{tmp_path}: no split val; found: train (--train-split, --val-split); add "
        "--val-fraction 0.1 to hold out a tenth of the training split, or --val-split none"
    )


def test_a_missing_training_split_is_not_held_out(tmp_path: Path):
    tree(tmp_path, {"images/val/x.png": "", "labels/val/x.txt": LINE, "data.yaml": NAMES})
    with pytest.raises(UsageError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no split train; found: val (--train-split, --val-split)"
    )


def test_a_split_of_another_name(tmp_path: Path):
    tree(tmp_path, SETS)
    tree(tmp_path, {"data.yaml": f"train: images/north\nnight: images/south\n{NAMES}"})
    assert ids(tmp_path, "night") == ["images/south/south.png"]
    assert ids(tmp_path, "hold") == ["images/hold/hold.png"]
    assert make.splits(tmp_path) == ["train"]


@pytest.mark.parametrize(
    ("second", "ambiguous"), [("x", False), ("y", True)], ids=["the same", "another"]
)
def test_two_places_for_a_split(tmp_path: Path, second: str, ambiguous: bool):
    tree(
        tmp_path,
        {
            "images/train/x.png": "",
            "images/train/y.png": "",
            "labels/train/x.txt": LINE,
            "train.txt": "images/train/x.png\nimages/train/y.png\n"
            if not ambiguous
            else "images/train/y.png\n",
            "classes.txt": "cat\ndog\n",
        },
    )
    if ambiguous:
        with pytest.raises(DataError, match=r"could be images/train or train\.txt; name one of"):
            read(tmp_path)
    else:
        assert ids(tmp_path) == ["images/train/x.png", "images/train/y.png"]


def test_places_that_contradict_each_other_are_asked_about(tmp_path: Path):
    files = {"images/train/x.png": "", "labels/train/x.txt": LINE, "data.yaml": NAMES}
    tree(tmp_path, {**files, "train/images/z.png": "", "train/labels/z.txt": LINE})
    with pytest.raises(DataError, match="could be images/train or train/images; name one of them"):
        read(tmp_path)
    tree(tmp_path, {"data.yaml": f"{NAMES}val: images/train\nvalid: train/images\n"})
    assert ids(tmp_path, "val") == ["images/train/x.png"]  # the name that was asked for
    with pytest.raises(DataError, match="val and valid are the same split; keep one of them"):
        read(tmp_path, split="validation")


LABEL_STUDIO = {
    "images/9f-x.png": "",
    "images/8e-y.png": "",
    "labels/9f-x.txt": LINE,
    "labels/8e-y.txt": "",
    "classes.txt": "cat\ndog\n",
    "notes.json": '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}',
}
CVAT = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    "obj.names": "cat\ndog\n",
    "train.txt": "data/obj_train_data/a/x.png\ndata/obj_train_data/y.png\n",
    "obj_train_data/a/x.png": "",
    "obj_train_data/a/x.txt": LINE,
    "obj_train_data/y.png": "",
    "obj_train_data/y.txt": "",
}
CVAT_ULTRALYTICS = {
    "data.yaml": "Train: Train.txt\nnames:\n  0: cat\n  1: dog\npath: .\n",
    "Train.txt": "data/images/Train/x.png\ndata/images/Train/y.png\n",
    "images/Train/x.png": "",
    "images/Train/y.png": "",
    "labels/Train/x.txt": LINE,
}
FIFTYONE_5 = {
    "dataset.yaml": "names:\n  0: cat\n  1: dog\npath: .\ntrain: ./images/train/\n",
    "images/train/x.png": "",
    "images/train/y.png": "",
    "labels/train/x.txt": LINE,
}
FIFTYONE_4 = {
    "obj.names": "cat\ndog\n",
    "images.txt": "data/x.png\ndata/y.png\n",
    "data/x.png": "",
    "data/x.txt": LINE,
    "data/y.png": "",
    "data/y.txt": "",
}
SUPERVISION = {
    "data.yaml": "names:\n- cat\n- dog\nnc: 2\n",
    "images/x.png": "",
    "labels/x.txt": LINE,
    "images/y.png": "",
    "labels/y.txt": "",
}
ROBOFLOW_DARKNET = {
    "train/_darknet.labels": "cat\ndog\n",
    "train/x.png": "",
    "train/x.txt": LINE,
    "train/y.png": "",
    "train/y.txt": "",
    "README.roboflow.txt": "exported\n",
}
LABELIMG = {"classes.txt": "cat\ndog\n", "x.png": "", "x.txt": LINE, "y.png": "", "y.txt": ""}


@pytest.mark.parametrize(
    ("files", "named", "place"),
    [
        (LABEL_STUDIO, [], "images/9f-"),
        (CVAT, ["train"], "obj_train_data/a/"),
        ({k: v for k, v in CVAT.items() if k != "obj.data"}, ["train"], "obj_train_data/a/"),
        (CVAT_ULTRALYTICS, ["train"], "images/Train/"),
        (FIFTYONE_5, ["train"], "images/train/"),
        (FIFTYONE_4, [], "data/"),
        (SUPERVISION, [], "images/"),
        (ROBOFLOW_DARKNET, ["train"], "train/"),
        (LABELIMG, [], ""),
    ],
    ids=["label studio", "cvat", "cvat without obj.data", "cvat ultralytics", "fiftyone 5",
         "fiftyone 4", "supervision", "roboflow darknet", "labelimg"],
)  # fmt: skip
def test_exports(tmp_path: Path, files: dict, named: list[str], place: str):
    tree(tmp_path, files)
    assert yolo.recognizes(tmp_path)
    assert make.splits(tmp_path) == named
    found = boxes(tmp_path)
    assert found[f"{place}x.png"] == [BOX]
    assert len(found) == 2
    assert read(tmp_path)[0].classes.names == ("cat", "dog")
    with pytest.raises(UsageError, match=r"add --val-fraction 0\.1"):
        read(tmp_path, split="val")


def test_a_set_without_splits_says_what_to_do(tmp_path: Path):
    tree(tmp_path, LABEL_STUDIO)
    with pytest.raises(UsageError) as error:
        read(tmp_path, split="val")
    assert str(error.value) == (
        f"{tmp_path}: has no split val: everything in it is one set; add --val-fraction 0.1 to "
        "hold out a tenth of it, or --val-split none"
    )


def test_folders_that_look_like_splits_are_not_taken_for_one_set(tmp_path: Path):
    files = {
        f"{kind}_x/a.{s}": c for kind in ("train", "val") for s, c in (("png", ""), ("txt", LINE))
    }
    tree(tmp_path, {**files, "classes.txt": "cat\ndog\n"})
    with pytest.raises(DataError, match="train_x and val_x look like splits; name them in data"):
        read(tmp_path)


def test_dev_is_a_name_of_the_validation_split(tmp_path: Path):
    for split in ("train", "dev"):
        tree(tmp_path, {f"images/{split}/x.png": "", f"labels/{split}/x.txt": LINE})
    tree(tmp_path, {"classes.txt": "cat\ndog\n"})
    assert make.splits(tmp_path) == ["train", "val"]
    assert ids(tmp_path, "val") == ["images/dev/x.png"]


@pytest.mark.parametrize("config", [NAMES, f"train: train.txt\n{NAMES}"])
def test_an_image_that_the_run_replaces_may_be_gone(tmp_path: Path, config: str):
    tree(tmp_path, {"images/train/x.png": "", "labels/train/x.txt": LINE, "data.yaml": config})
    tree(tmp_path, {"images/train/gone.png": "", "labels/train/gone.txt": LINE})
    if "train.txt" in config:
        tree(tmp_path, {"train.txt": "images/train/gone.png\n./images/train/x.png\n"})
    before = read(tmp_path)[0]
    (tmp_path / "images/train/gone.png").unlink()
    problems = Problems()
    problems.kept = {str(tmp_path / "images/train/gone.png"): Header(40, 60, 1)}
    data = formats.read(tmp_path, "train", "auto", (), problems)
    assert data.digest() == before.digest()
    assert problems.found == []


def test_nothing_there(tmp_path: Path):
    tree(tmp_path, {"data.yaml": NAMES})
    with pytest.raises(UsageError, match="no images found: images/ with labels/"):
        yolo.read(tmp_path, "train", Problems())
