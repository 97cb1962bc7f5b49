"""A stream of images in batches of equal padded size, and back in its order."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fasterrcnn import recipes
from fasterrcnn.data.frames import Frame
from fasterrcnn.data.sources import Source
from fasterrcnn.engine import prediction, runtime
from fasterrcnn.models import views
from fasterrcnn.models.boxes import Detections
from fasterrcnn.models.build import FasterRCNN, build
from fasterrcnn.models.views import Views

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()
SHAPES = {"wide": (100, 200), "tall": (200, 100), "none": None}


def stream(kinds: list[str]) -> Iterator[Frame]:
    for k, kind in enumerate(kinds):
        size = SHAPES[kind]
        image = "not an image" if size is None else torch.zeros(3, *size, dtype=torch.uint8)
        yield Frame(Source(f"{k}", f"{k}"), f"{k}", image)


def positions(kinds: list[str], size: int) -> list[list[int]]:
    return [[k for k, _ in batch] for batch in prediction.batches(stream(kinds), RECIPE, size)]


def test_images_of_equal_padded_size_share_a_batch():
    assert positions(["wide", "tall", "wide", "tall", "wide"], 2) == [[0, 2], [1, 3], [4]]
    assert positions(["wide"] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert positions(["wide", "none", "wide"], 2) == [[1], [0, 2]]
    assert positions([], 2) == []


def test_a_rare_shape_does_not_wait_for_ever():
    made = positions(["tall"] + ["wide"] * 99, 2)
    assert made.index([0]) < prediction._WINDOW + 1
    assert sorted(k for batch in made for k in batch) == list(range(100))


def test_large_images_do_not_wait_either(monkeypatch):
    monkeypatch.setattr(prediction, "_BYTES", 3 * 100 * 200 * 4)
    assert positions(["tall"] + ["wide"] * 9, 2).index([0]) == 2


def test_results_come_in_order_each_with_its_own_image():
    class Model:
        """Detects its image as a whole."""

        def transform(self, images: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(images)  # of one shape

        def features(self, batch: torch.Tensor) -> list[torch.Tensor]:
            return []

        def detect(self, batch: torch.Tensor, features: list[torch.Tensor]) -> Detections:
            n, _, height, width = batch.shape
            boxes = torch.tensor([0.0, 0.0, width, height]).expand(n, 1, 4)
            ones = torch.ones(n, 1)
            return Detections(boxes, ones, ones.long(), ones > 0)

    kinds = ["wide", "tall", "none", "wide", "wide", "tall", "wide"]
    rt = runtime.start("cpu")
    found = list(prediction.detect(Model(), stream(kinds), RECIPE, rt, 2))
    assert [frame.name for frame, _ in found] == [str(k) for k in range(7)]
    for kind, (frame, result) in zip(kinds, found, strict=True):
        if kind == "none":
            assert result is None
        else:
            height, width = frame.image.shape[1:]
            assert result["boxes"].tolist() == [[0, 0, width, height]]


def test_views_are_detected_in_too():
    torch.manual_seed(0)
    model = build(RECIPE, 4).eval()
    assert isinstance(model, FasterRCNN)
    model.roi_heads.score_thresh = 0.0
    image = torch.randint(256, (3, 100, 200), dtype=torch.uint8)
    frames = [Frame(Source("a", "a"), "a", image)]
    rt, also = runtime.start("cpu"), Views(slice=64, flip=True)
    ((_, plain),) = prediction.detect(model, frames, RECIPE, rt, 2)
    ((_, found),) = prediction.detect(model, frames, RECIPE, rt, 2, also)
    with torch.no_grad(), rt.precision("off"):
        crop, heads = views.crop_of(image), RECIPE.roi_heads
        expected = views.detect(model, image.shape[1:], crop, also, heads, 2, plain)
    assert all(found[key].equal(expected[key]) for key in expected)
    assert not found["scores"].equal(plain["scores"])
