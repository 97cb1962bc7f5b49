"""One micro-batch walked through the table of fasterrcnn/README.md, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch

from fasterrcnn import image_sizes, recipes
from fasterrcnn.data import formats, loader, sampler
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import evaluation, runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.models.build import build
from tests.conftest import PROJECT

RECIPE = recipes.change(
    recipes.fasterrcnn_r10_fpn_shapes(), amp="off", schedule=dict(images_per_step=4, warmup_steps=0)
)
N = RECIPE.schedule.images_per_gpu
README = (PROJECT / "fasterrcnn" / "README.md").read_text()


@pytest.fixture(scope="module")
def annotations(shapes_folder: Path) -> Annotations:
    return formats.read(shapes_folder, "train", "auto", (), Problems())


@pytest.fixture(scope="module")
def micro_batch(annotations) -> sampler.MicroBatch:
    buckets = [image_sizes.bucket_of(int(h), int(w), RECIPE.input) for h, w in annotations.sizes]
    plan = sampler.Plan(
        annotations.ids, buckets, seed=0, images_per_gpu=N, micro_batches_per_step=1
    )
    return next(plan.micro_batches(0, 1, rank=0, ranks=1))


@pytest.fixture(scope="module")
def batch(annotations, micro_batch) -> loader.Batch:
    return loader.Images(annotations, flip=RECIPE.input.flip)[micro_batch]


@pytest.fixture(scope="module")
def detector(annotations):
    torch.manual_seed(0)
    return build(RECIPE, annotations.classes.num_classes).train()


def row_1(annotations, micro_batch, batch, detector):
    assert annotations.xywh.dtype == np.float64
    assert annotations.xywh.shape == (len(annotations.labels), 4)
    arrays = [v for v in vars(annotations).values() if isinstance(v, np.ndarray)]
    assert len(arrays) == 12
    assert annotations.crowd.any()
    assert not (annotations.trainable & annotations.crowd).any()


def row_2(annotations, micro_batch, batch, detector):
    assert (micro_batch.step, micro_batch.index, micro_batch.epoch) == (0, 0, 0)
    assert len(micro_batch.images) == N
    sizes = [annotations.sizes[i].tolist() for i in micro_batch.images]
    assert len({image_sizes.bucket_of(h, w, RECIPE.input) for h, w in sizes}) == 1


def row_3(annotations, micro_batch, batch, detector):
    for i, image, target in zip(micro_batch.images, batch.images(), batch.targets(), strict=True):
        assert image.dtype == torch.uint8
        assert image.shape == (3, *annotations.sizes[i])
        boxes, labels = target["boxes"], target["labels"]
        assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert boxes.shape == (len(labels), 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((labels >= 1) & (labels <= len(annotations.classes.names))).all()
    assert sum(batch.counts) > 0


def row_4(annotations, micro_batch, batch, detector):
    padded = detector.transform(batch.images(), batch.targets())
    assert padded.pixels.dtype == padded.sizes.dtype == padded.gt_boxes.dtype == torch.float32
    assert padded.gt_labels.dtype == torch.int64
    assert tuple(padded.pixels.shape[2:]) in image_sizes.buckets(RECIPE.input)
    assert padded.gt_boxes.shape == (*padded.gt_labels.shape, 4)
    assert len(padded.pixels) == len(padded.sizes) == len(padded.gt_boxes) == N
    assert batch.planned is None
    assert padded.original_sizes.tolist() == [
        annotations.sizes[i].tolist() for i in micro_batch.images
    ]
    rows = zip(micro_batch.images, padded.sizes, batch.targets(), padded.gt_boxes, strict=True)
    for i, size, before, after in rows:
        height, width = annotations.sizes[i].tolist()
        assert tuple(size.int().tolist()) == image_sizes.resized(height, width, RECIPE.input)
        scale = torch.tensor([size[1] / width, size[0] / height] * 2)
        torch.testing.assert_close(after[: len(before["boxes"])], before["boxes"] * scale)


def row_5(annotations, micro_batch, batch, detector):
    losses = detector(batch.images(), batch.targets())
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"
    }  # fmt: skip
    assert all(v.shape == () and v.dtype == torch.float32 for v in losses.values())
    assert torch.isfinite(sum(losses.values()))


def row_6(annotations, micro_batch, batch, detector):
    before = {k: v.clone() for k, v in detector.named_parameters()}
    rt = runtime.start("cpu")
    training = make_training(detector, RECIPE, rt)
    scalars, grad_norm = train_step(training, [batch], RECIPE, 0.01, rt, micro_batches=1)
    assert all(not v.equal(before[k]) for k, v in detector.named_parameters())
    assert all(isinstance(v, torch.Tensor) for v in (*scalars[0].values(), grad_norm))
    assert all(p.grad is None for p in detector.parameters())


def row_7(annotations, micro_batch, batch, detector):
    detector.roi_heads.score_thresh = 0.0  # an untrained detector finds little
    results, detections = evaluation.evaluate(
        detector, annotations, RECIPE, runtime.start("cpu"), images_per_gpu=N, workers=0
    )
    assert detections.dtype == np.float64
    assert detections.shape[1] == 7
    assert set(detections[:, 0]) == set(range(len(annotations)))
    assert set(detections[:, 6]) <= set(range(1, len(annotations.classes.names) + 1))
    numbers = [v for k, v in results.items() if k.startswith(("AP", "AR"))]
    assert len(numbers) == 12
    assert all(0 <= v <= 1 for v in numbers if v is not None)


ROWS = {int(name[4:]): test for name, test in globals().items() if re.fullmatch(r"row_\d", name)}
WRITTEN = {
    int(number): where
    for number, where in re.findall(r"^\| (\d) \|[^|]*\| `([\w.]+)` \|", README, re.MULTILINE)
}


def test_every_row_is_asserted_and_names_code_that_exists():
    assert sorted(WRITTEN) == sorted(ROWS) == list(range(1, 8))
    for where in WRITTEN.values():
        module, _, name = where.rpartition(".")
        assert callable(resolve_name(f"fasterrcnn.{module}:{name}"))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_row(number: int, annotations, micro_batch, batch, detector):
    ROWS[number](annotations, micro_batch, batch, detector)
