"""Augmentation: boxes follow pixels, shapes stay those planned, equal keys give equal bits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from fasterrcnn import recipes, seeds
from fasterrcnn.data import augment, formats, loader
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.image_sizes import buckets, planned_shape, training_sizes
from fasterrcnn.models.build import build
from fasterrcnn.models.transform import PaddedImages, Transform
from fasterrcnn.recipes import Recipe

KEYS = [seeds.key(0, "augment", 0, str(i)) for i in range(40)]
SIZES = [(120, 160), (160, 120), (100, 100), (90, 240)]
GEOMETRIC = {
    "zoom-out": dict(zoom_out=True),
    "IoU crop": dict(iou_crop=True),
    "jitter": dict(jitter=True, jitter_size=160),
    "zoom-out and IoU crop": dict(zoom_out=True, iou_crop=True),
    "all": dict(zoom_out=True, iou_crop=True, jitter=True, jitter_size=160),
}
EVERY = dict(GEOMETRIC["all"], photometric=True)
# Two rectangles on black: label 1 is green, label 2 blue; neither is the color of a filled border.
BOXES = np.array([[20, 30, 60, 80], [70, 10, 110, 60]], np.float32)
COLORS = {1: (0, 255, 0), 2: (0, 0, 255)}


def recipe(sizes: dict | None = None, **fields: object) -> Recipe:
    sizes = {"min_size": 128, "max_size": 213, **(sizes or {})}
    return recipes.change(recipes.fasterrcnn_r10_fpn_shapes(), input=sizes, augment=fields)


def augmentation(**fields: object) -> augment.Augmentation:
    found = augment.of(recipe(**fields))
    assert found is not None
    return found


def drawn(height: int, width: int) -> torch.Tensor:
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    for (x1, y1, x2, y2), color in zip(BOXES.astype(int), COLORS.values(), strict=True):
        image[y1:y2, x1:x2] = torch.tensor(color, dtype=torch.uint8)
    return image


def example(height: int = 120, width: int = 160) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Noise, so that no two places look alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return torch.from_numpy(pixels), BOXES.copy(), np.array([1, 2])


def extent(image: torch.Tensor, label: int) -> tuple[int, int, int, int] | None:
    """x1 y1 x2 y2 of the pixels in the color of `label`, None if there are none."""
    color, other = (image[..., i].int() for i in (label, 3 - label))
    rows, columns = torch.where((color > 150) & (other < 80) & (image[..., 0] < 80))
    if len(rows) == 0:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# Boxes and pixels.


@pytest.mark.parametrize("fields", GEOMETRIC.values(), ids=GEOMETRIC)
def test_a_rectangle_stays_inside_its_box_and_fills_it(fields: dict):
    followed, sizes = 0, set()
    for key in KEYS:
        image, boxes, labels = augmentation(**fields)(
            drawn(120, 160), BOXES.copy(), np.array([1, 2]), key
        )
        height, width, channels = image.shape
        sizes.add((height, width))
        assert (image.dtype, channels) == (torch.uint8, 3)
        assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)
        assert boxes.shape == (len(labels), 4)
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            if min(x2 - x1, y2 - y1) < 4:  # less than blur leaves of a color
                continue
            seen = extent(image, int(label))
            assert seen is not None
            # half a pixel of blur, and another where a side was rounded
            assert np.abs(np.array(seen) - (x1, y1, x2, y2)).max() <= 1.5
            followed += 1
    assert followed > 40
    assert len(sizes) > 10 or fields.get("jitter")


def test_each_class_does_what_it_is_called():
    areas = {
        name: [
            len(image) * len(image[0]) / (120 * 160)
            for image in (augmentation(**fields)(*example(), key)[0] for key in KEYS)
        ]
        for name, fields in GEOMETRIC.items()
    }
    assert min(areas["zoom-out"]) == 1
    assert 9 < max(areas["zoom-out"]) <= 16
    assert 8 < areas["zoom-out"].count(1) < 32  # every other image
    assert max(areas["IoU crop"]) == 1
    assert min(areas["IoU crop"]) < 0.25
    assert set(areas["jitter"]) == set(areas["all"]) == {160 * 160 / (120 * 160)}


def test_colors_change_and_nothing_else():
    original, boxes, labels = example()
    changed = 0
    for key in KEYS:
        image, same, also = augmentation(photometric=True)(original, boxes.copy(), labels, key)
        assert image.shape == original.shape
        assert same.tolist() == boxes.tolist()
        assert also.tolist() == labels.tolist()
        changed += not image.equal(original)
    assert changed > 34
    assert original.equal(example()[0])


def test_values_of_more_bits_are_augmented_like_bytes():
    """With the same random numbers, to what rounding makes of it."""
    original, boxes, labels = example()
    for key in KEYS[:12]:
        image, _, _ = augmentation(**EVERY)(original, boxes.copy(), labels, key)
        deep, _, _ = augmentation(**EVERY)(original.float(), boxes.copy(), labels, key)
        assert deep.dtype == torch.float32
        assert (deep - image.float()).abs().mean() < 2
        assert deep.unique().numel() > image.unique().numel()


def test_a_border_is_filled_with_the_mean_color():
    image, boxes, _ = next(
        found
        for key in KEYS
        if (found := augmentation(zoom_out=True)(*example(), key))[0].shape[0] > 300
    )
    x1, y1 = BOXES[0, :2]
    left, top = (round(float(new - old)) for new, old in zip(boxes[0], (x1, y1), strict=False))
    inside = image[top : top + 120, left : left + 160]
    assert inside.equal(example()[0])
    image[top : top + 120, left : left + 160] = torch.tensor(augment.FILL, dtype=torch.uint8)
    assert image.reshape(-1, 3).unique(dim=0).tolist() == [list(augment.FILL)]


def test_a_border_of_other_bands_is_filled_with_their_mean():
    mean = (0.2, 0.4, 0.6, 0.8)
    for order in ("rgb", "bgr"):
        sizes = dict(channels=4, image_mean=mean, image_std=mean, channel_order=order)
        found = augment.of(recipe(sizes, zoom_out=True))
        image = torch.zeros(120, 160, 4, dtype=torch.uint8)
        pixels = torch.cat([
            found(image, BOXES.copy(), np.array([1, 2]), key)[0].reshape(-1, 4) for key in KEYS[:9]
        ])  # fmt: skip
        assert {*map(tuple, pixels.tolist())} == {
            (0, 0, 0, 0),
            (51, 102, 153, 204)[:: 1 if order == "rgb" else -1],
        }


def test_jitter_pads_right_and_below():
    padded = 0
    for key in KEYS:
        image, _, _ = augmentation(jitter=True, jitter_size=160)(
            torch.full((100, 100, 3), 255, dtype=torch.uint8), np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64), key,
        )  # fmt: skip
        white = (image == 255).all(dim=2)
        height, width = int(white[:, 0].sum()), int(white[0].sum())
        assert white[:height, :width].all()
        border = torch.cat([image[height:].reshape(-1, 3), image[:height, width:].reshape(-1, 3)])
        assert (border == torch.tensor(augment.FILL)).all()
        padded += len(border) > 0
    assert padded > 10


def test_a_box_of_the_whole_image_survives_rounding():
    """Scaled sides are rounded, and a coordinate can end a hair outside the image."""
    for height, width in ((97, 131), (83, 61), (111, 157)):
        for key in KEYS:
            whole = np.array([[0, 0, width, height]], np.float32)
            image = torch.zeros(height, width, 3, dtype=torch.uint8)
            _, boxes, _ = augmentation(jitter=True, jitter_size=160)(
                image, whole, np.array([1]), key
            )
            assert len(boxes) == 1


def test_a_crop_can_lose_every_box_and_the_image_is_then_empty():
    corner = np.array([[0, 0, 6, 6]], np.float32)
    counts = [
        len(augmentation(jitter=True, jitter_size=160)(
            example()[0], corner.copy(), np.array([1]), key
        )[1])
        for key in KEYS
    ]  # fmt: skip
    assert set(counts) == {0, 1}
    image, boxes, labels = augmentation(jitter=True, jitter_size=160)(
        example()[0], corner.copy(), np.array([1]), KEYS[counts.index(0)]
    )
    padded = transformed(recipe(jitter=True, jitter_size=160), [(image, boxes, labels)], None)
    assert padded.gt_boxes.shape == (1, 8, 4)
    assert not padded.gt_valid.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 3000), (3000, 2), (7, 900)])
def test_images_of_any_size_with_boxes_or_without(size: tuple[int, int]):
    image = torch.zeros(*size, 3, dtype=torch.uint8)
    for fields in (EVERY, dict(EVERY, jitter=False)):
        for key in KEYS[:10]:
            whole = np.array([[0, 0, size[1], size[0]]], np.float32)
            found, boxes, _ = augmentation(**fields)(image, whole, np.array([1]), key)
            assert min(found.shape) >= 1
            none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
            _, boxes, labels = augmentation(**fields)(image, *none, key)
            assert (boxes.shape, labels.shape) == ((0, 4), (0,))


def test_a_large_photo_is_zoomed_out_and_colored_at_the_size_it_is_trained_at():
    photo = torch.zeros(1200, 1600, 3, dtype=torch.uint8)  # trained at 128 x 170
    zoomed_out = 0
    for key in KEYS[:10]:
        image, _, _ = augmentation(zoom_out=True)(photo, BOXES.copy(), np.array([1, 2]), key)
        assert image.shape == photo.shape or image.shape[0] <= 4 * 128
        zoomed_out += image.shape != photo.shape
        image, boxes, _ = augmentation(photometric=True, iou_crop=True)(
            photo, BOXES.copy() * 10, np.array([1, 2]), key
        )
        assert image.shape[0] <= 128
        assert image.shape[1] <= 213
        assert (boxes[:, 2:] <= np.array([image.shape[1], image.shape[0]])).all()
    assert 0 < zoomed_out < 10


# The planned shape.


@cache
def transform(recipe: Recipe) -> Transform:
    """Of the recipe's detector."""
    return build(recipe, 3).transform


