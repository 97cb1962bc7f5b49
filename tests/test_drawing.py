"""Pictures: boxes where they belong, nothing where there are none."""

import torch

from fasterrcnn import drawing


def test_a_box_is_drawn_in_its_place():
    image = torch.full((3, 100, 120), 255, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 40.0, 90.0, 80.0]])
    picture = drawing.draw(image, boxes, torch.tensor([2]), ("a", "b"), torch.tensor([0.5]))
    assert picture.size == (120, 100)
    assert picture.getpixel((90, 60)) != (255, 255, 255)
    assert picture.getpixel((55, 80)) != (255, 255, 255)
    assert picture.getpixel((10, 10)) == (255, 255, 255)
    assert (image == 255).all()


def test_no_boxes():
    image = torch.zeros(3, 10, 12, dtype=torch.uint8)
    picture = drawing.draw(image, torch.zeros(0, 4), torch.zeros(0), ("a",))
    assert picture.getcolors() == [(120, (0, 0, 0))]


def test_beside_and_enlarge():
    image, boxes = drawing.enlarge(
        torch.arange(12, dtype=torch.uint8).view(3, 2, 2), torch.ones(1, 4), 7
    )
    assert image.shape == (3, 8, 8)
    assert image[0, 0, :5].tolist() == [0, 0, 0, 0, 1]
    assert boxes.tolist() == [[4, 4, 4, 4]]
    one = drawing.draw(image, torch.zeros(0, 4), torch.zeros(0), ())
    both = drawing.beside(one, one, ("left", "right"))
    assert both.size == (20, 22)
