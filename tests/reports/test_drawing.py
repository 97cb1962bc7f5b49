"""Pictures: boxes where they belong, labels that can be read, nothing where there is nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.reports import drawing
from fasterrcnn.reports.comparison import Comparison


def white(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 255, dtype=torch.uint8)


def count(picture: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == color).all(axis=2).sum())


def comparison(detections: list[tuple], missed: list[tuple], by_class: bool = True) -> Comparison:
    """Detections of (box, outcome), missed objects of (box, label)."""
    return Comparison(
        boxes=np.array([box for box, _ in detections], np.float64).reshape(-1, 4),
        scores=np.full(len(detections), 0.5),
        labels=np.ones(len(detections), np.int64),
        found=np.array([outcome == "found" for _, outcome in detections], bool),
        ignored=np.array([outcome == "ignored" for _, outcome in detections], bool),
        missed_boxes=np.array([box for box, _ in missed], np.float64).reshape(-1, 4),
        missed_labels=np.array([label for _, label in missed], np.int64),
        by_class=by_class,
    )


def test_a_box_is_drawn_in_its_place():
    image = white(600, 640)
    boxes = torch.tensor([[100.0, 200.0, 400.0, 500.0]])
    picture = drawing.draw(image, boxes, torch.tensor([2]), ("a", "b"), torch.tensor([0.5]))
    assert picture.size == (640, 600)
    for pixel in ((100, 350), (397, 350), (399, 350), (250, 200), (250, 499)):
        assert picture.getpixel(pixel) == drawing.PALETTE[1]
    for pixel in ((95, 350), (401, 350), (250, 504), (250, 350), (10, 10)):
        assert picture.getpixel(pixel) == (255, 255, 255)
    assert picture.getpixel((103, 190)) == drawing.PALETTE[1], "label above it"
    assert (image == 255).all()
    small = drawing.draw(image, torch.tensor([[100.0, 100, 110, 110]]), torch.ones(1), ("",))
    assert small.getpixel((100, 105)) == drawing.PALETTE[0]
    assert small.getpixel((102, 105)) == (255, 255, 255), "a thin line, the object is seen"


def test_small_images_are_enlarged_by_a_whole_factor_and_boxes_with_them():
    image = torch.arange(3 * 100 * 160).view(3, 100, 160).to(torch.uint8)
    nothing = torch.zeros(0, 4), torch.zeros(0), ("a",)
    picture = np.asarray(drawing.draw(image, *nothing))
    assert picture.shape == (400, 640, 3)
    assert (picture[::4, ::4] == image.permute(1, 2, 0).numpy()).all()
    assert (picture[3::4, 3::4] == picture[::4, ::4]).all()
    boxed = drawing.draw(white(100, 160), torch.tensor([[40.0, 50, 90, 80]]), torch.ones(1), ("",))
    assert boxed.getpixel((160, 260)) == boxed.getpixel((359, 260)) == drawing.PALETTE[0]
    assert drawing.draw(white(427, 640), *nothing).size == (640, 427)
    assert drawing.draw(white(10, 1200), *nothing).size == (1200, 10)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 12000), (12000, 1), (2500, 12000), (3, 700)])
def test_any_size_with_boxes_in_it_and_around_it(height: int, width: int):
    boxes = torch.tensor([[0.0, 0, 1, 1], [-5, -5, 2e4, 2e4], [0.2, 0.2, 0.2, 0.2]])
    labels, scores = torch.tensor([1, 1, 1]), torch.tensor([0.9, 0.8, 0.7])
    picture = drawing.draw(white(height, width), boxes, labels, ("person",), scores)
    factor = max(1, round(640 / max(height, width)))
    assert picture.width >= factor * width
    assert picture.height >= factor * height
    assert count(picture.crop((0, 0, factor * width, factor * height)), drawing.PALETTE[0])
    drawing.draw_proposals(white(height, width), boxes, scores)
    seen = comparison([(box, "found") for box in boxes.tolist()], [([0, 0, 1, 1], 1)])
    drawing.draw_comparison(white(height, width), seen, ("person",))


def test_text_contrasts_with_every_background():
    def luminance(color: tuple[int, int, int]) -> float:
        linear = [
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in color
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in [*drawing.PALETTE, *itertools.product(range(0, 256, 51), repeat=3)]:
        low, high = sorted((luminance(color), luminance(drawing.text_color(color))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, color
    assert drawing.text_color((255, 255, 0)) == (0, 0, 0)
    assert drawing.text_color((0, 0, 255)) == (255, 255, 255)


def test_a_class_keeps_its_color():
    assert len(set(drawing.PALETTE)) == len(drawing.PALETTE)
    box, names = torch.tensor([[100.0, 100.0, 300.0, 300.0]]), tuple("abcdefghijklmnop")
    for label in (3, 3 + len(drawing.PALETTE)):
        picture = drawing.draw(white(640, 640), box, torch.tensor([label]), names)
        assert picture.getpixel((100, 200)) == drawing.PALETTE[2]


def test_labels_of_equal_boxes_are_all_there():
    box = [200.0, 200.0, 300.0, 300.0]
    labels = torch.tensor([1, 2, 3])
    picture = drawing.draw(white(640, 640), torch.tensor([box] * 3), labels, ("one", "two", "six"))
    for label in (0, 1, 2):  # of the boxes only the first is seen, of the labels each
        assert count(picture, drawing.PALETTE[label]) > 300


def test_where_labels_have_no_room_a_line_counts_the_classes():
    boxes, labels = torch.tensor([[2.0, 2, 9, 9]] * 9), torch.tensor([1, 2, 2, 3, 4, 5, 6, 7, 8])
    names = tuple("abcdefgh")
    crowd = drawing.draw(white(20, 640), boxes, labels, names, torch.ones(9))
    bar = crowd.crop((0, 20, crowd.width, crowd.height))
    assert bar.height > 20
    for label in range(1, 7):  # the six most frequent; the seventh and eighth are "2 more"
        assert count(bar, drawing.PALETTE[label - 1]) > 20
    assert count(bar, drawing.PALETTE[6]) == count(bar, drawing.PALETTE[7]) == 0
    alone = drawing.draw(white(640, 640), boxes[:1], labels[:1], names)
    assert alone.size == (640, 640), "its label says it"


def test_ground_truth_is_dashed_in_the_color_of_its_class():
    boxes, labels = torch.tensor([[50.0, 100, 250, 400]]), torch.tensor([2])
    truth = {"boxes": torch.tensor([[350.0, 100, 550, 400]]), "labels": torch.tensor([2])}
    picture = drawing.draw(white(640, 640), boxes, labels, ("a", "b"), torch.ones(1), truth)
    sides = [{picture.getpixel((x, y)) for y in range(110, 390)} for x in (50, 350)]
    assert sides[0] == {drawing.PALETTE[1]}
    assert len(sides[1]) == 2 and drawing.PALETTE[1] in sides[1]
    assert picture.height > 640, "a line says what is dashed"
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert drawing.draw(white(640, 640), boxes, labels, ("a", "b"), truth=nothing).height > 640


def test_found_missed_and_false_differ_and_only_missed_are_dashed():
    found, missed, false = [50, 100, 150, 200], [250, 100, 350, 200], [450, 100, 550, 200]
    seen = comparison([(found, "found"), (false, "false")], [(missed, 2)])
    picture = drawing.draw_comparison(white(600, 640), seen, ("a", "b"))

    def left_side(box: list[int]) -> set[tuple[int, int, int]]:
        return {picture.getpixel((box[0], y)) for y in range(box[1] + 5, box[3] - 5)}

    assert left_side(found) == {drawing.FOUND}
    assert left_side(false) == {drawing.FALSE}
    assert left_side(missed) == {drawing.MISSED, (0, 0, 0)}


def test_the_line_below_counts():
    """Its boxes are there even where the picture has none of their kind."""
    nothing = drawing.draw_comparison(white(600, 640), comparison([], []), ("a",))
    assert nothing.width == 640 and nothing.height > 620
    bar = nothing.crop((0, 600, 640, nothing.height))
    for color in (drawing.FOUND, drawing.MISSED, drawing.FALSE):
        assert count(bar, color) > 20
        assert count(nothing, color) == count(bar, color)
    assert count(bar, drawing.IGNORED) < 20
    crowd = comparison([([10, 10, 90, 90], "ignored")], [])
    picture = drawing.draw_comparison(white(600, 640), crowd, ("a",))
    assert count(picture.crop((0, 600, 640, picture.height)), drawing.IGNORED) > 20
    assert picture.getpixel((10, 50)) == drawing.IGNORED
    narrow = drawing.draw_comparison(white(640, 20), comparison([], []), ("a",))
    assert narrow.width > 200, "as wide as its line"


def test_of_proposals_only_those_are_drawn_that_found_something():
    detections = [([100, 100, 300, 300], "found"), ([400, 400, 500, 500], "false")]
    detections.append(([500, 100, 600, 200], "ignored"))
    seen = comparison(detections, [([100, 400, 200, 500], 1)], by_class=False)
    picture = drawing.draw_comparison(white(640, 640), seen, ("a",))
    assert picture.getpixel((100, 200)) == drawing.FOUND
    assert count(picture.crop((0, 0, 640, 640)), drawing.MISSED) > 300
    assert count(picture, drawing.FALSE) == 0
    assert count(picture, drawing.IGNORED) < 20


def test_proposals_are_bright_when_good():
    boxes = torch.tensor([[50.0, 50, 150, 150], [250, 50, 350, 150], [450, 50, 550, 150]])
    picture = drawing.draw_proposals(white(640, 640), boxes, torch.tensor([0.9, 0.8, 0.1]))
    assert picture.getpixel((50, 100)) == (253, 231, 37)
    assert picture.getpixel((250, 100)) == (33, 145, 140)
    assert picture.getpixel((450, 100)) == (68, 1, 84)
    over = drawing.draw_proposals(white(640, 640), boxes[:1].repeat(2, 1), torch.ones(2))
    assert over.getpixel((50, 100)) == (253, 231, 37), "the best is on top"
    drawing.draw_proposals(white(640, 640), torch.zeros(0, 4), torch.zeros(0))
    drawing.draw_proposals(white(640, 640), boxes[:1], torch.ones(1))
