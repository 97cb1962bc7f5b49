"""Hostile files run nothing, write nowhere else, and cost little: each is fed to its command.

    python -m tests.faults.hostile [--every N] [--only WORD] [--kind KIND]

Checkpoint files go to `import`, images to `predict`, data sets to `check-data`, archives to
`fetch`, what is in a run folder to `predict`, `report` or `train`. Each command runs in a process
of its own, forked from one that has imported everything. Nothing of the file may be executed, no
file outside the folder of output (or of the run that is given) written or changed, none in a folder
beside it read; the process may hold 512 MiB more than one that gets a harmless file, and take 60 s
of a core. It must end with an exit code of the project, one line for what is wrong, and no
traceback. Prints a line for each file, and ends with 1 if one has broken a rule. `--every N` tries
every Nth file, `--only WORD` those with it in their names, `--kind` those of a kind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from tests.faults import (
    guarded,
    hostile_archives,
    hostile_data,
    hostile_images,
    hostile_pickles,
    hostile_proposals,
    hostile_runs,
)
from tests.faults.guarded import MIB, Ended
from tests.faults.places import Place, Skipped

MORE = 512 * MIB  # memory that a hostile file may take
SECONDS = 60
_CODES = {0, 2, 3, 4, 5}  # of the project, for what is wrong with files and folders
_COMMANDS = ("predict", "report", "train", "import", "check-data", "compare", "compare-proposals",
             "tables", "export", "evaluate", "fetch")  # fmt: skip
TRAINED = (
    "--recipe", "fasterrcnn_r10_fpn_shapes", "--input.min-size", "64", "--input.max-size", "96",
    "--backbone.fpn-channels", "16", "--roi-heads.representation-size", "32", "--images-per-step",
    "2", "--images-per-gpu", "1", "--workers", "0", "--device", "cpu",
)  # fmt: skip


class Kind(NamedTuple):
    """Files that go to the same commands."""

    plain: Callable[[Place], object]  # writes a harmless one
    files: tuple[Callable[[Place], object], ...]
    command: Callable[[Place, object], list[str]]  # of what the function has returned


def _import(place: Place, file: object) -> list[str]:
    return ["import", str(file), "--output-dir", str(place.out / "run")]


def _check_data(place: Place, _: object) -> list[str]:
    page = ["--page", str(place.out / "page.html"), "--json", str(place.out / "found.json")]
    return ["check-data", str(place.given), "--images", "4", "--workers", "1", *page]


def _predict(place: Place, file: object) -> list[str]:
    return ["predict", "--checkpoint", str(place.base / "run"), "--device", "cpu", "--workers",
            "0", "--output-dir", str(place.out), "--max-image-pixels", "10000000",
            str(file)]  # fmt: skip


def _fetch(place: Place, file: object) -> list[str]:
    return ["fetch", str(file)]


def _own(_: Place, words: object) -> list[str]:
    assert isinstance(words, list)
    return words


KINDS = {
    "checkpoint": Kind(hostile_pickles.plain, hostile_pickles.FILES, _import),
    "image": Kind(hostile_images.plain, hostile_images.FILES, _predict),
    "data": Kind(hostile_data.plain, hostile_data.FILES, _check_data),
    "run": Kind(hostile_runs.plain, hostile_runs.FILES, _own),
    "proposals": Kind(hostile_runs.plain, hostile_proposals.FILES, _own),
    "archive": Kind(hostile_archives.plain, hostile_archives.FILES, _fetch),
}


def call(place: Place, words: list[str]) -> None:
    """Run a command, as the entry point does."""
    from fasterrcnn.__main__ import choose
    from fasterrcnn.commands import fetch

    if words[0] != "fetch":
        choose(words)()
        return
    path = Path(words[1])  # an archive as if it were a published one that was downloaded before
    archive = fetch.Archive(f"file://{path}", path.stat().st_size, f"md5:{_md5(path)}")
    (place.out / "data").mkdir()
    shutil.copy(path, place.out / "data")
    fetch.fetch([archive], place.out / "data")


def _md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def prepare(base: Path) -> None:
    """A data set of shapes, a run of four steps, the command that made it, and a Hub folder."""
    import json

    from fasterrcnn.commands import export, train
    from fasterrcnn.data import shapes

    shapes.write(base / "shapes", train=8, val=8)
    words = [*TRAINED, "--data-path", str(base / "shapes")]
    (base / "command.json").write_text(json.dumps(words))
    train.main([*words, "--output-dir", str(base / "run"), "--steps", "4"])
    export.main(
        ["--checkpoint", str(base / "run"), "--format", "hub", "--output", str(base / "hub")]
    )


class Tried(NamedTuple):
    """What became of a file."""

    name: str
    ended: Ended
    outside: list[str]  # files that were made or changed where they should not be
    wrong: str  # "": nothing


def make_place(root: Path, base: Path) -> Place:
    """Empty folders, and secrets beside them."""
    shutil.rmtree(root, ignore_errors=True)
    place = Place(root, base)
    for folder in (place.given, place.outside, place.out, root / "home"):
        folder.mkdir(parents=True)
    (place.outside / "secret.txt").write_text("secret\n")
    shutil.copy(next((base / "shapes" / "val").glob("*.png")), place.outside / "secret.png")
    return place


def state_of(place: Place, *, with_run: bool) -> dict[str, tuple[int, int, int]]:
    """Every file that a command must leave alone."""
    free = [place.out, place.root / "home", place.root / "logs"]
    free += [place.given / "run"] if with_run else []
    found = {}
    for folder, _, names in os.walk(place.root):
        if not any(Path(folder).is_relative_to(one) for one in free):
            for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118
                about = os.lstat(path)
                found[path] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def attempt(kind: Kind, file: Callable[[Place], object], root: Path, base: Path, rss: int) -> Tried:
    """Write a file and run its command on it. `rss`: bytes that a harmless one takes."""
    place = make_place(root, base)
    words = kind.command(place, file(place))
    with_run = words[0] == "train"
    before = state_of(place, with_run=with_run)
    ended = guarded.run(partial(call, place, words), root / "logs", rss=rss + 2 * MORE,
                        seconds=SECONDS, private=place.outside)  # fmt: skip
    after = state_of(place, with_run=with_run)
    outside = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
    outside = [name for name in outside if name != str(place.root)]
    tried = Tried(file.__name__, ended, outside, "")
    return tried._replace(wrong=what_is_wrong(tried, place, rss, words[0]))


def what_is_wrong(tried: Tried, place: Place, rss: int, command: str) -> str:
    """The first rule that a command has broken; "" if none."""
    ended, lines = tried.ended, tried.ended.err.splitlines()
    if place.canary.exists():
        return "code in the file was executed"
    if ended.seen or tried.outside:
        return f"touches what is outside: {[*ended.seen, *tried.outside][:3]}"
    if ended.killed or ended.rss - rss > MORE:
        return f"took too much {ended.killed or 'memory'}"
    codes = _CODES | ({9} if command == "fetch" else set())
    if lines and lines[0].startswith("error: memory: "):
        codes |= {7}
    if "Traceback" in ended.err or ended.status not in codes:
        return f"ended with {ended.status}: {lines[-1:]}"
    lines = [line for line in lines if not line.startswith("libpng ")]  # of that library itself
    said = [line for line in lines if line.startswith("error: ")]
    if ended.status and not said:
        return f"said {lines[:3]}"
    if (odd := [line for line in lines if line not in said]) and ended.status:
        return f"said besides: {odd[:2]}"
    if len(said) > 1 and command != "check-data":  # which names every split that fails
        return f"said {len(said)} lines: {said[:2]}"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", ended.out.replace("\r", "") + ended.err):
        return "prints control characters"
    longest = max(map(len, [*ended.out.splitlines(), *lines]), default=0)
    return f"prints a line of {longest} characters" if longest > 2000 else ""


def _line(tried: Tried, rss: int) -> str:
    ended = tried.ended
    more = (ended.rss - rss) / MIB
    end = tried.wrong or (ended.err.strip().splitlines() or ["no error"])[0]
    mark = "WRONG " if tried.wrong else ""
    cost = f"{more:+.0f} MiB, {ended.seconds:.1f} s"
    return f"  {tried.name}: {mark}{ended.status}, {cost}: {end[:200]!r}"


def main() -> None:
    """Try all files, or some."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--kind", choices=KINDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, base = Path(folder).resolve() / "world", Path(folder).resolve() / "base"
        for name, inner in (("HOME", ""), ("XDG_CACHE_HOME", "cache"), ("TORCH_HOME", "torch"),
                            ("TMPDIR", ""), ("OUTPUT_DIR", "output")):  # fmt: skip
            os.environ[name] = str(root / "home" / inner)
        tempfile.tempdir = None
        torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
        for command in _COMMANDS:
            import_module(f"fasterrcnn.commands.{_module(command)}")
        base.mkdir()
        (root / "home").mkdir(parents=True, exist_ok=True)
        made = guarded.run(partial(prepare, base), base / "logs", rss=8 << 30, seconds=600)
        assert made.status == 0, made.err
        found, skipped = _try_all(root, base, options)
    wrong = [tried for _, tried in found if tried.wrong]
    touching = [t for _, t in found if t.outside or t.ended.seen]
    executed = sum("executed" in tried.wrong for tried in wrong)
    most = max(more for more, _ in found) / MIB
    longest = max(tried.ended.seconds for _, tried in found)
    print(f"{len(found)} files, {skipped} skipped: {executed} executed, {len(touching)} that touch "
          f"files outside, at most {most:.0f} MiB more and {longest:.1f} s; "
          f"{len(wrong)} wrong")  # fmt: skip
    sys.exit(bool(wrong))


