"""Downloads from a local server that misbehaves: never a wrong file under the final name."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasterrcnn import fetch
from fasterrcnn.errors import DownloadError, StorageError
from tests.conftest import PROJECT

BODY = bytes(range(256)) * 4000  # 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under every path, as badly as `cut`, `length`, `ranges` and `status` say."""

    body = BODY
    cut: list[int] = []  # noqa: RUF012 - bytes after which the next connections end
    length: int | None = None  # what Content-Length claims
    ranges = True
    status: list[int] = []  # noqa: RUF012 - answers before the file is given


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        part = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(server.length or len(part)))
        self.end_headers()
        self.wfile.write(part[: server.cut.pop(0)] if server.cut else part)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests, server.cut, server.status = [], [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)


def archive(server: Server, name: str = "x.bin", body: bytes | None = None, **changes):
    body = server.body if body is None else body
    values = {"size": len(body), "md5": hashlib.md5(body).hexdigest()} | changes
    return fetch.Archive(f"http://127.0.0.1:{server.server_port}/{name}", **values)


def test_a_whole_file(server: Server, tmp_path: Path):
    path = fetch.download(archive(server), tmp_path)
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    fetch.download(archive(server), tmp_path)
    assert len(server.requests) == 1  # not again


def test_cut_connections_are_resumed(server: Server, tmp_path: Path):
    server.cut = [1000, 50_000, 0]
    assert fetch.download(archive(server), tmp_path).read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=1000-", "bytes=51000-", "bytes=51000-"]


def test_a_later_run_resumes(server: Server, tmp_path: Path):
    server.cut = [1000] * fetch._TRIES
    with pytest.raises(DownloadError, match="resumes"):
        fetch.download(archive(server), tmp_path)
    assert not (tmp_path / "x.bin").exists()
    assert (tmp_path / "x.bin.part").stat().st_size == 1000 * fetch._TRIES
    assert fetch.download(archive(server), tmp_path).read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={1000 * fetch._TRIES}-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path):
    server.ranges, server.cut = False, [1000, 2000]
    assert fetch.download(archive(server), tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_is_removed(server: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="expected 0000; removed"):
        fetch.download(archive(server, md5="0000"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_length_is_refused(server: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="announces 1024000 bytes, expected 99"):
        fetch.download(archive(server, size=99), tmp_path)
    server.length = len(BODY) + 5
    with pytest.raises(DownloadError, match="announces 1024005 bytes"):
        fetch.download(archive(server), tmp_path)
    assert not (tmp_path / "x.bin").exists()


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path):
    (tmp_path / "x.bin.part").write_bytes(b"x" * (len(BODY) + 1))
    assert fetch.download(archive(server), tmp_path).read_bytes() == BODY


def test_server_errors(server: Server, tmp_path: Path):
    server.status = [503, 500]
    assert fetch.download(archive(server), tmp_path).read_bytes() == BODY
    server.status = [404]
    with pytest.raises(DownloadError, match="Not Found"):
        fetch.download(archive(server, "y.bin"), tmp_path)
    assert len(server.requests) == 4


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
)
def test_archives_that_would_leave_the_folder(server: Server, tmp_path: Path, name, body):
    server.body = body
    folder = tmp_path / "folder"
    with pytest.raises(DownloadError):
        fetch.fetch([archive(server, name)], folder)
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
    names = {a.name: a.md5 for a in fetch.coco()}
    assert names["train2017.zip"] == "cced6f7f71b7629ddf16f17bbcfab6b2"
    assert names["val2017.zip"] == "442b8da7639aecaf257c1dceb8ba8c80"
    assert names["annotations_trainval2017.zip"] == "f4bbac642086de4f52a3fdda2de5fa2c"
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    torchvision = {e["url"].rsplit("/")[-1]: e["md5"] for e in DATASET_YEAR_DICT.values()}
    for item in fetch.voc():
        assert torchvision[item.name] == item.md5
    assert fetch.main(["imagenet", "x"]) == 2
