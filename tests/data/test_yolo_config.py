"""data.yaml, obj.data and lists of classes: any content gives classes or one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.data import yolo_config
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.yolo_paths import Finder
from fasterrcnn.errors import DataError, Failure
from tests.data.test_yolo import LINE, read, refusal, tree, write


def classes(root: Path) -> Classes:
    config = yolo_config.load(root)
    return yolo_config.classes(root, config, Finder(root), [root / "labels" / "train"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", {0: "cat", 1: "dog"}),
        ("{0: cat, 1: dog}", {0: "cat", 1: "dog"}),
        ("{'0': cat, \"1\": dog}", {0: "cat", 1: "dog"}),
        ("\n  1: dog\n  0: cat", {0: "cat", 1: "dog"}),
        ("{0: cat, 3: dog}", {0: "cat", 3: "dog"}),
        ("[no, 1, 1e3, 007, 2024-01-01, null, 3.0]",
         dict(enumerate(["no", "1", "1e3", "007", "2024-01-01", "null", "3.0"]))),
        ("['a: b', \"it's\", Größe, two words]",
         dict(enumerate(["a: b", "it's", "Größe", "two words"]))),
        ("[!!python/object:os.system cat, !!binary dog, &a x, !!int bird]",
         dict(enumerate(["cat", "dog", "x", "bird"]))),
        ("\n- cat\n# - ant\n- dog # the second", {0: "cat", 1: "dog"}),
    ],
)  # fmt: skip
def test_names(tmp_path: Path, names: str, expected: dict[int, str]):
    tree(tmp_path, {"data.yaml": f"names: {names}\ndate: 2024-13-45\nroboflow: {{a: [b]}}\n"})
    assert classes(tmp_path) == Classes(tuple(expected.values()), tuple(expected))


@pytest.mark.parametrize("count", ["2", "2.0", "'2'", "null"])
def test_a_count_that_fits(tmp_path: Path, count: str):
    tree(tmp_path, {"data.yaml": f"names: [cat, dog]\nnc: {count}\n"})
    assert classes(tmp_path).names == ("cat", "dog")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("names: [cat\n", "data.yaml: not yaml: while parsing a flow sequence"),
        ("names: [cat]\ntrain:\timages\n\t- x\n", "data.yaml: not yaml"),
        ("names: [cat]\n---\nnames: [dog]\n", "data.yaml: not yaml: expected a single document"),
        ('names: ["\\UFFFFFFFF"]\n', "data.yaml: not yaml: "),
        ("names: [cat, \x07]\n", "data.yaml: not yaml: unacceptable character #x0007"),
        ("[" * 5000, "data.yaml: not yaml for a data set: nested too deeply"),
        ("", "data.yaml: /: nothing: must be a mapping with names"),
        ("[]", "data.yaml: /: []: must be a mapping"),
        ("cat\n", "data.yaml: /: cat: must be a mapping"),
        ("? [a]\n: b\n", "data.yaml: /: [a]: must not be a key"),
        ("names: 3\n", "/names: 3: must be a list of class names"),
        ("names: cat, dog\n", "/names: cat, dog: must be a list of class names"),
        ("names:\n", "/names: : must be a list"),
        ("names: []\n", "/names: must be a list of class names; it is empty"),
        ("names: {}\n", "/names: must be a list of class names; it is empty"),
        ("names: [cat, cat]\n", "/names/1: cat: not unique"),
        ("names: [cat, '']\n", "/names/1: : a class without a name"),
        ("names: [cat, [dog]]\n", "/names/1: [dog]: must be a class name"),
        ("names: [cat, {a: dog}]\n", "/names/1: a mapping: must be a class name"),
        ("names: {cat: 0}\n", "/names/cat: must be a class index"),
        ("names: {-1: cat}\n", "/names/-1: must be a class index"),
        ("names: {0: cat, 0.0: dog}\n", "/names/0.0: must be a class index"),
        ("names: {0: cat, 00: dog}\n", "/names/00: must be a class index"),
        ("names: {0: cat, 0: dog}\n", "/names/0: stands there twice"),
        ("names: [cat]\nnames: [dog]\n", "/names: stands there twice"),
        ('names: ["a\\nb"]\n', "/names/0: 'a\\nb': has a control character"),
        ('names: ["a\\0"]\n', "/names/0: 'a\\x00': has a control character"),
        ('names: ["\\uD800"]\n', "data.yaml: /names/0: '\\ud800': has a control character"),
        ('names: [cat]\npath: "a\\0"\n', "/path: 'a\\x00': has a control character"),
        ("names: [cat]\npath: [a, b]\n", "/path: [a, b]: must be a single value"),
        ("names: [cat, dog]\nnc: 3\n", "3 classes are announced, but 2 named"),
        ("names: [cat, dog]\nnc: two\n", "two classes are announced, but 2 named"),
        ("names: {0: cat, 5: dog}\nnc: 4\n", "4 classes are announced, but 2 named"),
        ("names: [cat]\nchannels: many\n", "/channels: many: must be a number of bands"),
        ("names: [cat]\nchannels: 0\n", "/channels: 0: must be a number of bands"),
        ("names: [cat]\nkpt_shape: 17\n", "/kpt_shape: 17: must be [number of keypoints, 2 or 3]"),
        ("names: [cat]\nkpt_shape: [17, 4]\n", "/kpt_shape: [17, 4]: must be"),
        ("names: [cat]\nkpt_shape: [0, 3]\n", "/kpt_shape: [0, 3]: must be"),
        ("names: [cat]\nkpt_shape: [17, [3]]\n", "/kpt_shape: a nested list: must be"),
        (f"{BOMB}names: *i\n", "/names/0: a nested list: must be a class name"),
        ("names: &a [*a]\n", "/names/0: a nested list: must be a class name"),
        ("names: *nowhere\n", "data.yaml: not yaml: found undefined alias"),
        ("%YAML 99.1\n---\nnames: [cat]\n", "data.yaml: not yaml: found incompatible YAML"),
        (b"names: [Gr\xf6\xdfe]\n".decode("latin-1"), ""),
    ],
)
def test_any_content_is_one_line(tmp_path: Path, config: str, line: str):
    write(tmp_path)
    (tmp_path / "data.yaml").write_bytes(config.encode("utf-8" if line else "latin-1"))
    code, message = refusal(tmp_path)
    assert code == 3
    assert line in message
    assert message.startswith("ROOT/data.yaml: ")
    assert len(message) < 400


@pytest.mark.parametrize(
    ("lists", "names"),
    [
        ({"classes.txt": "cat\r\ndog\r\n\r\n"}, ("cat", "dog")),
        ({"classes.txt": "\ufeffcat\ntwo  words\n"}, ("cat", "two words")),
        ({"classes.txt": "Größe\n".encode("utf-16")}, ("Größe",)),
        ({"labels/train/classes.txt": "cat\ndog\n"}, ("cat", "dog")),
        ({"my.names": "cat\n", "labels/train/classes.txt": "dog\n"}, ("cat",)),
        ({"classes.txt": "cat\n", "obj.names": "cat\n"}, ("cat",)),
        ({"data.yaml": "names: [cat]\n", "classes.txt": "dog\n"}, ("cat",)),
        ({"data.yaml": "names: classes.txt\n", "classes.txt": "dog\n"}, ("dog",)),
        ({"data.yaml": "train: x\n", "classes.txt": "dog\n"}, ("dog",)),
        ({"obj.data": "names = data/my.names\n# x\n", "my.names": "cat\n"}, ("cat",)),
        ({"obj.data": "names=/x/data/my.names\n", "my.names": "cat\n"}, ("cat",)),
        ({"voc.data": "train = x\nnames = my.names\n", "my.names": "cat\n"}, ("cat",)),
        ({"mine.yml": "names: [cat]\ntrain: x\n", "hyp.yaml": "names: [x]\n"}, ("cat",)),
        ({"data.yaml": "names: [cat]\n", "old.yaml": "names: [x]\ntrain: x\n"}, ("cat",)),
    ],
)
def test_where_class_names_are_found(tmp_path: Path, lists: dict, names: tuple[str, ...]):
    assert classes(tree(tmp_path, lists)).names == names


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"classes.txt": "cat\n\ndog\n"}, "classes.txt: line 2: blank, where a class name is"),
        ({"classes.txt": "cat\ncat\n"}, "classes.txt: /names/1: cat: not unique"),
        ({"classes.txt": "\n"}, "classes.txt: /names: must be a list of class names; it is empty"),
        ({"classes.txt": b"Gr\xf6\xdfe\n"}, "classes.txt: byte 2: not UTF-8"),
        ({"classes.txt": "cat\n", "obj.names": "dog\n"}, "obj.names: names other classes than "),
        ({"a.yaml": "names: [x]\ntrain: y\n", "b.yaml": "train: y\nnames: [x]\n"},
         "a.yaml and b.yaml each describe a data set; keep one, as data.yaml"),
        ({"data.yaml": "names: [x]\n", "dataset.yaml": "names: [y]\n"},
         "data.yaml and dataset.yaml each describe a data set"),
        ({"obj.data": "names = gone.names\n"}, "obj.data: /names: gone.names: no such file"),
        ({"obj.data": "names\n"}, "obj.data: line 1: names: must be: key = value"),
        ({"obj.data": "train = a\ntrain = b\n"}, "obj.data: line 2: train = b: stands there twice"),
        ({"obj.data": "classes = 3\nnames = my.names\n", "my.names": "cat\n"},
         "my.names: 3 classes are announced, but 1 named"),
        ({"obj.data": b"names = \xff\n"}, "obj.data: byte 8: not UTF-8"),
        ({"data.yaml": "names: gone.txt\n"}, "data.yaml: /names: gone.txt: no such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_descriptions_is_one_line(tmp_path: Path, files: dict, line: str):
    with pytest.raises(Failure) as error:
        classes(tree(tmp_path, files))
    assert error.value.code == 3
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_program_that_downloads_a_set_is_not_read(tmp_path: Path):
    write(tmp_path)
    config = "names: [cat, dog]\ntrain: images/train\ndownload: |\n  import os\n\n  print(1)\n"
    tree(tmp_path, {"data.yaml": config})
    assert len(read(tmp_path)[0]) == 2


def test_a_path_of_several_lines_is_none(tmp_path: Path):
    write(tmp_path)
    tree(tmp_path, {"data.yaml": "names: [cat, dog]\ntrain: |\n  a\n  b\n"})
    assert refusal(tmp_path) == (3, "ROOT/data.yaml: /train: must be a path or a list of paths")


def test_a_link_to_nothing_is_one_line(tmp_path: Path):
    (tmp_path / "classes.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"classes\.txt: broken link"):
        classes(tmp_path)


def test_lists_of_classes_of_each_split_are_read_by_name(tmp_path: Path):
    """labelImg writes one beside the labels, in the order in which names were first used."""
    for split, names in (("train", "cat\ndog\n"), ("val", "dog\ncat\n")):
        tree(
            tmp_path,
            {
                f"images/{split}/a.png": "",
                f"labels/{split}/a.txt": LINE,
                f"labels/{split}/classes.txt": names,
            },
        )
    train, _ = read(tmp_path)
    assert train.classes.names[train.labels[0] - 1] == "dog"
    val, _ = read(tmp_path, split="val")
    assert val.classes.names[val.labels[0] - 1] == "cat"
