"""Files and flags of other values, bands and tiles that cannot be trained with: one line each."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.errors import DataError, Failure, UsageError
from tests.commands.runs import refused
from tests.data.test_tiff_files import write as write_tiff

RANDOM = np.random.default_rng(0)
H, W = 60, 80
Content = np.ndarray | Callable[[Path], None]


def noise(bands: int = 1, dtype: str = "u2", high: int = 900) -> np.ndarray:
    return RANDOM.integers(1, high, (H, W, bands)).astype(dtype)


def with_one(value: float) -> np.ndarray:
    image = noise(dtype="f4")
    image[3, 4] = value
    return image


def constant(bands: int, of: int) -> np.ndarray:
    """Noise in which one band is constant."""
    image = noise(bands)
    image[:, :, of] = 7
    return image


def pages_of_two_sizes(path: Path) -> None:
    write_tiff(path.with_suffix(".tif"), [noise(), noise()[:9]])


def truncated(path: Path) -> None:
    file = write_tiff(path.with_suffix(".tif"), [noise(4)])
    file.write_bytes(file.read_bytes()[:900])


def dicom(syntax: str = "", **elements: object) -> Callable[[Path], None]:
    """A DICOM file with these elements, whose pixels are said to be compressed by `syntax`."""

    def write(path: Path) -> None:
        pydicom = pytest.importorskip("pydicom", reason="needs pydicom (the extra dicom)")
        from tests.data import test_dicom_files

        file = test_dicom_files.write(path.with_suffix(".dcm"), noise()[:, :, 0], **elements)
        if syntax:
            if find_spec("pylibjpeg"):
                pytest.skip("pylibjpeg is installed")
            found = pydicom.dcmread(file)
            found.compress(test_dicom_files.RLELossless)
            found.file_meta.TransferSyntaxUID = syntax
            found.save_as(file)

    return write


def saved(path: Path, image: Content) -> None:
    """Arrays ``(H, W, 1)`` of 8 or 16 bits as PNG, ``(H, W, N)`` as TIFF, others as they are."""
    if callable(image):
        image(path)
    elif image.shape == (H, W, 1) and image.dtype in (np.uint8, np.uint16):
        Image.fromarray(image[:, :, 0]).save(path.with_suffix(".png"))
    elif image.shape[:2] == (H, W) and image.dtype != np.float64:
        write_tiff(path.with_suffix(".tif"), [image])
    else:
        np.save(path.with_suffix(".npy"), image)


CASES: dict[str, tuple[list[Content], str, type[Failure], str]] = {
    "files of other bands": ([noise(4), noise(5)], "--input.channels 4", DataError,
                             "images with different numbers of bands: "),
    "too few bands": ([noise(4)], "--input.channels 5", DataError,
                      "4 bands, where 5 are expected; --input.channels 4 takes all"),
    "a band that is not there": ([noise(4)], "--input.bands 1,6", DataError,
                                 "4 bands, and band 6 is expected"),
    "depths of 16 and 8 bits": ([noise(), noise(dtype="u1", high=200)], "", DataError,
                                "images of different depths: "),
    "depths of integers and floats": ([noise(), noise(dtype="f4")], "", DataError,
                                      "(integer) and "),
    "floats, of which no range is known": ([noise(dtype="f4")], "--input.value-range full",
                                           DataError, "floating-point"),
    "a range for files of 8 bits": ([noise(dtype="u1", high=200)], "--input.value-range 0,4095",
                                    DataError, "8-bit values, but the range of values is 0,4095"),
    "a range that is none": ([noise()], "--input.value-range 9,1", UsageError,
                             "LOW must be less than HIGH"),
    "no window": ([noise()], "--input.value-range window", DataError, "states no window"),
    "constant images": ([np.full((H, W, 1), 700, np.uint16)], "", DataError,
                        "the values of the training images are all 700"),
    "a constant band": ([constant(4, 2)], "--input.channels 4", DataError,
                        "band 3 has one value in all training images"),
    "nothing but nodata": ([np.full((H, W, 1), 700, np.uint16)], "--input.nodata 700", DataError,
                           "no pixel of the training images holds data"),
    "NaN": ([with_one(np.nan)], "", DataError, "1 of its pixels are NaN or infinite"),
    "infinity": ([with_one(np.inf)], "", DataError, "1 of its pixels are NaN or infinite"),
    "planes first": ([np.moveaxis(noise(5), 2, 0)], "--input.channels 5", DataError,
                     "looks like (bands, height, width); give (height, width, bands)"),
    "an array of another type": ([noise(dtype="f8")], "", DataError,
                                 "an array of float64; give uint8, uint16 or float32"),
    "a page of another size": ([pages_of_two_sizes], "--input.channels 2", DataError,
                               "its pages cannot be bands"),
    "a truncated file": ([truncated], "--input.channels 4", DataError, "0.tif: not an image"),
    "encrypted DICOM": ([dicom(EncryptedAttributesSequence=[], Rows=None)], "", DataError,
                        "its attributes are encrypted"),
    "DICOM without a codec": ([dicom("1.2.840.10008.1.2.4.70")], "", DataError,
                              "needs a codec; pip install"),
    "DICOM of frames": ([dicom(NumberOfFrames=7)], "", DataError, "a DICOM file of 7 frames"),
    "colors of four bands": ([noise(4)], "--input.channels 4 --augment.photometric", UsageError,
                             "--augment.photometric: "),
    "no such overlap": ([noise()], "--data.tile 64 --data.tile-overlap 1.0", UsageError,
                        "--data.tile-overlap: 1.0: must be 0 to 0.9"),
    "a tile of nothing": ([noise()], "--data.tile 31", UsageError,
                          "--data.tile: 31: must be 32 or more"),
    "no tiles": ([noise()], "--data.tile-empty 0.5", UsageError, "--data.tile-empty: is of tiles"),
    "tiles of an RPN": ([noise()], "--data.tile 64 --detector rpn", UsageError,
                        "--data.tile: is for whole"),
    "a box larger than a tile": ([noise()], "--data.tile 32", DataError,
                                 "--data.tile: 32: smaller than the largest box"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_trained_with_is_one_line(tmp_path: Path, monkeypatch, name: str, capsys):
    """With exit code 2 or 3."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, flags, kind, message = CASES[name]
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder / "train").mkdir(parents=True)
    for i, image in enumerate(images):
        saved(tmp_path / "data" / "images" / "train" / str(i), image)
        (tmp_path / "data" / "labels" / "train" / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.6\n")
    (tmp_path / "data" / "data.yaml").write_text("train: images/train\nnames: [thing]\n")
    said = refused(kind, tmp_path / "data", tmp_path / "run", "--steps", 1, "--val-split", "none",
                   *flags.split())  # fmt: skip
    assert kind.code in (2, 3) and message in said and "\n" not in said, said
    assert "Traceback" not in "".join(capsys.readouterr())
