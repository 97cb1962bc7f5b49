"""The padded input is torchvision's, in a bucket's shape when training."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fasterrcnn.image_sizes import buckets
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Input

RECIPE = Input(min_size=160, max_size=267)
SIZES = [(120, 160), (160, 120), (97, 301), (500, 333)]


def example():
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]
    targets = []
    for count in (3, 0, 9, 1):
        corner = torch.rand(count, 2) * 50
        found = torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], dim=1)
        targets.append({"boxes": found, "labels": torch.arange(1, count + 1)})
    return images, targets


@pytest.mark.parametrize("training", [True, False])
def test_pixels_and_boxes_are_torchvisions(training: bool):
    images, targets = example()
    ours = Transform(RECIPE).train(training)(images, targets)
    stock = GeneralizedRCNNTransform(160, 267, list(RECIPE.image_mean), list(RECIPE.image_std))
    theirs, expected = stock([i / 255 for i in images], targets)
    assert ours.sizes.tolist() == [list(map(float, size)) for size in theirs.image_sizes]
    height, width = theirs.tensors.shape[2:]
    torch.testing.assert_close(ours.pixels[:, :, :height, :width], theirs.tensors)
    assert ours.pixels.is_contiguous(memory_format=torch.channels_last)
    assert not ours.pixels[:, :, height:].any()
    assert not ours.pixels[:, :, :, width:].any()
    assert ours.gt_boxes.shape == (4, 16, 4)
    for boxes, labels, target in zip(ours.gt_boxes, ours.gt_labels, expected, strict=True):
        count = len(target["labels"])
        torch.testing.assert_close(boxes[:count], target["boxes"])
        assert labels[:count].equal(target["labels"])
        assert not boxes[count:].any()
        assert not labels[count:].any()
    assert ours.gt_valid.equal(ours.gt_labels > 0)


def test_training_pads_to_a_bucket_evaluation_to_32():
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    transform = Transform(RECIPE)
    assert tuple(transform([image]).pixels.shape[2:]) in buckets(RECIPE)
    assert tuple(transform.eval()([image]).pixels.shape[2:]) == (160, 224)


def test_images_without_targets():
    padded = Transform(RECIPE).eval()([torch.zeros(3, 100, 100, dtype=torch.uint8)])
    assert padded.gt_valid.shape[0] == 1
    assert not padded.gt_valid.any()


@pytest.mark.parametrize(("resize", "off"), [("float", 1e-6), ("opencv", 0.02), ("pillow", 0.02)])
def test_values_of_more_bits_are_as_those_of_bytes_but_not_rounded(resize: str, off: float):
    """Of the same values; bytes are rounded when resized, at most twice by 0.5 / 255 / std."""
    config = Input(min_size=160, max_size=267, resize=resize)
    images, _ = example()
    bytes_ = Transform(config).eval()(images).pixels
    floats = Transform(config).eval()([image.float() for image in images]).pixels
    assert (bytes_ - floats).abs().max() < off
    between = Transform(config).eval()([image.float() + 0.25 for image in images]).pixels
    mean = ((between - floats)[0, 0, :160, :160]).mean().item()
    assert mean == pytest.approx(0.25 / 255 / config.image_std[0], rel=1e-3)
