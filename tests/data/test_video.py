"""Videos read and written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import images, video
from fasterrcnn.data.sources import _is_marked
from fasterrcnn.errors import StorageError

av = pytest.importorskip("av", reason="PyAV reads and writes videos; pip install av")
COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three frames of 51 x 35 px at 10 per second."""
    writer = video.Writer(tmp_path / "sub" / "clip.mp4", Fraction(10))
    for color in COLORS:
        writer.add(Image.new("RGB", (51, 35), color))
    writer.close()
    return tmp_path / "sub" / "clip.mp4"


def test_what_is_written_is_read_in_order(clip: Path):
    frames = list(video.Reader(str(clip)))
    assert video.rate(str(clip)) == 10
    assert [frame.shape for frame in frames] == [(3, 36, 52)] * 3, "sides are made even"
    for frame, color in zip(frames, COLORS, strict=True):
        assert np.abs(frame[:, 17, 25].int().numpy() - color).max() < 12
    assert _is_marked(str(clip))


def test_a_picture_of_another_size_is_cropped(tmp_path: Path):
    writer = video.Writer(tmp_path / "x.mp4", Fraction(10))
    for size in ((64, 48), (80, 32)):
        writer.add(Image.new("RGB", size))
    writer.close()
    assert [frame.shape for frame in video.Reader(str(tmp_path / "x.mp4"))] == [(3, 48, 64)] * 2


def test_a_turned_video_is_read_as_displayed(tmp_path: Path):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48] = 255  # the top left corner
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a turned video")
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "x.mp4")) as container:
        turn = next(container.decode(video=0)).rotation
    (frame,) = video.Reader(str(tmp_path / "x.mp4"))
    assert abs(turn) == 90
    assert frame.shape == (3, 96, 48)
    corner = (-1, 0) if turn == 90 else (0, -1)  # counterclockwise: to the bottom left
    bright = np.argwhere(frame[0].numpy() > 200)
    assert (
        abs(bright.mean(0) - [71.5 if corner[0] else 23.5, 35.5 if corner[1] else 11.5]).max() < 3
    )


def test_what_is_no_video(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"cannot be opened as a video \(Invalid data"):
        video.Reader(str(tmp_path / "x.mp4"))
    with pytest.raises(ValueError, match=r"cannot be opened as a video \(No such file"):
        video.Reader(str(tmp_path / "gone.mp4"))
    monkeypatch.setattr(images, "_max_pixels", 1000)
    with pytest.raises(ValueError, match="--max-image-pixels"):
        list(video.Reader(str(clip)))


def test_an_unwritable_video_is_one_line(tmp_path: Path):
    (tmp_path / "x.mp4").mkdir()
    writer = video.Writer(tmp_path / "x.mp4", Fraction(10))
    with pytest.raises(StorageError, match=r"x\.mp4: .*directory.*another --output-dir"):
        writer.add(Image.new("RGB", (64, 48)))  # the encoder may keep it until it is closed
        writer.close()
