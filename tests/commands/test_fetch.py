"""Archives of data sets: fetched once, unpacked only inside their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fasterrcnn.commands import fetch
from fasterrcnn.errors import DownloadError, StorageError, UsageError
from tests.conftest import PROJECT
from tests.server import Server


def archive(server: Server, name: str = "x.bin", body: bytes | None = None, **changes):
    body = server.body if body is None else body
    values = {"size": len(body), "checksum": f"md5:{hashlib.md5(body).hexdigest()}"} | changes
    return fetch.Archive(f"http://127.0.0.1:{server.server_port}/{name}", **values)


def zipped(*names: str, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, f"content of {name}")
        if link:
            info = zipfile.ZipInfo("link")
            info.external_attr = 0o120777 << 16
            file.writestr(info, link)
    return buffer.getvalue()


def tarred(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            content = f"content of {name}".encode()
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "body", "strip"),
    [
        ("a.zip", zipped("train2017/1.jpg", "annotations/x.json"), ""),
        ("a.tar", tarred("VOCdevkit/train2017/1.jpg", "VOCdevkit/annotations/x.json"), "VOCdevkit"),
    ],
    ids=["zip", "tar"],  # archives hold the time, which can differ between workers
)
def test_archives_are_unpacked_once(server: Server, tmp_path: Path, name, body, strip):
    server.body = body
    folder = tmp_path / "new" / "place"
    item = archive(server, name, strip=strip)
    fetch.fetch([item], folder)
    assert (folder / "train2017" / "1.jpg").read_text().startswith("content of")
    assert (folder / "annotations" / "x.json").is_file()
    assert not (folder / name).exists()
    fetch.fetch([item], folder)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.zip", zipped("good.txt", "../evil.txt")),
        ("a.zip", zipped("good.txt", "/tmp/evil.txt")),
        ("a.zip", zipped("good.txt", "../\x1b[2J\n/evil.txt")),
        ("a.zip", zipped("good.txt", "a\\..\\evil.txt")),
        ("a.zip", zipped("good.txt", link="/etc/passwd")),
        ("a.tar", tarred("good.txt", "x/../../evil.txt")),
        ("a.tar", tarred("good.txt", "/tmp/evil.txt")),
        ("a.tar", tarred("link", kind=tarfile.SYMTYPE)),
        ("a.tar", tarred("link", kind=tarfile.LNKTYPE)),
        ("a.tar", tarred("device", kind=tarfile.CHRTYPE)),
        ("a.zip", b"not an archive" * 100),
        ("a.tar", b"not an archive" * 100),
    ],
    ids=[str(k) for k in range(12)],  # the content has the time in it, and would be the name
)
def test_archives_that_would_leave_the_folder(server: Server, tmp_path: Path, name, body):
    server.body = body
    folder = tmp_path / "folder"
    with pytest.raises(DownloadError) as error:
        fetch.fetch([archive(server, name)], folder)
    assert "\n" not in str(error.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [folder / name]  # nothing unpacked


def test_too_little_space_is_found_first(server: Server, tmp_path: Path):
    with pytest.raises(StorageError, match="GiB needed"):
        fetch.fetch([archive(server, size=10**16)], tmp_path)
    assert server.requests == []


@pytest.mark.parametrize(("script", "variable"), [("get_coco", "COCO_URL"), ("get_voc", "VOC_URL")])
def test_scripts_refuse_what_is_not_the_file(shell, server: Server, tmp_path, script, variable):
    # Plenty of space, whatever this machine has: what is tested comes after that check.
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\nshutil.disk_usage = lambda _: shutil._ntuple_diskusage(2**60, 0, 2**60)\n"
    )
    url = f"http://127.0.0.1:{server.server_port}"
    command = ["bash", PROJECT / "datasets" / f"{script}.sh", tmp_path / "here"]
    done = shell(command, **{variable: url, "PYTHONPATH": str(tmp_path)})
    assert done.code == 9
    assert done.err.startswith("error: ")
    assert "announces 1024000 bytes" in done.err
    assert [p for p in (tmp_path / "here").rglob("*") if not p.name.endswith(".part")] == []
    first = fetch.SETS[script.removeprefix("get_")]()[0]
    assert server.requests[0][0] == "/" + "/".join(first.url.split("/")[-2:])


def test_known_sets():
    names = {a.name: a.checksum for a in fetch.coco()}
    assert names["train2017.zip"] == "md5:cced6f7f71b7629ddf16f17bbcfab6b2"
    assert names["val2017.zip"] == "md5:442b8da7639aecaf257c1dceb8ba8c80"
    assert names["annotations_trainval2017.zip"] == "md5:f4bbac642086de4f52a3fdda2de5fa2c"
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    torchvision = {e["url"].rsplit("/")[-1]: e["md5"] for e in DATASET_YEAR_DICT.values()}
    for item in fetch.voc():
        assert item.checksum == f"md5:{torchvision[item.name]}"
    with pytest.raises(UsageError, match="coco,voc"):
        fetch.main(["imagenet", "x"])
