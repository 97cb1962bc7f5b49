"""The cached content of a json file: equal to the file's, and never used for another one."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import coco_cache, coco_json, formats
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from tests.data import make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in which every file is worth a copy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_cache, "_WORTH_IT", 0)
    return tmp_path / "cache" / "fasterrcnn" / "annotations"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed, as they come."""
    seen: list[Path] = []
    parse = coco_json.parse

    def counting(path: Path, problems: Problems) -> coco_json.Content:
        seen.append(path)
        return parse(path, problems)

    monkeypatch.setattr(coco_json, "parse", counting)
    return seen


def read(root: Path, problems: Problems | None = None) -> Annotations:
    return formats.read(root, "train", "auto", (), problems or Problems())


def test_the_copy_is_equal_and_read_in_place_of_the_file(
    tmp_path: Path, cache: Path, parsed: list[Path]
):
    content = json.loads(json.dumps(make.CONTENT))
    del content["images"][0]["height"], content["annotations"][0]["area"]
    path = make.coco(tmp_path / "data", content)
    before = sorted(tmp_path.glob("data/**/*"))
    first, second = read(tmp_path / "data"), read(tmp_path / "data")
    assert parsed == [path]
    assert first.digest() == second.digest()
    assert first.classes == second.classes
    for name in ("xywh", "area", "crowd", "labels"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert len(list(cache.iterdir())) == 1
    assert sorted(tmp_path.glob("data/**/*")) == before


def test_notes_about_boxes_come_from_the_copy_too(tmp_path: Path, parsed: list[Path]):
    make.coco(tmp_path / "data", make.changed(("annotations", 1, "bbox"), [35, 6, 7, 8]))
    found = []
    for _ in range(2):
        problems = Problems()
        read(tmp_path / "data", problems)
        found.append([str(problem) for problem in problems.found])
    assert len(parsed) == 1
    assert found[0] == found[1]
    assert "/annotations/1/bbox (annotation 2, image 2)" in found[0][0]


def test_a_changed_file_is_read_even_if_size_and_time_are_the_same(
    tmp_path: Path, parsed: list[Path]
):
    path = make.coco(tmp_path / "data")
    read(tmp_path / "data")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    text = path.read_text()
    path.write_text(text.replace("[5.5, 6, 7, 8]", "[4.5, 6, 7, 8]"))
    os.utime(path, ns=times)
    assert [4.5, 6, 7, 8] in read(tmp_path / "data").xywh.tolist()
    assert len(parsed) == 2


def test_only_large_files_are_copied(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    path = make.coco(tmp_path / "data")
    size = path.stat().st_size
    monkeypatch.setattr(coco_cache, "_WORTH_IT", size + 1)
    read(tmp_path / "data")
    assert not cache.exists()
    monkeypatch.setattr(coco_cache, "_WORTH_IT", size)
    read(tmp_path / "data")
    assert len(list(cache.iterdir())) == 1


def test_a_copy_of_other_rules_is_not_used(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
):
    make.coco(tmp_path / "data")
    read(tmp_path / "data")
    monkeypatch.setattr(coco_cache, "_VERSION", coco_cache._VERSION + 1)
    for _ in range(2):
        read(tmp_path / "data")
    assert len(parsed) == 2


def test_the_copy_is_of_the_data_set_in_its_place(tmp_path: Path, parsed: list[Path]):
    """Two data sets with files of one name and size do not share a copy."""
    digests = []
    for name, box in (("one", [5.5, 6, 7, 8]), ("two", [4.5, 6, 7, 8])):
        make.coco(tmp_path / name, make.changed(("annotations", 1, "bbox"), box))
        digests += [read(tmp_path / name).digest() for _ in range(2)]
    assert len(parsed) == 2
    assert digests[0] == digests[1] != digests[2] == digests[3]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None])
def test_a_damaged_copy_is_not_used(
    tmp_path: Path, cache: Path, parsed: list[Path], damage: bytes | None
):
    make.coco(tmp_path / "data")
    first = read(tmp_path / "data")
    (copy,) = cache.iterdir()
    copy.write_bytes(copy.read_bytes()[:-200] if damage is None else damage)
    assert read(tmp_path / "data").digest() == first.digest()
    assert len(parsed) == 2


def test_files_with_findings_are_not_copied(tmp_path: Path, cache: Path):
    make.coco(tmp_path / "data", make.changed(("annotations", 1, "bbox"), [1, 2, 3]))
    read(tmp_path / "data", Problems(skip=True))
    assert not cache.exists()


def test_without_a_place_for_copies_the_file_is_read(tmp_path: Path, cache: Path):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where the folder should be")
    make.coco(tmp_path / "data")
    assert len(read(tmp_path / "data")) == 2


def test_processes_that_copy_at_once_do_not_disturb_each_other(
    tmp_path: Path, cache: Path, shell, monkeypatch: pytest.MonkeyPatch
):
    make.coco(tmp_path / "data")
    monkeypatch.setattr(coco_cache, "_WORTH_IT", 1 << 30)
    expected = read(tmp_path / "data").digest()  # of the file itself
    code = (
        "import sys; from pathlib import Path; from fasterrcnn.data import coco_cache, formats;"
        "from fasterrcnn.data.problems import Problems; coco_cache._WORTH_IT = 0;"
        "print({formats.read(Path(sys.argv[1]), 'train', 'auto', (), Problems()).digest()"
        " for _ in range(20)})"
    )
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(shell, [[sys.executable, "-c", code, tmp_path / "data"]] * 2))
    assert [run.code for run in done] == [0, 0], done[0].err
    assert [run.out for run in done] == [f"{{'{expected}'}}\n"] * 2
    assert len(list(cache.iterdir())) == 1
