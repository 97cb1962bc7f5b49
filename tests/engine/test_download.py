"""Downloads from a local server that misbehaves: never a wrong file under the final name."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fasterrcnn.engine import download as downloads
from fasterrcnn.engine.download import Remote, cached, download
from fasterrcnn.errors import DownloadError, StorageError
from tests.server import BODY, Handler, Server

SIZES = pytest.mark.parametrize("size", [len(BODY), None], ids=["size known", "size unknown"])


def remote(server: Server, name: str = "x.bin", **changes) -> Remote:
    values = {"size": len(server.body), "checksum": f"md5:{hashlib.md5(server.body).hexdigest()}"}
    return Remote(f"http://127.0.0.1:{server.server_port}/{name}", **values | changes)


@SIZES
def test_a_whole_file(server: Server, tmp_path: Path, size):
    path = download(remote(server, size=size), tmp_path)
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    download(remote(server, size=size), tmp_path)
    assert len(server.requests) == 1  # not again


@SIZES
def test_cut_connections_are_resumed(server: Server, tmp_path: Path, size):
    server.cut = [1000, 50_000, 0]
    assert download(remote(server, size=size), tmp_path).read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=1000-", "bytes=51000-", "bytes=51000-"]


@SIZES
def test_a_later_run_resumes(server: Server, tmp_path: Path, size):
    server.cut = [1000] * downloads._MAX_TRIES
    with pytest.raises(DownloadError, match="resumes"):
        download(remote(server, size=size), tmp_path)
    assert not (tmp_path / "x.bin").exists()
    assert (tmp_path / "x.bin.part").stat().st_size == 1000 * downloads._MAX_TRIES
    assert download(remote(server, size=size), tmp_path).read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={1000 * downloads._MAX_TRIES}-"


@SIZES
def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path, size):
    server.ranges, server.cut = False, [1000, 2000]
    assert download(remote(server, size=size), tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_is_removed(server: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="expected 0000; removed"):
        download(remote(server, checksum="md5:0000"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_length_is_refused(server: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="announces 1024000 bytes, expected 99"):
        download(remote(server, size=99), tmp_path)
    server.length = len(BODY) + 5
    with pytest.raises(DownloadError, match="announces 1024005 bytes"):
        download(remote(server), tmp_path)
    assert not (tmp_path / "x.bin").exists()


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path):
    (tmp_path / "x.bin.part").write_bytes(b"x" * (len(BODY) + 1))
    assert download(remote(server), tmp_path).read_bytes() == BODY


def test_server_errors(server: Server, tmp_path: Path):
    server.status = [503, 500]
    assert download(remote(server), tmp_path).read_bytes() == BODY
    server.status = [404]
    with pytest.raises(DownloadError, match="Not Found"):
        download(remote(server, "y.bin"), tmp_path)
    assert len(server.requests) == 4


def test_the_first_digits_of_another_checksum(server: Server, tmp_path: Path):
    digest = hashlib.sha256(BODY).hexdigest()
    path = download(remote(server, size=None, checksum=f"sha256:{digest[:8]}"), tmp_path)
    assert path.read_bytes() == BODY
    with pytest.raises(DownloadError, match=f"SHA-256 is {digest[:8]}, expected 12345678; removed"):
        download(remote(server, "y.bin", size=None, checksum="sha256:12345678"), tmp_path)
    assert not (tmp_path / "y.bin").exists()


def test_a_file_that_is_there_and_another_one(server: Server, tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"x\.bin: MD5 is .*; delete the file"):
        download(remote(server), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("part", [BODY, BODY[:-1] + b"x", BODY + b"x"])
def test_a_part_that_may_be_complete(server: Server, tmp_path: Path, part: bytes):
    """Killed before it got its name. Without a size only the server and the checksum can tell."""
    (tmp_path / "x.bin.part").write_bytes(part)
    if part != BODY:
        with pytest.raises(DownloadError, match=r"expected .*; removed"):
            download(remote(server, size=None), tmp_path)
    assert download(remote(server, size=None), tmp_path).read_bytes() == BODY


@SIZES
def test_a_server_that_says_no_length(server: Server, tmp_path: Path, size):
    server.length = -1
    assert download(remote(server, size=size), tmp_path).read_bytes() == BODY


def test_a_server_that_does_not_speak_http(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"\0nonsense\n"))
    with pytest.raises(DownloadError, match="nonsense"):
        download(remote(server), tmp_path)


@SIZES
def test_two_at_once_download_once(server: Server, tmp_path: Path, size):
    server.cut = [1000] * (downloads._MAX_TRIES - 1)  # long enough for the other to come
    item = remote(server, size=size)
    with ThreadPoolExecutor(2) as pool:
        paths = [pool.submit(download, item, tmp_path) for _ in range(2)]
        assert [path.result().read_bytes() for path in paths] == [BODY, BODY]
    assert len(server.requests) == downloads._MAX_TRIES
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize(("kind", "file"), [
    ("sha256", "model_20200130-{:.8}.pth"), ("md5", "model_final_{:.6}.pkl"),
])  # fmt: skip
def test_what_the_file_name_says_is_verified(server: Server, tmp_path, monkeypatch, kind, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{server.server_port}/" + file
    good = url.format(hashlib.new(kind, BODY).hexdigest())
    server.cut = [1000]
    path = cached(good)
    assert path == tmp_path / "hub" / "checkpoints" / good.rsplit("/", 1)[1]
    assert path.read_bytes() == BODY
    assert server.requests[1][1] == "bytes=1000-"
    with pytest.raises(DownloadError, match=r"expected 0{6,8}; removed"):
        cached(url.format("0" * 32))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="TORCH_HOME"):
        cached("http://127.0.0.1:1/model-12345678.pth")
