"""Verdicts that are kept, those that are not, and caches that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fasterrcnn.data import image_cache
from fasterrcnn.data.image_cache import ImageCache, key_of
from fasterrcnn.data.images import Header, Seen, Verdict
from fasterrcnn.data.problems import Problems
from tests.conftest import HANG, clean_environment

GOOD = Verdict(Header(40, 60, 6), Seen.END)
BAD = Verdict("not an image", Seen.PIXELS)
CUT = Verdict(Header(40, 60, 6), Seen.PIXELS, "cannot be decoded")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def file(path: Path, text: str = "x", mtime: int = 10**18) -> str:
    """A file that was changed long ago, unless `mtime` (ns) says otherwise."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(mtime, mtime))
    return str(path)


def keep(*items: tuple[str, Verdict]) -> None:
    cache = ImageCache()
    for path, verdict in items:
        key = key_of(path)
        assert key is not None
        cache.add(key, verdict)
    cache.close()


def known(*paths: str) -> list[Verdict | None]:
    problems = Problems()
    cache = ImageCache(problems)
    found = cache.find([key_of(path) for path in paths])
    cache.close()
    assert problems.found == []
    return found


def test_verdicts_are_found_again(tmp_path: Path, folder: Path):
    a, b = file(tmp_path / "one" / "a.jpg"), file(tmp_path / "two" / "a.jpg")
    odd = file(tmp_path / "one" / os.fsdecode(b"\xff'%.jpg"))  # not UTF-8
    keep((a, GOOD), (b, BAD), (odd, BAD))
    assert known(b, str(tmp_path / "none.jpg"), odd, a) == [BAD, None, BAD, GOOD]
    assert isinstance(known(a)[0].seen, Seen)
    (only,) = folder.rglob("*.*")
    assert only == image_cache.location()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "one", "two"]
    for other in (BAD, CUT):
        keep((a, other))
        assert known(a) == [other]


def test_a_relative_path_is_the_same_file(tmp_path: Path, monkeypatch):
    path = file(tmp_path / "a.jpg")
    keep((path, GOOD))
    monkeypatch.chdir(tmp_path)
    for same in ("a.jpg", "./a.jpg", f"../{tmp_path.name}/a.jpg"):
        assert known(same) == [GOOD]


@pytest.mark.parametrize("change", ["size", "time", "link"])
def test_a_changed_file_has_no_verdict(tmp_path: Path, change: str):
    path = file(tmp_path / "a.jpg")
    keep((path, GOOD))
    if change == "size":
        file(tmp_path / "a.jpg", "xx")
    elif change == "time":
        os.utime(path, ns=(10**18, 10**18 + 1))
    else:
        other = file(tmp_path / "b.jpg", "another")
        (tmp_path / "a.jpg").unlink()
        (tmp_path / "a.jpg").symlink_to(other)
    assert known(path) == [None]


def test_no_verdict_on_what_may_change_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file that is just being written can change twice in one tick of its file system's clock."""
    now = time.time_ns()
    monkeypatch.setattr(image_cache.time, "time_ns", lambda: now)
    for age, is_known in ((0, False), (10**9, False), (3 * 10**9, True), (-3 * 10**9, True)):
        path = file(tmp_path / "a.jpg", mtime=now - age)
        assert (key_of(path) is not None) == is_known, age
    os.mkfifo(tmp_path / "pipe.jpg")
    os.utime(tmp_path / "pipe.jpg", ns=(10**18, 10**18))
    for name in ("pipe.jpg", "", "missing.jpg", "a\0.jpg"):
        assert key_of(str(tmp_path / name)) is None


def test_forget(tmp_path: Path):
    a, b = file(tmp_path / "a.jpg"), file(tmp_path / "b.jpg")
    keep((a, GOOD), (b, GOOD))
    image_cache.forget(a)
    assert known(a, b) == [None, GOOD]


