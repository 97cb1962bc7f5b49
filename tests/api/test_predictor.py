"""load and what it gives: the detections of predict, to the bit, for every kind of image."""

from __future__ import annotations

import json
import re
from itertools import count, islice
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn import Detections, Predictor, load
from fasterrcnn.commands import predict
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def files(shapes_folder: Path) -> list[Path]:
    return sorted((shapes_folder / "val").glob("*.png"))


@pytest.fixture(scope="module")
def detector(run: Path) -> Predictor:
    return load(run, device="cpu")


def equal(a: Detections, b: Detections) -> bool:
    return all(getattr(a, key).equal(getattr(b, key)) for key in ("boxes", "scores", "labels"))


def predicted(run: Path, files: list[Path], folder: Path, *flags: object) -> list[dict]:
    """What the command writes."""
    file = folder / "found.json"
    flags = ("--device", "cpu", "--no-pictures", "--workers", "0", *map(str, flags))
    predict.main(["--checkpoint", str(run), "--json", str(file), *flags, *map(str, files)])
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("choices", "flags"),
    [
        ({}, ()),
        ({"min_size": 80}, ("--min-size", 80)),
        ({"slice": 64, "tta": ("flip",)}, ("--slice", 64, "--tta", "flip")),
    ],
)
def test_detections_are_those_of_predict_to_the_bit(
    run: Path, files: list[Path], tmp_path: Path, choices: dict, flags: tuple
):
    rows = predicted(run, files, tmp_path, *flags)
    found = load(str(run), device="cpu", **choices)(files)
    own = [row for i, d in enumerate(found, start=1) for row in d.to_coco(i)]
    assert len(own) > 10
    assert own == [{key: row[key] for key in own[0]} for row in rows]
    names = [name for d in found for name in d.names]
    assert names == [row["category_name"] for row in rows]


def test_a_score_threshold_is_that_of_predict(
    run: Path, detector: Predictor, files: list[Path], tmp_path: Path
):
    everything = detector(files)
    scores = torch.cat([d.scores for d in everything])
    for threshold in (float(scores.median()), 0.001):
        rows = predicted(run, files, tmp_path, "--score-threshold", threshold)
        found = detector(files, threshold)
        assert [s for d in found for s in d.scores.tolist()] == [row["score"] for row in rows]
        assert len(rows) != len(scores)
    assert all(equal(a, b) for a, b in zip(detector(files), everything, strict=True))


def test_every_kind_of_image_gives_the_same(detector: Predictor, files: list[Path]):
    file = files[0]
    image = Image.open(file).convert("RGB")
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    floats = tensor.to(torch.float32) / 255
    expected = detector(file)
    assert isinstance(expected, Detections)
    assert len(expected) > 0
    assert expected.boxes.dtype == torch.float32
    kinds = [str(file), image, array, np.asfortranarray(array), tensor, floats, floats.double()]
    for kind in kinds:
        assert equal(detector(kind), expected)
    for found in detector(kinds, images_per_batch=1):
        assert equal(found, detector(file, images_per_batch=1))


def test_a_stream_has_no_end(detector: Predictor, files: list[Path]):
    read = []

    def endless():
        for k in count():
            read.append(k)
            yield files[k % len(files)]

    found = list(islice(detector.stream(endless(), images_per_batch=1), 3))
    assert len(read) < 40
    for one, file in zip(found, files, strict=False):
        assert equal(one, detector(file, images_per_batch=1))


def test_streams_of_other_thresholds_do_not_disturb_each_other(
    detector: Predictor, files: list[Path]
):
    low = detector.stream(files, 0.001, images_per_batch=1)
    high = detector.stream(files, 0.9, images_per_batch=1)
    pairs = list(zip(low, high, strict=True))
    for (a, b), file in zip(pairs, files, strict=True):
        assert equal(a, detector(file, 0.001, images_per_batch=1))
        assert equal(b, detector(file, 0.9, images_per_batch=1))


def test_torch_is_left_as_it_was(detector: Predictor, files: list[Path]):
    torch.use_deterministic_algorithms(False)
    grad = torch.is_grad_enabled()
    inside = []

    def images():
        for file in files:
            inside.append(torch.are_deterministic_algorithms_enabled())
            yield file

    next(detector.stream(images()))
    assert set(inside) == {True}  # as in predict
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled() == grad
    assert list(detector([])) == []


