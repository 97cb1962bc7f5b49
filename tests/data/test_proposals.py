"""Stored proposals: what is written is read, image by image, and nothing else is."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fasterrcnn.data import formats, loader, proposals
from fasterrcnn.data.annotations import Strings
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import ImageProposals
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.errors import DataError, StorageError, UsageError
from tests.data.make import annotations_of
from tests.faults import hostile_proposals
from tests.faults.places import Place


def some(count: int, size: tuple[int, int] = (60, 80)) -> ImageProposals:
    random = np.random.default_rng(count)
    corner = random.random((count, 2)) * 30
    boxes = np.concatenate([corner, corner + 1 + random.random((count, 2)) * 20], axis=1)
    return ImageProposals(boxes.astype(np.float32), random.random(count).astype(np.float32), size)


IMAGES = {"a/1": some(3), "2": some(0), "ü": some(5, (40, 90)), "last": some(0)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "p.proposals"
    proposals.write(path, IMAGES, [*IMAGES.values()], {"source": {"weights": "x"}})
    return path


def test_there_and_back(file: Path):
    found = proposals.read(file)
    assert found.ids == [*IMAGES]
    assert found.about == {"source": {"weights": "x"}}
    for stored in (found, pickle.loads(pickle.dumps(found))):
        for i, image in enumerate(IMAGES.values()):
            again = stored.of(i)
            assert (again.boxes == image.boxes).all()
            assert (again.scores == image.scores).all()
            assert again.size == image.size


def test_images_in_another_order_and_number(file: Path):
    data = annotations_of([[], []])
    aligned = proposals.read(file).aligned(replace(data, ids=Strings(["ü", "a/1"])))
    for i, name in enumerate(("ü", "a/1")):
        assert (aligned.of(i).boxes == IMAGES[name].boxes).all()
        assert aligned.of(i).size == IMAGES[name].size
    with pytest.raises(DataError, match=r"p\.proposals: image 7: has no proposals"):
        proposals.read(file).aligned(replace(data, ids=Strings(["2", "7"])))


def detectron2(path: Path, **changes) -> Path:
    """A file as Detectron2's evaluation writes one, of images 7 and 3."""
    logits = [np.array([0.5, 2.0], np.float32), np.array([-1.0], np.float32)]
    boxes = [np.array([[1, 2, 11, 22], [0, 0, 5, 5]], np.float32),
             np.array([[3, 3, 9, 8]], np.float32)]  # fmt: skip
    content = {"ids": [7, 3], "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}
    path.write_bytes(pickle.dumps({**content, **changes}))
    return path


def test_detectron2s_proposals_are_of_the_images_own_pixels(tmp_path: Path):
    data = replace(annotations_of([[], []]), ids=Strings(["3", "7"]))
    found = proposals.read(detectron2(tmp_path / "p.pkl")).aligned(data)
    assert found.of(0).boxes.tolist() == [[3, 3, 9, 8]]
    assert found.of(1).boxes.tolist() == [[0, 0, 5, 5], [1, 2, 11, 22]]  # best first
    assert found.of(1).scores.tolist() == [2.0, 0.5]
    assert found.of(1).size == (400, 400)
    xywh = proposals.read(detectron2(tmp_path / "q.pkl", bbox_mode=1)).aligned(data)
    assert xywh.of(0).boxes.tolist() == [[3, 3, 12, 11]]
    old = pickle.loads((tmp_path / "p.pkl").read_bytes())
    old = {"indexes": old["ids"], "scores": old["objectness_logits"], "boxes": old["boxes"]}
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(old))
    again = proposals.read(tmp_path / "old.pkl").aligned(data)
    assert (again.of(1).boxes == found.of(1).boxes).all()


class Canary:
    def __reduce__(self):
        return (print, ("it ran",))


def test_flipping_an_image_leaves_the_stored_boxes_alone(shapes_folder: Path, tmp_path: Path):
    data = formats.read(shapes_folder, "val", "auto", (), Problems())
    boxes = [np.array([[1, 2, 11, 22]], np.float32)] * len(data)
    logits = [np.array([0.5], np.float32)] * len(data)
    path = detectron2(tmp_path / "p.pkl", ids=[*data.ids], boxes=boxes, objectness_logits=logits)
    images = loader.Images(data, proposals=proposals.read(path), flip=1.0)
    once, again = (images[MicroBatch(0, 0, 0, (0, 1))].proposals for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(ids=[7]), "do not belong to the same images"),
    (dict(boxes=[np.zeros((2, 4))]), "do not belong to the same images"),
    (dict(boxes=[np.zeros((2, 5)), np.zeros((1, 5))]), "do not belong to the same images"),
    (dict(boxes=[[np.zeros((2, 4))], np.zeros((1, 4))]), "not proposals of Detectron2"),
    (dict(objectness_logits=[1.0, np.zeros(1)]), "not proposals of Detectron2"),
    (dict(objectness_logits=[np.zeros(2, bool), np.zeros(1)]), "not proposals of Detectron2"),
    (dict(boxes=None), "not proposals of Detectron2"),
    (dict(bbox_mode=3), "bbox_mode: 3"),
    (dict(objectness_logits=[np.array([np.nan, 1]), np.zeros(1)]), "NaN"),
    (dict(ids=[Canary(), 3]), "wants to run builtins.print"),
])  # fmt: skip
def test_pickles_that_are_something_else(tmp_path: Path, capsys, changes: dict, message: str):
    with pytest.raises(DataError, match=message):
        proposals.read(detectron2(tmp_path / "p.pkl", **changes))
    assert "it ran" not in capsys.readouterr().out


