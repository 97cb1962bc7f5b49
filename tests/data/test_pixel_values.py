"""Values of more than 8 bits on the scale of 8-bit ones."""

import numpy as np
import pytest
import torch

from fasterrcnn.data import pixel_values
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER, scaled

RAMP = torch.arange(1500, 2500, dtype=torch.float32).reshape(20, 50, 1).expand(-1, -1, 3)


def test_bytes_are_the_same_object_in_any_range_but_one_of_numbers():
    pixels = torch.arange(60, dtype=torch.uint8).reshape(4, 5, 3)
    assert all(scaled(pixels, BYTE, name) is pixels for name in ("dataset", "image", "full"))
    with pytest.raises(ValueError, match=r"^8-bit values, but the range of values is 1,2$"):
        scaled(pixels, BYTE, "1,2")


def test_no_value_is_rounded_to_another():
    found = scaled(RAMP, INTEGER, "1755,2265")
    assert found.unique().numel() == 1000
    assert (found[5, 5, 0], found.min(), found.max()) == (0, -127.5, 117 + 255)


def test_a_value_far_outside_stays_near():
    dead = RAMP.clone()
    dead[0, 0], dead[0, 1] = 65535, 0
    found = scaled(dead, INTEGER, "1500,2500")
    assert (found.min(), found.max()) == (-255, 510)


@pytest.mark.parametrize(("offset", "factor", "depth"), [(0, 1, INTEGER), (-40, 0.01, FLOAT)])
def test_percentiles_of_the_image_do_not_depend_on_unit(offset: float, factor: float, depth: int):
    found = scaled(RAMP * factor + offset, depth, "image")
    low, high = np.percentile(found, pixel_values.PERCENTILES)
    assert abs(low) < 0.01 and abs(high - 255) < 0.01


def test_a_constant_image_is_zero():
    assert not scaled(torch.full((4, 5, 3), 700.0), INTEGER, "image").any()


def test_a_sample_is_a_regular_grid():
    large = torch.arange(400 * 600, dtype=torch.float32).reshape(400, 600, 1)
    found = pixel_values.sample(large, 6000)
    assert len(found) == pytest.approx(6000, rel=0.2)
    assert np.diff(np.unique(found % 600)).tolist() == [6.0] * 99


def test_to_be_drawn():
    values = torch.tensor([-3.0, 0.6, 254.4, 300.0])[None, None]
    drawn = pixel_values.displayable(values)
    assert drawn.tolist() == [[[0, 1, 254, 255]]] * 3
    assert pixel_values.displayable(torch.cat([values] * 2)).equal(drawn)  # gray: the first
    assert pixel_values.displayable(torch.cat([values] * 3 + [values * 0])).equal(drawn)
