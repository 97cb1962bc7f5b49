"""Batches: pixels, flips, order; workers that change nothing, grow by nothing, die in time."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fasterrcnn.data import formats, images, loader
from fasterrcnn.data.annotations import Strings
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.data.stand_ins import StandIns
from fasterrcnn.errors import DataError, ProcessDied
from tests.conftest import TINY, command
from tests.data import make


@pytest.fixture(scope="module")
def data(shapes_folder: Path):
    return formats.read(shapes_folder, "train", "auto", (), Problems())


def micro_batches(n: int, epoch: int = 0) -> list[MicroBatch]:
    return [MicroBatch(i, 0, epoch, (2 * i, 2 * i + 1)) for i in range(n)]


def test_a_batch_holds_the_files_pixels_and_boxes(data):
    batch = loader.Images(data)[MicroBatch(5, 1, 0, (3, 0))]
    assert batch.micro_batch.step == 5
    assert batch.names == [str(data.path(3)), str(data.path(0))]
    for i, image, target in zip((3, 0), batch.images(), batch.targets(), strict=True):
        assert image.dtype == torch.uint8
        assert image.equal(images.decode(data.path(i), apply_orientation=False))
        boxes, labels = data.training_boxes(i)
        assert target["boxes"].dtype == torch.float32
        assert target["boxes"].tolist() == boxes.tolist()
        assert target["labels"].dtype == torch.int64
        assert target["labels"].tolist() == labels.tolist()


def test_flip_mirrors_pixels_and_boxes_and_depends_on_seed_epoch_and_id(data):
    plain = loader.Images(data)[MicroBatch(0, 0, 0, (2,))]
    flipped = loader.Images(data, flip=1.0)[MicroBatch(0, 0, 0, (2,))]
    assert flipped.images()[0].equal(plain.images()[0].flip(2))
    width = plain.sizes[0][1]
    expected = plain.boxes.clone()
    expected[:, [0, 2]] = width - plain.boxes[:, [2, 0]]
    assert flipped.boxes.equal(expected)

    def flips(seed: int, epoch: int) -> list[bool]:
        half = loader.Images(data, flip=0.5, seed=seed)
        every = loader.Images(data, flip=1.0)
        return [
            half[MicroBatch(0, 0, epoch, (i,))].pixels.equal(
                every[MicroBatch(9, 3, 0, (i,))].pixels
            )
            for i in range(len(data))
        ]

    base = flips(0, 0)
    assert 0 < sum(base) < len(base)
    assert flips(0, 0) == base
    assert flips(1, 0) != base
    assert flips(0, 1) != base


def test_copies_of_an_image_are_flipped_apart(data):
    half = loader.Images(data, flip=0.5)

    def pixels(copies: tuple[int, ...]) -> list[torch.Tensor]:
        return [half[MicroBatch(0, 0, 0, (i,), copies)].pixels for i in range(len(data))]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[bool]:
        return [x.equal(y) for x, y in zip(a, b, strict=True)]

    first, second, third = pixels((0,)), pixels((1,)), pixels((2,))
    assert all(same(first, pixels(())))
    assert all(same(second, pixels((1,))))
    for a, b in ((first, second), (first, third), (second, third)):
        assert 0 < sum(same(a, b)) < len(data)
    both = half[MicroBatch(0, 0, 0, (2, 2), (0, 1))].images()
    alone = [half[MicroBatch(0, 0, 0, (2,), (copy,))].images()[0] for copy in (0, 1)]
    assert all(same(both, alone))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(data, workers: int):
    dataset = loader.Images(data, flip=0.5)
    alone = list(loader.load(dataset, micro_batches(12), workers=0, pin_memory=False))
    state = torch.random.get_rng_state()
    shared = list(loader.load(dataset, micro_batches(12), workers=workers, pin_memory=False))
    assert torch.random.get_rng_state().equal(state)  # the global stream is left alone
    assert len(alone) == 12
    for a, b in zip(alone, shared, strict=True):
        assert a.micro_batch == b.micro_batch
        assert a.pixels.equal(b.pixels)
        assert a.boxes.equal(b.boxes)
        assert a.labels.equal(b.labels)


def test_a_batch_that_does_not_fit_shared_memory_is_a_failure(data, monkeypatch):
    """In the worker; left to torch, it would be lost, and waited for without end."""

    def full(tensor):
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    stream = loader.load(loader.Images(data), micro_batches(3), workers=1, pin_memory=False)
    with pytest.raises(ProcessDied, match=r"/dev/shm: .* MiB, too little .* --workers 0"):
        next(stream)
    alone = loader.load(loader.Images(data), micro_batches(3), workers=0, pin_memory=False)
    assert len(list(alone)) == 3


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make /dev/shm small")
def test_a_small_shared_memory_ends_a_run_of_workers(tmp_path: Path, shell):
    sizes = {"height": 400, "width": 600}
    make.coco(tmp_path, make.changed(("images", 0), {"id": 1, "file_name": "a.png", **sizes}))
    make.image(tmp_path / "train2017" / "a.png", *sizes.values())
    out = ("--output-dir", tmp_path / "run", "--val-split", "none", "--workers", 1)
    train = command("train", *TINY, "--data-path", tmp_path, *out)
    small = "mount -t tmpfs -o size=300k tmpfs /dev/shm && exec "
    done = shell(["unshare", "-m", "bash", "-c", small + shlex.join(map(str, train))])
    assert done.code == 7, done.err
    assert done.err.splitlines()[-1].startswith("error: /dev/shm: 0.3 MiB, too little")


def test_images_without_boxes_make_empty_targets(data):
    empty = int(np.flatnonzero(~data.with_boxes())[0])
    batch = loader.Images(data)[MicroBatch(0, 0, 0, (empty, empty))]
    assert [tuple(t["boxes"].shape) for t in batch.targets()] == [(0, 4), (0, 4)]
    assert [tuple(t["labels"].shape) for t in batch.targets()] == [(0,), (0,)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, workers: int):
    make.coco(tmp_path)
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    path = tmp_path / "train2017" / "b.png"
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError) as error:
        list(loader.load(loader.Images(data), micro_batches(1), workers=workers, pin_memory=False))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: image 2: ")
    assert "--bad-data skip" in line


def test_an_image_that_was_exchanged_for_one_of_another_size(tmp_path: Path):
    """Its boxes would be drawn on something else."""
    make.coco(tmp_path)
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    make.image(tmp_path / "train2017" / "a.png", 80, 120)
    error = loader.Images(data)[MicroBatch(0, 0, 0, (0,))]
    assert isinstance(error, DataError)
    assert "image 1: height 80, width 120, but it had height 40, width 60" in str(error)


@pytest.fixture
def own(shapes_folder: Path, tmp_path: Path):
    """The shapes, in files to break."""
    shutil.copytree(shapes_folder, tmp_path / "data")
    return formats.read(tmp_path / "data", "train", "auto", (), Problems())


@pytest.mark.parametrize("workers", [0, 2])
def test_stand_ins_replace_images_that_went_bad(own, workers: int):
    for i in (2, 3):
        Path(own.path(i)).write_bytes(b"")
    # 2 to 6 have one shape; 4 is known to be replaced
    bucket = [0, 0, 1, 1, 1, 1, 1, *[0] * (len(own) - 7)]
    planned = [MicroBatch(0, 0, 7, (0, 2)), MicroBatch(0, 1, 7, (6, 3))]
    dataset = loader.Images(own, flip=0.5, stand_ins=StandIns(bucket, [4], skip=True))
    batches = list(loader.load(dataset, planned, workers=workers, pin_memory=False))
    plain = loader.Images(own, flip=0.5)
    for batch, used in zip(batches, [(0, 5), (6, 5)], strict=True):
        expected = plain[MicroBatch(0, 0, 7, used)]
        assert batch.names == expected.names
        assert batch.pixels.equal(expected.pixels)
        assert batch.boxes.equal(expected.boxes)
    assert batches[0].micro_batch == planned[0]
    assert batches[0].damaged == ((2, "empty file"), (3, "empty file"))
    assert batches[1].damaged == ((3, "empty file"),)


def test_stand_ins_of_a_run_that_stops_at_bad_data(own):
    """It goes on replacing the images that it knows, and no other."""
    dataset = loader.Images(own, stand_ins=StandIns([0] * len(own), [1], skip=False))
    assert dataset[MicroBatch(0, 0, 0, (1,))].names == [own.path(2)]
    Path(own.path(2)).unlink()
    for i in (1, 2):
        assert f"{own.path(2)}: image 2: missing; " in str(dataset[MicroBatch(0, 0, 0, (i,))])


def test_no_image_left_to_stand_in(own):
    Path(own.path(1)).unlink()
    alone = StandIns([k == 1 for k in range(len(own))], [], skip=True)
    error = loader.Images(own, stand_ins=alone)[MicroBatch(0, 0, 0, (1,))]
    assert "image 1: cannot be used, and neither can the images to replace it with" in str(error)


def test_a_bad_image_is_looked_at_again(own, monkeypatch):
    """Else a file that changed without a new time would be taken for good in the next run too."""
    seen: list[str] = []
    monkeypatch.setattr(loader.image_check, "look_again", seen.append)
    Path(own.path(1)).write_bytes(b"")
    loader.Images(own)[MicroBatch(0, 0, 0, (0, 1))]
    assert seen == [own.path(1)]


def test_take(data):
    stream = loader.load(loader.Images(data), micro_batches(3), workers=0, pin_memory=False)
    batches, error = loader.take(stream, 2)
    assert [batch.micro_batch.step for batch in batches] == [0, 1]
    assert error is None
    fault = DataError("bad")

    def failing():
        yield batches[0]
        raise fault

    assert loader.take(failing(), 2) == ([], fault)


def test_memory_of_workers_is_flat_over_epochs(data):
    """A worker that goes three times through 100,000 images with 500,000 boxes copies next to
    nothing of what it shares with its parent; lists of dicts would be copied whole."""
    n, boxes = 100_000, 5
    many = dataclasses.replace(
        data,
        ids=Strings(str(i) for i in range(n)),
        files=Strings([data.files[0]] * n),
        sizes=np.tile(data.sizes[:1], (n, 1)),
        rotate=np.zeros(n, bool),
        seen=np.zeros(n, np.uint8),
        first=np.arange(n + 1) * boxes,
        xywh=np.tile([[1.0, 2.0, 30.0, 40.0]], (n * boxes, 1)),
        labels=np.ones(n * boxes, np.int64),
        trainable=np.ones(n * boxes, bool),
    )

    class Watched(loader.Images):
        def __getitem__(self, micro_batch: MicroBatch):
            for i in range(*micro_batch.images):
                self.annotations.training_boxes(i)
                self.annotations.path(i)
            batch = super().__getitem__(micro_batch)
            rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
            batch.names[0] = sum(int(row.split()[1]) for row in rows if row.startswith("Private"))
            return batch

    parts = [MicroBatch(0, 0, 0, (i, i + 10_000 - 1)) for i in range(0, n, 10_000)] * 3
    used = [b.names[0] for b in loader.load(Watched(many), parts, workers=1, pin_memory=False)]
    assert used[-1] - used[0] < 20_000  # KiB; most of it what a fresh process touches
    assert used[-1] - used[-10] < 3_000


def test_workers_leave_signals_to_their_parent_and_die_with_it(data):
    """A child that loads is killed; its worker must be gone at once."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream = loader.load(
                loader.Images(data), micro_batches(12), workers=1, pin_memory=False
            )
            next(stream)
            pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            os.kill(os.getpid(), signal.SIGSTOP) if not pids else None
            os.write(write, " ".join(pids).encode())
            signal.pause()
        finally:
            os._exit(1)
    workers = [int(pid) for pid in os.read(read, 100).split()]
    assert workers
    assert all(os.getpgid(worker) == worker for worker in workers)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = 50
    while any(_alive(worker) for worker in workers) and deadline:
        signal.sigtimedwait([], 0.1)
        deadline -= 1
    assert not any(_alive(worker) for worker in workers)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