def test_other_readers_do_not_share_verdicts(tmp_path: Path, monkeypatch):
    path = file(tmp_path / "a.jpg")
    keep((path, BAD))
    monkeypatch.setattr(image_cache.PIL, "__version__", "99")
    assert known(path) == [None]


@pytest.mark.parametrize("damage", ["no database", "damaged page"])
def test_a_damaged_cache_costs_a_note_and_is_made_anew(tmp_path: Path, damage: str):
    paths = [file(tmp_path / f"{k}.jpg") for k in range(300)]
    keep(*((path, GOOD) for path in paths))
    where = image_cache.location()
    if damage == "no database":
        where.write_bytes(b"x" * 5000)
    else:
        content = bytearray(where.read_bytes())
        content[4096:] = b"\x07" * (len(content) - 4096)
        where.write_bytes(content)
    problems = Problems()
    for _ in range(2):
        cache = ImageCache(problems)
        assert cache.find([key_of(path) for path in paths]) == [None] * 300
        cache.add(key_of(paths[0]), GOOD)
        cache.close()
    assert len(problems.found) == 1
    assert "cache of image checks cannot be used" in problems.summary()[0]
    keep((paths[0], GOOD))
    assert known(paths[0]) == [GOOD]


@pytest.mark.parametrize("place", ["file", "no home"])
def test_a_cache_that_cannot_be_written_costs_a_note(tmp_path: Path, place: str, monkeypatch):
    path = file(tmp_path / "a.jpg")
    if place == "file":
        (tmp_path / "cache").write_text("mine")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    problems = Problems()
    cache = ImageCache(problems)
    cache.add(key_of(path), GOOD)
    assert cache.find([key_of(path)]) == [None]
    cache.close()
    assert len(problems.found) == 1
    image_cache.forget(path)
    if place == "file":
        assert (tmp_path / "cache").read_text() == "mine"


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_relative_cache_folder_is_not_one(monkeypatch):
    """Else it would be made wherever the command happens to run, maybe among the user's data."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert image_cache.location().is_relative_to(Path.home() / ".cache" / "fasterrcnn")


def test_what_is_measured_is_kept_for_the_same_files(tmp_path: Path):
    paths = [file(tmp_path / f"{k}.tif") for k in range(3)]
    calls = []

    def measured(what: str = "mean", count: int = 3) -> list[float]:
        calls.append(0)
        before = len(calls)

        def measure() -> tuple[list[float], int]:
            calls.append(0)
            return [0.1, len(calls)], count

        found = image_cache.measured(what, paths, measure)
        return [*found, len(calls) - before]

    first = measured(count=2)  # of one less: not kept
    assert first[2] == 1
    first = measured()
    assert first[2] == 1 and measured() == [*first[:2], 0]
    assert measured("range")[2] == 1
    os.utime(paths[1], ns=(10**18, 10**18 + 1))
    assert measured()[2] == 1 and measured()[2] == 0
    os.utime(paths[1])  # just written
    assert measured()[2] == 1 and measured()[2] == 1
    image_cache.location().write_bytes(b"x" * 5000)
    assert measured()[2] == 1


def test_two_processes_write_at_once(tmp_path: Path):
    paths = [file(tmp_path / f"{k}.jpg") for k in range(40)]
    code = (
        "import sys; from fasterrcnn.data.image_cache import *; "
        "from fasterrcnn.data.images import *\n"
        "for path in sys.argv[1:]:\n"
        "    cache = ImageCache(); cache.find([key_of(path)])\n"
        "    cache.add(key_of(path), Verdict(Header(40, 60, 6), Seen.END)); cache.close()"
    )
    environment = clean_environment()
    running = [
        subprocess.Popen([sys.executable, "-c", code, *part], env=environment)
        for part in (paths[:30], paths[10:])
    ]
    assert [process.wait(HANG) for process in running] == [0, 0]
    assert known(*paths) == [GOOD] * 40
