"""One program for every number and size of images, whatever the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.data import images, pixel_values
from fasterrcnn.export import detector as exported
from fasterrcnn.export import parity, program
from fasterrcnn.importers import recognize, translate
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.models import build
from fasterrcnn.models.build import Detector
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Recipe
from fasterrcnn.safe_load import reading
from tests.importers import peers

SIZES = ((97, 130), (130, 97), (227, 301), (128, 192), (211, 160))  # H, W (px)


def small(name: str, **others: object) -> Recipe:
    recipe = recipes.get(name)
    size = replace(recipe.input, min_size=128, max_size=200, **others)
    heads = replace(recipe.roi_heads, score_thresh=0.02, representation_size=64)
    rpn = replace(recipe.rpn, post_nms_top_n_test=50)
    return replace(recipe, input=size, rpn=rpn, roi_heads=heads)


def with_width(recipe: Recipe, channels: int) -> Recipe:
    return replace(recipe, backbone=replace(recipe.backbone, base_channels=channels))


NETWORKS = {
    "pyramid": small("fasterrcnn_r10_fpn_shapes", size_divisible=1),
    "vgg": with_width(small("fasterrcnn_vgg16_voc"), 8),
    "rpn": small("rpn_r10_fpn_shapes", size_divisible=16),
    "mobilenet": small("fasterrcnn_mobilenet_v3_large_320_fpn_torchvision"),
    "c4": small("fasterrcnn_r50_c4_1x_detectron2"),
}
QUICK = ("pyramid", "vgg")


def agree(one: Detector, other: Detector, pictures: Sequence[torch.Tensor]) -> None:
    for found in parity.compare(one, other, pictures):
        print(found)
        few = found.different <= 4  # two near ties weigh more than in 20 images
        assert (found.holds or few) and found.counts[0], str(found)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_any_size_and_number_of_images(name: str):
    """Sizes that pooling divides without a rest, and others."""
    torch.manual_seed(0)
    recipe = NETWORKS[name]
    detector = build.build(recipe, 4).eval()
    call = program.export(detector).module().forward  # a module would be switched to evaluation
    pictures = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in SIZES]
    agree(detector, exported.ExportedDetector(program.File(call, ""), recipe), pictures)


@pytest.mark.parametrize(
    ("resize", "rounding", "channels"),
    [
        ("float", "floor", "rgb"),
        ("opencv", "nearest", "rgb"),
        pytest.param("pillow", "nearest", "bgr", marks=pytest.mark.slow),
    ],
)
def test_preparation_is_the_transform(resize: str, rounding: str, channels: str):
    """To the bit, for images that grow, shrink, and are limited by their long side."""
    config = small(
        "fasterrcnn_r10_fpn_shapes", resize=resize, rounding=rounding, channel_order=channels
    ).input
    transform = Transform(config).eval()
    prepare = program.export_preparation(transform).module()
    for size in (*SIZES, (427, 640), (500, 81)):
        batch = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
        ours = transform([*batch])
        made = prepare(batch)
        for mine, other in zip((ours.pixels, ours.sizes, ours.original_sizes), made, strict=True):
            assert mine.equal(other)


VALUES = [  # type of the files, value range, nodata
    (torch.uint8, "dataset", "7"),
    (torch.uint16, "51200,52200", "none"),
    (torch.uint16, "300,4095", "0"),
    (torch.float32, "270,310", "-9999"),
]


@pytest.mark.parametrize(("kind", "value_range", "nodata"), VALUES)
def test_values_are_scaled_as_those_of_a_file(kind: torch.dtype, value_range: str, nodata: str):
    """To the bit; and what was scaled is brought back."""
    asked = dict(value_range=value_range, nodata=nodata, channel_order="bgr")
    transform = Transform(small("fasterrcnn_r10_fpn_shapes", **asked).input).eval()
    config, depth = transform.config, 8 if kind == torch.uint8 else 16
    low, high = (float(word) for word in (value_range if depth > 8 else "20,180").split(","))
    values = (low + (torch.rand(2, 3, 90, 120) * 1.5 - 0.07) * (high - low)).to(kind)
    values[0, 1, :9] = values[1, :, 3:5, 3:9] = float(nodata) if nodata != "none" else low
    stored = values if kind == torch.uint8 else values.float()
    decoded = [images.of_array(x.permute(1, 2, 0), depth, config.pixel_format) for x in stored]
    made = program.export_preparation(transform, kind).module()(values)
    assert made[0].equal(transform(decoded).pixels)
    back = torch.stack([pixel_values.as_stored(x, config.pixel_format, kind) for x in decoded])
    assert back.dtype == kind
    torch.testing.assert_close(back.float(), values.float(), rtol=1e-6, atol=1e-3)
    for pixels in decoded:
        same = program.between_types(pixels, config, kind)
        torch.testing.assert_close(same, pixels.float(), rtol=1e-5, atol=1e-3, check_dtype=False)


FILES = [
    (name, suffix)
    for name in peers.NAMES
    for suffix in exported.FILES
    if (name, suffix) != ("detectron2-dconv", ".onnx")  # refused
]


def test_what_other_programs_have_to_know_is_plain_text():
    config = dict(value_range="0,4095", bands=(4, 3), image_mean=(0.5, 0.25), nodata="7")
    recipe = recipes.change(recipes.get("fasterrcnn_r10_fpn_shapes"), input=config)
    said = program.entries(json.dumps({"recipe": asdict(recipe)}))
    assert said.items() >= {
        "input.value_range": "0,4095", "input.bands": "4,3", "input.in_channels": "2",
        "input.image_mean": "0.5,0.25", "input.nodata": "7", "input.pixel_scale": "255.0",
    }.items()  # fmt: skip
    assert {type(value) for value in said.values()} == {str}
    assert program.entries("{}") == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "suffix"), FILES)
def test_other_frameworks_detectors_at_their_own_size(name: str, suffix: str, tmp_path, coco_tiny):
    """COCO images in landscape and portrait, at 800/1333, 600/999 and 400/666 px."""
    file = reading.read(peers.peer(name, tmp_path).file)
    found = recognize.recognize(file, Hints())
    model, _ = translate.load(file, found)
    path = tmp_path / f"model{suffix}"
    exported.FILES[suffix].write(program.export(model.eval()), path, "{}")
    pictures = [
        images.decode(image, apply_orientation=True)
        for image in sorted(coco_tiny.rglob("*.jpg"))[:8]
    ]
    shapes = {image.shape[1] > image.shape[2] for image in pictures}
    assert shapes == {True, False}
    agree(model, exported.ExportedDetector(exported.read(path), found.recipe), pictures)
