"""Tiles, mirrored and scaled images: what is looked at, and how what is found there is merged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasterrcnn import recipes, tile_grid
from fasterrcnn.models import views
from fasterrcnn.models.build import FasterRCNN, build
from fasterrcnn.models.views import Views

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()
NOTHING = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.long),
    "scores": torch.zeros(0),
}


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    torch.manual_seed(0)
    model = build(RECIPE, 4).eval()
    assert isinstance(model, FasterRCNN)
    model.roi_heads.score_thresh = 0.0  # an untrained model finds little
    return model


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(256, (3, 120, 200), dtype=torch.uint8)


@torch.no_grad()
def seen(model: FasterRCNN, image: torch.Tensor, also: Views, found=NOTHING, size: int = 2):
    crop, heads = views.crop_of(image), model.roi_heads.config
    return views.detect(model, image.shape[1:], crop, also, heads, size, found)


def same(a, b) -> bool:
    """Whether the same is detected, up to the order of equal scores."""
    return all(a[key].allclose(b[key], atol=1e-4) for key in ("boxes", "labels", "scores"))


@pytest.mark.parametrize("size", [(1000, 1500), (640, 641), (100, 3000), (700, 500)])
@pytest.mark.parametrize("shared", [0, 128, 320])
def test_what_is_no_larger_than_what_tiles_share_is_whole_in_some_tile(size, shared: int):
    height, width = size
    tiles = tile_grid.tiles(height, width, 640, shared)
    assert len(set(tiles)) == len(tiles)
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(640, width), min(640, height))
        assert min(x1, y1) >= 0
        assert x2 <= width
        assert y2 <= height
    for length, pairs in ((width, {(t[0], t[2]) for t in tiles}),
                          (height, {(t[1], t[3]) for t in tiles})):  # fmt: skip
        side = max(1, shared)
        for start in range(length - side + 1):
            assert any(a <= start and start + side <= b for a, b in pairs)


def test_the_number_of_views():
    assert len(Views(slice=640).of(3000, 4000)) == 1 + 6 * 8
    assert len(Views(slice=640, whole=False).of(3000, 4000)) == 6 * 8
    for whole in (True, False):
        assert [view.part for view in Views(640, whole=whole).of(640, 500)] == [(0, 0, 500, 640)]
    assert len(Views(flip=True).of(100, 100)) == 2
    assert len(Views(flip=True, scales=(0.5, 2.0)).of(100, 100)) == 6
    assert len(Views(slice=50, overlap=0.0, flip=True).of(100, 100)) == 2 * 5


def test_a_mirrored_image_gives_the_boxes_mirrored_back(model, image):
    with torch.no_grad():
        (mirrored,) = model([image.flip(-1)])
    x1, y1, x2, y2 = mirrored["boxes"].unbind(1)
    expected = {**mirrored, "boxes": torch.stack([200 - x2, y1, 200 - x1, y2], dim=1)}
    assert len(expected["scores"]) > 10
    assert same(seen(model, image, Views(flip=True)), expected)


def test_a_scale_is_that_of_the_recipe_times_it(model, image):
    other = build(RECIPE, 4).eval()
    other.load_state_dict(model.state_dict())
    other.roi_heads.score_thresh = 0.0
    other.transform.config = replace(RECIPE.input, min_size=96, max_size=120)
    with torch.no_grad():
        (expected,) = other([image])
        (plain,) = model([image])
    assert not same(plain, expected)
    assert same(seen(model, image, Views(scales=(0.75,))), expected)


def test_a_tile_gives_its_detections_in_pixels_of_the_image(model, image):
    found = seen(model, image, Views(slice=120, overlap=0.0), size=1)
    assert tile_grid.tiles(120, 200, 120, 0) == [(0, 0, 120, 120), (80, 0, 200, 120)]
    with torch.no_grad():
        left, right = (model([tile])[0] for tile in (image[:, :, :120], image[:, :, 80:]))
    everything = torch.cat([left["boxes"], right["boxes"] + torch.tensor([80, 0, 80, 0])])
    assert {tuple(box) for box in found["boxes"].tolist()} <= {
        tuple(box) for box in everything.tolist()
    }
    assert found["boxes"][:, 0].min() < 80 < 120 < found["boxes"][:, 2].max()


@pytest.mark.parametrize("flip", [False, True])
def test_a_part_that_the_next_tile_has_more_of_is_left_out(flip: bool):
    """A tile from 100 to 200 in an image of 300 x 100, of which it shares 30 px with neighbors."""
    box = {
        (0, 40, 30, 60): False,  # cut by the left edge, whole behind it
        (70, 40, 100, 60): False,  # by the right one
        (0, 40, 31, 60): True,  # the tile on the left has less of it
        (69, 40, 100, 60): True,
        (2, 40, 30, 60): True,  # not cut
        (50, 0, 60, 20): True,  # cut by edges of the image
        (50, 80, 60, 100): True,
        (0, 0, 100, 100): True,  # larger than a tile
    }
    boxes = torch.tensor([*box], dtype=torch.float32)
    given = torch.stack(
        [100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], dim=1
    ) if flip else boxes  # fmt: skip
    count = torch.arange(len(box))
    found = {"boxes": given, "labels": count, "scores": count / 10}
    kept = views.in_image(views.View(1.0, (100, 0, 200, 100), flip), found, (100, 300), 30)
    expected = [k for k, whole in enumerate(box.values()) if whole]
    assert kept["labels"].tolist() == expected
    assert kept["boxes"].tolist() == (boxes[expected] + torch.tensor([100, 0, 100, 0])).tolist()


def test_what_is_found_twice_is_kept_once_with_the_higher_score(model, image):
    box = torch.tensor([[10.0, 10, 30, 30], [100, 50, 140, 90], [11, 10, 30, 30]])
    found = {
        "boxes": box,
        "labels": torch.tensor([1, 1, 2]),
        "scores": torch.tensor([2.0, 1.5, 1.2]),  # above all that the model says
    }
    again = {key: torch.cat([value, value]) for key, value in found.items()}
    merged = seen(model, image, Views(flip=True), again)
    assert merged["boxes"][:3].equal(box)
    assert merged["labels"][:3].tolist() == [1, 1, 2]
    assert (merged["scores"][3:] < 1).all()
    assert len(merged["scores"]) <= RECIPE.roi_heads.detections_per_img
    assert merged["scores"].equal(merged["scores"].sort(descending=True).values)


def test_memory_is_bounded_by_the_size_of_a_batch(model, image):
    shapes = []
    hook = model.backbone.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))
    seen(model, image, Views(slice=50, flip=True), size=3)
    hook.remove()
    assert max(shape[0] for shape in shapes) == 3
    expected = len(Views(slice=50, flip=True).of(120, 200))
    assert sum(shape[0] for shape in shapes) == expected - 1  # the whole image is known