def transformed(
    recipe: Recipe, images: list[tuple], planned: tuple[int, int] | None
) -> PaddedImages:
    """Augmented images as the device makes them."""
    return transform(recipe).train()(
        [image.permute(2, 0, 1) for image, _, _ in images],
        [
            {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
            for _, boxes, labels in images
        ],
        planned,
    )


INPUTS = {
    "torchvision": {},
    "multi-scale": dict(train_min_sizes=(64, 96, 128)),
    "OpenCV": dict(resize="opencv", rounding="nearest"),
    "Pillow, range": dict(
        resize="pillow", rounding="nearest", train_min_sizes=(50, 128), train_sampling="range"
    ),
    "one shape": dict(min_size=128, max_size=128),
}


@pytest.mark.parametrize("sizes", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize(
    "fields", [GEOMETRIC["zoom-out and IoU crop"], EVERY], ids=["without jitter", "with"]
)
def test_the_shape_never_leaves_the_planned_bucket(fields: dict, sizes: dict):
    wanted, seen = recipe(sizes, **fields), set()
    augmented = augment.of(wanted)
    assert augmented is not None
    for height, width in SIZES:
        planned = planned_shape(height, width, training_sizes(wanted))
        assert augmented.planned(height, width) == planned
        for first, second in zip(KEYS[:16:2], KEYS[1:16:2], strict=True):
            torch.manual_seed(first)  # of which the short side is a function
            pair = [augmented(*example(height, width), key) for key in (first, second)]
            padded = transformed(wanted, pair, planned)
            shape = tuple(padded.pixels.shape[2:])
            assert shape in buckets(training_sizes(wanted))
            assert shape[0] <= planned[0]
            assert shape[1] <= planned[1]
            assert (padded.sizes <= torch.tensor(shape)).all()
            assert (padded.gt_boxes[..., 2:] <= padded.sizes.flip(1)[:, None] + 1e-3).all()
            seen.add(shape)
            for (_, before, _), after, scale in zip(
                pair, padded.gt_boxes, padded.sizes / padded.original_sizes, strict=True
            ):
                expected = torch.from_numpy(before) * scale.flip(0).repeat(2)
                torch.testing.assert_close(after[: len(before)], expected)
    assert (len(seen) > 1) == (len(buckets(training_sizes(wanted))) > 1)


@pytest.mark.parametrize("resize", ["float", "opencv", "pillow"])
@pytest.mark.parametrize("side", [160, 150])
def test_what_is_jittered_is_not_resized_again(resize: str, side: int):
    wanted = recipe(dict(resize=resize), jitter=True, jitter_size=side)
    augmented = augment.of(wanted)
    assert augmented is not None
    for key in KEYS[:5]:
        image, boxes, labels = augmented(*example(), key)
        assert image.shape == (side, side, 3)
        padded = transformed(wanted, [(image, boxes, labels)], augmented.planned(120, 160))
        assert tuple(padded.pixels.shape) == (1, 3, 160, 160)
        mean, std = (torch.tensor(v) for v in (wanted.input.image_mean, wanted.input.image_std))
        expected = ((image.float() / 255 - mean) / std).permute(2, 0, 1)
        torch.testing.assert_close(padded.pixels[0, :, :side, :side], expected, rtol=0, atol=1e-6)
        assert padded.gt_boxes[0, : len(boxes)].equal(torch.from_numpy(boxes))


def test_evaluation_knows_nothing_of_jitter():
    wanted = recipe(jitter=True, jitter_size=160)
    assert transform(wanted).eval()(
        [torch.zeros(3, 120, 160, dtype=torch.uint8)]
    ).sizes.tolist() == [[128, 170]]


# Random numbers.


def test_equal_keys_give_equal_bits_and_others_do_not():
    keys = KEYS[:20]
    images = [augmentation(**EVERY)(*example(), key) for key in (*keys, *keys)]
    for a, b in zip(images[: len(keys)], images[len(keys) :], strict=True):
        assert a[0].equal(b[0])
        assert a[1].tobytes() == b[1].tobytes()
        assert a[2].tolist() == b[2].tolist()
    assert len({image.numpy().tobytes() for image, _, _ in images}) == len(keys)


def test_the_global_generator_and_the_threads_are_left_as_they_were(monkeypatch):
    threads, state = [], None
    original = v2.RandomPhotometricDistort.make_params

    def watch(self, flat_inputs):
        threads.append(torch.get_num_threads())
        return original(self, flat_inputs)

    monkeypatch.setattr(v2.RandomPhotometricDistort, "make_params", watch)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(7)
        state = torch.get_rng_state()
        augmentation(**EVERY)(*example(), KEYS[0])
        assert torch.get_num_threads() == 2
        assert torch.get_rng_state().equal(state)
        assert torch.initial_seed() == 7
        assert threads == [1]  # a mean over the image depends on the number of threads
    finally:
        torch.set_num_threads(before)


def test_nothing_is_augmented_unless_asked_for():
    assert augment.of(recipe()) is None
    augmented = {name for name in recipes.RECIPES if augment.of(recipes.get(name))}
    large_scale_jitter = {name for name in recipes.RECIPES if "_lsj_" in name}
    assert augmented == {"fasterrcnn_r50_fpn_v2_torchvision", *large_scale_jitter}
    assert {recipes.get(name).augment.jitter_size for name in large_scale_jitter} == {1024}
    v2 = recipes.get("fasterrcnn_r50_fpn_v2_torchvision")
    assert v2.augment == recipes.Augment(jitter=True, jitter_size=1024)
    assert buckets(training_sizes(v2)) == [(1024, 1024)]


# In the loader.


@pytest.fixture(scope="module")
def data(shapes_folder: Path) -> Annotations:
    return formats.read(shapes_folder, "train", "auto", (), Problems())


def images(data: Annotations, *, seed: int = 0, flip: float = 0.0, **fields: object):
    return loader.Images(data, seed=seed, flip=flip, augment=augment.of(recipe(**fields)))


def test_an_image_is_augmented_by_seed_epoch_and_id(data: Annotations):
    def pixels(i: int, step: int = 0, epoch: int = 0, seed: int = 0) -> bytes:
        batch = images(data, seed=seed, **EVERY)[MicroBatch(step, 0, epoch, (i,))]
        return batch.pixels.numpy().tobytes()

    assert pixels(3) == pixels(3, step=9)
    assert len({pixels(3), pixels(4), pixels(3, epoch=1), pixels(3, seed=1)}) == 4
    beside = images(data, **EVERY)[MicroBatch(0, 0, 0, (4, 3))]
    assert beside.pixels.numpy().tobytes() == pixels(4) + pixels(3)


def test_flips_are_those_of_an_image_that_is_not_augmented(data: Annotations):
    for i in range(8):
        plain = images(data, flip=0.5)[MicroBatch(0, 0, 0, (i,))]
        flipped = not plain.pixels.equal(images(data)[MicroBatch(0, 0, 0, (i,))].pixels)
        ours = images(data, **EVERY)[MicroBatch(0, 0, 0, (i,))].images()[0]
        again = images(data, flip=0.5, **EVERY)[MicroBatch(0, 0, 0, (i,))].images()[0]
        assert again.equal(ours.flip(2) if flipped else ours)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing(data: Annotations):
    chosen = [MicroBatch(k, 0, 0, (2 * k, 2 * k + 1)) for k in range(8)]
    dataset = images(data, flip=0.5, **dict(EVERY, jitter=False))
    alone, shared = (
        list(loader.load(dataset, chosen, workers=workers, pin_memory=False)) for workers in (0, 2)
    )
    assert len({size for batch in alone for size in batch.sizes}) > 8
    for a, b in zip(alone, shared, strict=True):
        assert a.sizes == b.sizes
        assert a.planned == b.planned is not None
        assert a.pixels.equal(b.pixels)
        assert a.boxes.equal(b.boxes)
        assert a.labels.equal(b.labels)


def test_colors_alone_need_no_planned_shape(data: Annotations):
    assert images(data, photometric=True)[MicroBatch(0, 0, 0, (0,))].planned is None
    assert images(data)[MicroBatch(0, 0, 0, (0,))].planned is None