def _module(command: str) -> str:
    from fasterrcnn.cli import names

    return names.module_of(command).rpartition(".")[2]


def _chosen(options: argparse.Namespace) -> list[tuple[str, Kind]]:
    """The kinds, with those of their files that are to be tried."""
    chosen, number = [], 0
    for name, kind in KINDS.items():
        files = []
        for file in kind.files:
            number += 1
            if number % options.every == 0 and options.only in file.__name__:
                files.append(file)
        if options.kind in (None, name):
            chosen.append((name, kind._replace(files=tuple(files))))
    return chosen


def _try_all(
    root: Path, base: Path, options: argparse.Namespace
) -> tuple[list[tuple[int, Tried]], int]:
    """Each file with the memory that it took above a harmless one, and how many were skipped."""
    found, skipped = [], 0
    for name, kind in _chosen(options):
        if not kind.files:
            continue
        plain = attempt(kind, kind.plain, root, base, 8 << 30)
        assert plain.ended.status in (0, 4), plain
        rss = plain.ended.rss
        print(f"{name}: {rss / MIB:.0f} MiB for a harmless one")
        for file in kind.files:
            try:
                tried = attempt(kind, file, root, base, rss)
            except Skipped as reason:
                skipped += 1
                print(f"  {file.__name__}: skipped: {reason}")
                continue
            found.append((tried.ended.rss - rss, tried))
            print(_line(tried, rss), flush=True)
    return found, skipped


if __name__ == "__main__":
    main()