def test_classes_and_changes_are_told(run: Path):
    detector = load(run, device="cpu", classes=("star",), nms_threshold=0.4)
    assert "star" in detector.classes.names
    assert detector.changed == ["roi_heads.nms_thresh: 0.5 -> 0.4", "classes: star of 6"]
    assert load(run, device="cpu", tta="flip,0.5").changed == [
        "also detected in: mirrored; scale 0.5"
    ]
    assert load(run, device="cpu", amp="bf16").recipe.amp == "bf16"
    assert load(run / "best", device="cpu").classes == detector.classes


def load_error(*args: object, **fields: object) -> str:
    """The message of the ValueError, one line; empty if there is none."""
    try:
        load(*args, **fields)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return ""


def test_a_wrong_load_is_one_line(run: Path, tmp_path: Path):
    assert "no usable checkpoint; there is no such folder" in load_error(tmp_path / "nope")
    assert load_error(run, min_siz=3) == "min_siz=3: unknown flag; did you mean min_size?"
    assert load_error(run, min_size="x") == "min_size: invalid int value: 'x'"
    assert load_error(run, help=True).startswith("help: unknown parameter")
    assert load_error(run, limit=3) == "limit: is for predict; give fewer images"
    assert load_error(run, min_size=0) == "min_size: 0: must be 1 or more"
    assert load_error(run, slice=3) == "slice: 3: must be 32 or more"
    assert load_error(run, slice=64, slice_overlap=2).startswith("slice_overlap: 2.0: must be")
    assert load_error(run, device="gpu").startswith("device: invalid choice: 'gpu' (choose from")
    assert load_error(run, amp="half").startswith("amp: invalid choice: 'half' (choose from")
    assert "no published file known" in load_error("mmdet:x")


def test_wrong_images_are_one_line(detector: Predictor, files: list[Path]):
    for images, message in (
        (3, "images: int: give an image or a list of them"),
        ([files[0], 3], "image 2: int: not an image; give a path, a PIL image, an array or a"),
        ("nope.jpg", "nope.jpg: missing"),
        (files[0].parent, "not a regular file"),
        (torch.full((3, 20, 20), 1.5), "image 1: a float tensor with values from 1.5 to 1.5"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            detector(images)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"score_threshold: 7\.0: must be 0 to 1"):
        detector(files, 7)
    with pytest.raises(ValueError, match=r"score_threshold: 2\.0: must be 0 to 1"):
        detector(files, np.float32(2))
    with pytest.raises(ValueError, match=r"score_threshold: '0\.5': give a number, 0 to 1"):
        detector(files, "0.5")
    with pytest.raises(ValueError, match="images_per_batch: 0: must be 1 or more"):
        detector(files, images_per_batch=0)


EXAMPLE = re.compile(r"^    from fasterrcnn import .*\n(?:(?:    .*)?\n)*", re.MULTILINE)
EXAMPLES = [
    (page, number, code)
    for page in ("README.md", "docs/python.md")
    for number, code in enumerate(EXAMPLE.findall((PROJECT / page).read_text()))
]


def test_the_examples_are_found():
    assert [page for page, _, _ in EXAMPLES] == ["README.md"] + ["docs/python.md"] * 4


@pytest.mark.parametrize(("page", "number", "code"), EXAMPLES, ids=lambda value: str(value)[:20])
def test_the_examples_of_the_documentation_run(
    page: str, number: int, code: str, run: Path, shapes_folder: Path, tmp_path: Path, monkeypatch
):
    files = sorted((shapes_folder / "val").glob("*.png"))
    for name, file in zip(("a.jpg", "b.jpg"), files, strict=False):
        Image.open(file).convert("RGB").save(tmp_path / name)
    (tmp_path / "output").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "output" / "RUN").symlink_to(run)
    (tmp_path / "datasets" / "shapes").symlink_to(shapes_folder)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(dedent(code), names)
    assert isinstance(names["detector"], Predictor)
    if "found" in names:
        assert isinstance(names["found"], Detections)
