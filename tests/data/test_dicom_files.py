"""DICOM files: values, windows and kinds that are read; others refused; nothing of a patient."""

from __future__ import annotations

import builtins
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data import channels, image_check, image_files, images
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.pixel_values import BYTE, INTEGER
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import AS_STORED, DRAWN, PixelFormat
from fasterrcnn.recipes import Input
from tests.faults import hostile_images
from tests.faults.places import Place

pydicom = pytest.importorskip("pydicom", reason="needs pydicom (the extra dicom)")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    MPEG2MPML,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

RANDOM = np.random.default_rng(0)
H, W = 20, 30
SECRETS = {
    "PatientName": "Doe^Jane", "PatientID": "MRN-4711", "PatientBirthDate": "19610203",
    "StudyDate": "20240506", "AccessionNumber": "ACC-0815", "InstitutionName": "St. Elsewhere",
    "ReferringPhysicianName": "House^Gregory", "StudyInstanceUID": "1.2.3.4.5.6789",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, array: np.ndarray, **elements: object) -> Path:
    """A file of an array ``(H, W)`` or ``(H, W, 3)``; an element that is None is left out."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    bits = array.itemsize * 8
    stated: dict[str, object] = {
        **SECRETS,
        "Rows": array.shape[0], "Columns": array.shape[1],
        "SamplesPerPixel": 3 if array.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if array.ndim == 3 else "MONOCHROME2",
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
        "PixelData": array.tobytes(),
    }  # fmt: skip
    if array.ndim == 3:
        stated["PlanarConfiguration"] = 0
    for name, value in (stated | elements).items():
        if value is not None:
            setattr(found, name, value)
    found.save_as(path, enforce_file_format=True)
    return path


def decode(path: Path, wanted: PixelFormat = AS_STORED) -> np.ndarray:
    return (
        images.decode(path, apply_orientation=False, pixel_format=wanted).permute(1, 2, 0).numpy()
    )


def refused(path: Path) -> str:
    """What is said of a file whose header or pixels cannot be used."""
    (verdict,) = image_check.read_headers([path])
    if not verdict.fault:
        with pytest.raises(ValueError) as error:
            decode(path)
        return str(error.value)
    return verdict.fault


def values(kind: str = "i2", low: int = -1000, high: int = 2000) -> np.ndarray:
    return RANDOM.integers(low, high, (H, W)).astype(kind)


def split(folder: Path, *paths: Path) -> Annotations:
    builder = Builder(folder, Problems(), lambda where: (where, ""))
    for path in paths:
        builder.add_image(path.name, path.name, (H, W), "images.json", path.name)
    return builder.build(Classes.of(["thing"]))


@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (1, -1024), (0.25, 3)])
@pytest.mark.parametrize("kind", ["u2", "i2"])
def test_values_are_rescaled(tmp_path: Path, kind: str, slope: float, intercept: float):
    array = values(kind, 0)
    path = write(tmp_path / "x.dcm", array, RescaleSlope=slope, RescaleIntercept=intercept)
    assert images.inspect(path).header[:6] == (H, W, 1, INTEGER, 1, 0)
    expected = array * float(slope or 1) + float(intercept or 0)
    assert np.array_equal(decode(path)[:, :, 0], expected)
    assert np.array_equal(decode(path, PixelFormat(None))[:, :, 2], expected)  # as RGB


def test_eight_bits_gray_and_color(tmp_path: Path):
    for shape, bands in (((H, W), 1), ((H, W, 3), 3)):
        array = RANDOM.integers(0, 255, shape).astype(np.uint8)
        path = write(tmp_path / "x.dcm", array)
        assert images.inspect(path).header[3:5] == (BYTE, bands)
        assert np.array_equal(decode(path).squeeze(), array) and decode(path).dtype == np.uint8


def test_monochrome1_is_inverted(tmp_path: Path):
    array = RANDOM.integers(0, 4096, (H, W)).astype(np.uint16)
    about = dict(BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-100,
                 WindowCenter=400.5, WindowWidth=101)  # fmt: skip
    one = write(tmp_path / "1.dcm", array, PhotometricInterpretation="MONOCHROME1", **about)
    assert np.array_equal(decode(one)[:, :, 0], (4095 - array) * 2.0 - 100)
    assert images.inspect(one).header.window == "7540,7640"  # 350 to 450, of -100 to 8090
    bytes_ = array.astype(np.uint8)
    path = write(tmp_path / "2.dcm", bytes_, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(path)[:, :, 0], 255 - bytes_)


def test_the_window_of_the_file_is_taken_where_asked_for(tmp_path: Path):
    array = values()
    for function, window in ((None, "-160,239"), ("LINEAR_EXACT", "-160,240")):
        path = write(tmp_path / "x.dcm", array, WindowCenter=[40, 600], WindowWidth=[400, 9],
                     VOILUTFunction=function)  # fmt: skip
        assert images.inspect(path).header.window == window
        low, high = map(float, window.split(","))
        expected = np.clip((array - low) * 255 / (high - low), -255, 510)
        assert decode(path, PixelFormat("window", 1))[:, :, 0] == pytest.approx(expected, abs=1e-3)
    plain = write(tmp_path / "plain.dcm", array)
    data = split(tmp_path, path, plain)
    with pytest.raises(DataError, match=r"/plain\.dcm: states no window; give --input.value-range"):
        channels.of_run(data, Input(value_range="window"))
    with pytest.raises(ValueError, match="states no window"):
        decode(plain, PixelFormat("window", 1))
    assert channels.of_run(split(tmp_path, path), Input(value_range="window"))


def test_by_default_the_range_of_the_data_set_is_measured(tmp_path: Path):
    arrays = [values(), values()]
    data = split(tmp_path, *(write(tmp_path / f"{k}.dcm", a, RescaleIntercept=-24)
                             for k, a in enumerate(arrays)))  # fmt: skip
    found, (line, _) = channels.resolve([data], Input(channels=1, image_mean=(), image_std=()))
    expected = np.percentile(np.stack(arrays) - 24.0, [0.1, 99.9])
    assert [*map(float, found.value_range.split(","))] == pytest.approx(expected, rel=1e-5)
    assert "2 training images" in line


def test_compressed_files(tmp_path: Path):
    array = values("u2", 0)
    whole = pydicom.dcmread(write(tmp_path / "x.dcm", array))
    whole.compress(RLELossless)
    whole.save_as(tmp_path / "rle.dcm")
    assert np.array_equal(decode(tmp_path / "rle.dcm")[:, :, 0], array)
    for syntax, phrase in (
        (JPEGLosslessSV1, "a DICOM file of JPEG Lossless, .*: needs a codec; pip install "
         "pylibjpeg pylibjpeg-libjpeg$"),
        (MPEG2MPML, "a DICOM file of MPEG2 Main Profile / Main Level, which is not read; decomp"),
    ):  # fmt: skip
        whole.file_meta.TransferSyntaxUID = syntax
        whole.save_as(tmp_path / "other.dcm")
        assert re.match(phrase, refused(tmp_path / "other.dcm"))


def test_a_codec_that_decodes_some_files_only(tmp_path: Path):
    """JPEG of 12 bits, which Pillow does not decode."""
    (path,) = Path(pydicom.__file__).parent.rglob("JPGExtended.dcm")
    if "libjpeg" not in refused(path):
        pytest.skip("pylibjpeg is installed")
    assert re.search("JPEG Extended .*; pip install pylibjpeg pylibjpeg-libjpeg$", refused(path))


@pytest.mark.parametrize(("elements", "phrase"), [
    (dict(NumberOfFrames=7), "a DICOM file of 7 frames; write each to a file of its own"),
    (dict(Rows=None), "a DICOM file without an image"),
    (dict(PixelData=None), "without pixels"),
    (dict(PixelData=b"\0" * 100), "a damaged DICOM file: ValueError"),
    (dict(PhotometricInterpretation="PALETTE COLOR"), "of PALETTE COLOR, 16 bits; read are"),
    (dict(BitsAllocated=1), "a DICOM file of MONOCHROME2, 1 bits"),
    (dict(EncryptedAttributesSequence=[Dataset()], Rows=None), "(its attributes are encrypted)"),
    (dict(ModalityLUTSequence=[Dataset()]), "in a table (Modality LUT)"),
])  # fmt: skip
def test_what_is_not_read_is_said_in_a_phrase(tmp_path: Path, elements: dict, phrase: str):
    said = refused(write(tmp_path / "x.dcm", values(), **elements))
    assert phrase in said and "\n" not in said


def test_a_text_file_and_damaged_ones(tmp_path: Path):
    path = tmp_path / "x.dcm"
    path.write_text("Patient: Doe, Jane\n" * 20)
    assert refused(path) == "not an image"
    whole = write(path, values()).read_bytes()
    for end in (133, 200, 300, 700, len(whole) - 50):
        path.write_bytes(whole[:end])
        assert "DICOM" in (said := refused(path)), said


def test_nothing_of_a_patient_leaves_the_file(tmp_path: Path, capfd, recwarn):
    """Also where its elements are damaged, of which pydicom's warnings and errors quote some."""
    warnings.simplefilter("always")
    whole = write(tmp_path / "x.dcm", values()).read_bytes()
    said = [str(images.inspect(tmp_path / "x.dcm"))]
    for k in range(132, len(whole) - H * W * 2, 5):
        (tmp_path / "y.dcm").write_bytes(whole[:k] + b"\xff\x41" + whole[k + 2 :])
        said.append(str(images.inspect(tmp_path / "y.dcm")))
        try:
            decode(tmp_path / "y.dcm")
        except ValueError as error:
            said.append(str(error))
    said += [str(warning.message) for warning in recwarn] + [*capfd.readouterr()]
    text = "\n".join(said)
    for secret in SECRETS.values():
        for part in secret.split("^"):
            assert part not in text