def test_writing_twice_gives_the_same_bytes(file: Path, tmp_path: Path):
    other = tmp_path / "again"
    proposals.write(other, IMAGES, [*IMAGES.values()], {"source": {"weights": "x"}})
    assert other.read_bytes() == file.read_bytes()
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_every_damaged_byte_is_seen(file: Path, tmp_path: Path):
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    damaged = tmp_path / "damaged"
    for at in (start, start + 37, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 0x10
        damaged.write_bytes(changed)
        with pytest.raises(DataError, match="damaged"):
            proposals.read(damaged)
    for part in (b"", content[:100], content[:-1]):
        damaged.write_bytes(part)
        with pytest.raises(DataError, match=f"{damaged}: "):
            proposals.read(damaged)
    save_file({"boxes": np.zeros((1, 4))}, damaged)
    with pytest.raises(DataError, match="not a file of proposals"):
        proposals.read(damaged)
    with pytest.raises(DataError, match="nothing: no such file"):
        proposals.read(tmp_path / "nothing")


def test_a_file_of_another_source_is_not_overwritten(file: Path, tmp_path: Path):
    assert proposals.is_there(file, {"weights": "x"})
    assert not proposals.is_there(tmp_path / "nothing", {"weights": "x"})
    with pytest.raises(UsageError, match=r"of another checkpoint.*; delete it"):
        proposals.is_there(file, {"weights": "y"})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"cannot be used .*; delete it"):
        proposals.is_there(file, {"weights": "x"})


def test_every_process_has_the_same_file(file: Path):
    elsewhere = pickle.dumps(proposals.read(file))
    proposals.write(file, IMAGES, [some(2)] * len(IMAGES), {})
    with pytest.raises(DataError, match="not the same file for every process"):
        pickle.loads(elsewhere)


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="not written"):
        proposals.write(tmp_path / "file" / "p", IMAGES, [*IMAGES.values()], {})


def test_batches_carry_them_flipped_with_the_image(shapes_folder: Path, tmp_path: Path):
    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    made = [some(i % 4, (100 + i, 120 + i)) for i in range(len(data))]
    proposals.write(tmp_path / "p", data.ids, made, {})
    stored = proposals.read(tmp_path / "p")
    chosen = MicroBatch(0, 0, 0, (3, 4, 6))
    plain = loader.Images(data, proposals=stored)[chosen]
    flipped = loader.Images(data, proposals=stored, flip=1.0)[chosen]
    assert plain.proposal_counts == (3, 0, 2)
    for i, target, turned in zip((3, 4, 6), plain.targets(), flipped.targets(), strict=True):
        assert target["proposal_size"] == (100 + i, 120 + i)
        box = torch.from_numpy(made[i].boxes)
        assert torch.equal(target["proposals"], box)
        width = 120 + i
        mirrored = torch.stack([width - box[:, 2], box[:, 1], width - box[:, 0], box[:, 3]], dim=1)
        assert torch.equal(turned["proposals"], mirrored)
    assert "proposals" not in loader.Images(data)[chosen].targets()[0]


@pytest.mark.parametrize("file", [
    hostile_proposals.proposals_in_brackets, hostile_proposals.proposals_about_nothing,
    hostile_proposals.proposals_of_rows_behind_the_end,
    hostile_proposals.proposals_of_negative_rows,
    hostile_proposals.proposals_of_text, hostile_proposals.proposals_of_flat_boxes,
    hostile_proposals.proposals_of_no_size, hostile_proposals.proposals_of_odd_facts,
    hostile_proposals.proposals_of_doubled_lists, hostile_proposals.proposals_of_doubled_ids,
])  # fmt: skip
def test_files_that_are_made_to_harm(tmp_path: Path, file):
    """Their SHA-256, if they have one, is right."""
    (tmp_path / "given").mkdir()
    path = file(Place(tmp_path, tmp_path))[1]
    with pytest.raises(DataError) as error:
        proposals.read(Path(path))
    assert len(str(error.value)) < 1000
