"""What is taken for an image, and what is refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.api import inputs
from fasterrcnn.data import images
from fasterrcnn.errors import UsageError
from fasterrcnn.pixel_format import PixelFormat

RGB = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)


def pixels(image) -> torch.Tensor:
    found = inputs.read(image, 1, PixelFormat("full")).image
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.uint8
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_of_an_8_bit_image_give_it_back(dtype: torch.dtype):
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1)
    assert pixels(every.to(dtype) / 255).equal(every)
    for error in (1 - 1e-6, 1 + 1e-6):  # of other arithmetic
        assert pixels((every.to(dtype) / 255 * error).clamp(max=1)).equal(every)


def test_a_read_only_array_is_taken_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.set_warn_always(True)  # torch warns once in a process
        try:
            assert pixels(np.asarray(Image.fromarray(RGB))).equal(TENSOR)
        finally:
            torch.set_warn_always(False)


def test_arrays_and_tensors_are_taken_as_they_are():
    assert pixels(RGB).equal(TENSOR)
    assert pixels(RGB[::-1]).equal(TENSOR.flip(1))
    assert pixels(TENSOR).equal(TENSOR) and pixels(TENSOR).data_ptr() == TENSOR.data_ptr()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_and_its_file_are_the_same(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        assert pixels(image).equal(
            images.decode(path, apply_orientation=True, pixel_format=PixelFormat("full"))
        )
    assert pixels(path).equal(pixels(str(path)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1", "I;16"])
def test_modes_of_pil_images_are_those_of_files(tmp_path: Path, mode: str):
    image = Image.fromarray(RGB[..., 0].astype(np.uint16) * 200) if mode == "I;16" else (
        Image.fromarray(RGB).convert(mode)
    )  # fmt: skip
    path = tmp_path / "x.tif"
    image.save(path)
    assert pixels(image).equal(
        images.decode(path, apply_orientation=True, pixel_format=PixelFormat("full"))
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, r"an array of float64; give uint8 \(H, W, 3\), 0 to 255, in RGB"),
        (RGB[..., 0], r"an array of shape \(40, 60\); give uint8 \(H, W, 3\)"),
        (RGB.transpose(2, 0, 1), r"an array of shape \(3, 40, 60\)"),
        (RGB[None], r"an array of shape \(1, 40, 60, 3\)"),
        (RGB[:0], r"an array of shape \(0, 60, 3\)"),
        (TENSOR[None], r"a tensor of shape \(1, 3, 40, 60\); give \(3, H, W\) in RGB"),
        (TENSOR.permute(1, 2, 0), r"a tensor of shape \(40, 60, 3\)"),
        (TENSOR[:, :0], r"a tensor of shape \(3, 0, 60\)"),
        (TENSOR.int(), r"a tensor of torch.int32; give torch.uint8, or torch.float32 in 0..1"),
        (TENSOR.bfloat16() / 255, r"a tensor of torch.bfloat16"),
        (TENSOR.float(), "a float tensor with values from 0 to 255; floats must be in 0..1"),
        (TENSOR.float() / 255 - 0.5, "a float tensor with values from -0.5 to 0.5"),
        (torch.full((3, 4, 5), torch.nan), "a float tensor with values from nan to nan"),
        (Image.fromarray(RGB[..., 0] / np.float32(255)), "floating-point pixels have no known"),
        (None, "NoneType: not an image; give a path"),
    ],
)
def test_what_is_refused(image, message: str):
    with pytest.raises(UsageError, match=f"^image 7: {message}"):
        inputs.read(image, 7, PixelFormat("full"))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_an_array_of_more_bits_is_as_its_file(tmp_path: Path, kind: type):
    stored = (1500 + 4 * RGB[..., 0].astype(np.uint16)).astype(kind)
    path = tmp_path / "x.tif"
    Image.fromarray(stored).save(path)
    array = np.repeat(stored[..., None], 3, axis=2)
    for value_range in ("1600,2400", "image"):
        found = inputs.read(array, 1, PixelFormat(value_range)).image
        assert found.dtype == torch.float32
        assert found.equal(
            images.decode(path, apply_orientation=True, pixel_format=PixelFormat(value_range))
        )
    with pytest.raises(UsageError, match="image 1: 8-bit values, but the range"):
        inputs.read(RGB, 1, PixelFormat("1600,2400"))


def test_nan_in_an_array_is_named():
    array = np.ones((4, 5, 3), np.float32)
    array[0, 0] = np.nan
    with pytest.raises(UsageError, match="image 1: 1 of its pixels are NaN or infinite"):
        inputs.read(array, 1, PixelFormat("0,1"))