def test_files_without_a_suffix_are_found_by_their_magic(tmp_path: Path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "IM0001", values())
    write(tmp_path / "a" / "b.dcm", values())
    (tmp_path / "a" / "README").write_text("x" * 200)
    (tmp_path / "a" / "LICENSE").write_text("")
    assert image_files.images_in(tmp_path) == ["a/IM0001", "a/b.dcm"]
    (tmp_path / "a" / "b.dcm").unlink()
    assert image_files.holds_image(tmp_path)


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch):
    path = write(tmp_path / "x.dcm", values())

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "pydicom":
            raise ModuleNotFoundError(name)
        return before(name, *args, **kwargs)

    before = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    verdict = images.inspect(path)
    assert "needs pydicom; pip install pydicom (the extra dicom" in verdict.fault
    assert verdict.seen == images.Seen.NOTHING  # not kept


def test_it_is_drawn(tmp_path: Path):
    pixels = images.decode(
        write(tmp_path / "x.dcm", values()), apply_orientation=True, pixel_format=DRAWN
    )
    assert pixels.shape == (1, H, W) and pixels.dtype == torch.float32


def test_a_file_that_inflates_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """pydicom inflates all of it at once."""
    (tmp_path / "given").mkdir()
    monkeypatch.setattr(hostile_images, "_MUCH", 8 << 20)
    path = hostile_images.dicom_deflate_bomb(Place(tmp_path, tmp_path))
    assert isinstance(images.inspect(path).header, images.Header)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    assert "GiB of pixels" in str(images.inspect(path).header)
