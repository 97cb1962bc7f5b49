"""The trainer: exact resume, equal results however it is run, refusals. Real runs on real files.

Runs are small (`TINY`) and happen in this process; several processes, signals and kills are in
test_torchrun.py, data and what becomes of bad images in test_train_data.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasterrcnn.engine import training
from fasterrcnn.errors import CheckpointError, Diverged, StorageError, UsageError
from fasterrcnn.models import boxes
from fasterrcnn.models.transform import Transform
from tests.commands.runs import assert_same_bits, refused, rows, run

AUGMENTED = ("--augment.photometric", "--augment.zoom-out", "--augment.iou-crop")
FP16 = ("--amp", "fp16", "--schedule.clip-grad-norm", "1", "--schedule.ema-decay", "0.9")


@pytest.mark.parametrize("flags", [
    pytest.param((), id="fp32"),
    pytest.param((*FP16, "--steps", "6"), id="fp16 with clipping and averaged weights"),
    pytest.param((*AUGMENTED, "--steps", "6"), id="augmented"),
    pytest.param(("--roi-heads.stages", "3", "--steps", "6"), id="cascade"),
    pytest.param(("--amp", "bf16"), id="bf16", marks=pytest.mark.slow),
])  # fmt: skip
def test_however_it_is_run_the_bits_are_the_same(shapes_folder: Path, tmp_path: Path, flags: tuple):
    """10 steps straight = 4 + 6 by resume = other workers = with evaluation in between."""
    steps = ("--steps", "10", "--val-split", "none", *flags)
    straight = run(shapes_folder, tmp_path / "straight", *steps)
    run(shapes_folder, tmp_path / "parts", *steps, "--steps", "4")
    parts = run(shapes_folder, tmp_path / "parts", *steps, "--resume")
    assert_same_bits(straight, parts)
    workers = run(shapes_folder, tmp_path / "workers", *steps, "--workers", "2")
    assert_same_bits(straight, workers)
    evaluated = run(
        shapes_folder, tmp_path / "evaluated", *steps, "--val-split", "val", "--eval-every", "3"
    )
    assert_same_bits(straight, evaluated)
    logged = "loss_classifier_stage2" if "--roi-heads.stages" in flags else "loss_classifier"
    assert [r[logged] for r in rows(tmp_path / "straight")] == [
        r[logged] for r in rows(tmp_path / "parts")
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_deterministic_runs_on_a_gpu_have_the_same_bits(
    shapes_folder: Path, tmp_path: Path, amp: str
):
    flags = ("--device", "cuda", "--deterministic", "--amp", amp, "--val-split", "none")
    straight = run(shapes_folder, tmp_path / "straight", *flags, "--steps", "6")
    run(shapes_folder, tmp_path / "parts", *flags, "--steps", "3")
    parts = run(shapes_folder, tmp_path / "parts", *flags, "--steps", "6", "--resume")
    assert_same_bits(straight, parts)


def test_model_runs_channels_last(shapes_folder: Path, tmp_path: Path, monkeypatch):
    seen = []
    original = training.train_step

    def watch(state, *args):
        seen.append(state.detector.backbone.body.layer1[0].conv1.weight)
        return original(state, *args)

    monkeypatch.setattr(training, "train_step", watch)
    run(shapes_folder, tmp_path / "run", "--steps", "1", "--val-split", "none")
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_batch_cut_in_two_is_the_whole_batch(shapes_folder: Path, tmp_path: Path, monkeypatch):
    """With the same sampled indices and equal counts, micro-batches average to the batch.

    Sampling is made deterministic (the first ones), and norms frozen: statistics of a batch are
    what accumulation cannot reproduce.
    """

    def first(shape, device):
        return torch.linspace(0, 1, shape[1], device=device).expand(shape)

    monkeypatch.setattr(boxes.torch, "rand", first)
    common = ("--steps", "1", "--val-split", "none", "--backbone.norm", "frozen", "--input.flip", 0)
    common += ("--rpn.batch-size-per-image", 32, "--roi-heads.batch-size-per-image", 16)
    square = ("--input.min-size", 64, "--input.max-size", 64)  # one bucket
    whole = run(shapes_folder, tmp_path / "whole", *common, *square, "--images-per-gpu", 4)
    cut = run(shapes_folder, tmp_path / "cut", *common, *square, "--images-per-gpu", 2)
    assert (
        rows(tmp_path / "whole")[0]["rpn_positives"] == rows(tmp_path / "cut")[0]["rpn_positives"]
    )
    a, b = (load_file(path / "optimizer.safetensors") for path in (whole, cut))
    assert set(a) == set(b)
    assert len(a) > 20
    for key in a:  # momentum after one step is the gradient
        difference = (a[key] - b[key]).norm() / a[key].norm().clamp(min=1e-12)
        assert difference < 1e-5, key


def test_augmentation_changes_pixels_but_not_the_plan(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    """Every padded shape fits into the one that the images have without augmentation."""
    batches, shapes = [], []
    forward, train_step = Transform.forward, training.train_step

    def watch_transform(self, *args):
        padded = forward(self, *args)
        shapes.append(tuple(padded.pixels.shape[2:]))
        return padded

    def watch_step(state, own, *args):
        batches.extend(own)
        return train_step(state, own, *args)

    monkeypatch.setattr(Transform, "forward", watch_transform)
    monkeypatch.setattr(training, "train_step", watch_step)
    flags = ("--steps", "6", "--val-split", "none")
    run(shapes_folder, tmp_path / "plain", *flags)
    run(shapes_folder, tmp_path / "augmented", *flags, *AUGMENTED)
    plain, augmented = batches[:12], batches[12:]
    assert [b.micro_batch for b in plain] == [b.micro_batch for b in augmented]
    assert all(b.planned is None for b in plain)
    assert [b.planned for b in augmented] == shapes[:12]
    assert all(a.sizes != b.sizes for a, b in zip(plain, augmented, strict=True))
    for (height, width), (most_height, most_width) in zip(shapes[12:], shapes[:12], strict=True):
        assert (height, width) in [(64, 64), (64, 96), (96, 64)]
        assert height <= most_height
        assert width <= most_width


@pytest.mark.parametrize("threshold", ["0", "0.9"])
def test_the_order_of_the_images_is_the_plans(
    shapes_folder: Path, tmp_path: Path, monkeypatch, capsys, threshold: str
):
    """Also where images are repeated: every shape is in less than 0.9 of the images."""
    flags = ("--val-split", "none", "--data.repeat-threshold", threshold)
    seen = []
    original = training.train_step

    def watch(state, batches, *args):
        seen.extend(b.micro_batch for b in batches)
        return original(state, batches, *args)

    monkeypatch.setattr(training, "train_step", watch)
    run(shapes_folder, tmp_path / "run", "--steps", "9", *flags)
    assert ("classes are repeated, most often" in capsys.readouterr().out) == (threshold != "0")
    straight, seen[:] = list(seen), []
    run(shapes_folder, tmp_path / "again", "--steps", "5", *flags)
    run(shapes_folder, tmp_path / "again", "--steps", "9", *flags, "--resume")
    assert seen == straight
    assert [(m.step, m.index) for m in seen] == [(s, i) for s in range(9) for i in range(2)]
    assert ({copy for m in seen for copy in m.copies} > {0}) == (threshold != "0")


def test_log_results_and_run_folder(shapes_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    run(shapes_folder, out, "--steps", "7", "--eval-every", "3", "--save-every", "2")
    found = rows(out)
    assert [r["step"] for r in found] == list(range(1, 8))
    for row in found:
        for key in ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"):
            assert math.isfinite(row[key])
        for key in ("lr", "grad_norm", "rpn_positives", "roi_positives", "roi_accuracy"):
            assert key in row
    assert {"images_per_s", "step_s", "data_s", "peak_memory_gb"} <= set(found[-1])
    results = json.loads((out / "results.json").read_text())
    assert results["step"] == 7
    for key in ("AP", "AP50", "AP75", "AR_100", "validation_loss"):
        assert results[key] >= 0
    assert set(results["per_class"]) == {"circle", "square", "triangle", "star", "cross", "ring"}
    assert json.loads((out / "recipe.json").read_text())["schedule"]["images_per_step"] == 4
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert json.loads((out / "status.json").read_text())["code"] == 0
    names = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert len(names) in (3, 4)  # the last three, and the best
    text = capsys.readouterr().out
    for part in ("schedule: 7 steps of 4 images", "weights: fresh", "eta", "img/s", "AP50"):
        assert part in text


def test_overflow_of_the_first_fp16_step_changes_nothing(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    """Weights, momentum and average stay; then everything is as plain SGD from there."""
    from fasterrcnn.engine import runtime

    flags = ("--val-split", "none", "--amp", "fp16", "--schedule.ema-decay", "0.5")
    monkeypatch.setattr(
        runtime.Runtime, "scaler", lambda self, amp: torch.amp.GradScaler("cpu", init_scale=1e30)
    )
    first = run(shapes_folder, tmp_path / "run", "--steps", "1", *flags)
    (row,) = rows(tmp_path / "run")
    assert row["skipped"] is True
    assert row["grad_norm"] is None
    momentum = load_file(first / "optimizer.safetensors")
    assert all((value == 0).all() for value in momentum.values())
    model, average = (load_file(first / f"{n}.safetensors") for n in ("model", "ema"))
    for key in momentum:
        assert model[key].equal(average[key])
    assert len(momentum) > 20
    state = json.loads((first / "state.json").read_text())
    assert state["scaler"]["scale"] == pytest.approx(5e29)  # halved, and saved


def test_a_step_after_an_overflow_is_plain_sgd():
    """The trap: torch's fused SGD starts from an uninitialized buffer when step one overflows."""
    from fasterrcnn.engine.step import make_optimizer
    from fasterrcnn.recipes import Schedule

    torch.manual_seed(0)
    model = torch.nn.Linear(40, 40)
    plain = torch.nn.Linear(40, 40)
    plain.load_state_dict(model.state_dict())
    optimizer = make_optimizer(model, Schedule(lr=0.1))
    reference = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(8, 40)
    for step in range(4):
        loss = model(x).square().mean()
        scaler.scale(loss * (float("inf") if step == 0 else 1)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if step:
            plain(x).square().mean().backward()
            reference.step()
            reference.zero_grad()
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7), step


# Refusals: one line, the right code, nothing lost.


def test_a_finished_or_different_run_is_refused(shapes_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    done = run(shapes_folder, out, "--steps", "3", "--val-split", "none")
    before = {p.name: p.read_bytes() for p in done.iterdir()}
    message = refused(UsageError, shapes_folder, out, "--steps", "3")
    assert "finished at step 3" in message
    assert "--resume and --epochs or --steps" in message
    assert "finished" in refused(UsageError, shapes_folder, out, "--steps", "9")
    assert "finished" in refused(UsageError, shapes_folder, out, "--steps", "2", "--resume")
    message = refused(UsageError, shapes_folder, out, "--steps", "9", "--seed", "1", "--resume")
    assert "seed: 0 -> 1" in message
    message = refused(UsageError, shapes_folder, out, "--steps", "9", "--images-per-gpu", "4")
    assert "schedule.images_per_gpu: 2 -> 4" in message
    other = tmp_path / "data"
    from fasterrcnn.data import shapes

    shapes.write(other, train=5, val=2)
    message = refused(UsageError, other, out, "--steps", "9")
    assert "training images or boxes: missing, unreadable or repaired images count too" in message
    assert {p.name: p.read_bytes() for p in done.iterdir()} == before
    capsys.readouterr()
    run(shapes_folder, out, "--steps", "3", "--val-split", "none", "--skip-finished")
    assert "already finished" in capsys.readouterr().out
    longer = run(shapes_folder, out, "--steps", "5", "--val-split", "none", "--resume")
    assert longer.name == "step-00000005"


def test_an_unfinished_run_continues_by_the_same_command(
    shapes_folder: Path, tmp_path: Path, capsys
):
    """A run that died at step 6 of 8, its newest checkpoint damaged, leftovers beside it."""
    out = tmp_path / "run"
    flags = ("--val-split", "none", "--save-every", "2", "--keep", "9")
    whole = run(shapes_folder, tmp_path / "whole", "--steps", "8", *flags)
    run(shapes_folder, out, "--steps", "8", *flags)
    (out / "checkpoints" / "step-00000008" / "MANIFEST.json").unlink()
    (out / "checkpoints" / ".tmp-step-00000009-1").mkdir()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss')  # torn
    capsys.readouterr()
    resumed = run(shapes_folder, out, "--steps", "8", *flags)
    text = capsys.readouterr().out
    assert "removed .tmp-step-00000009-1" in text
    assert "step-00000008: MANIFEST.json is missing" in text
    assert "continuing at step 6" in text
    assert_same_bits(whole, resumed)
    assert [row["step"] for row in rows(out)] == list(range(1, 9))


def test_resume_needs_something_to_resume(shapes_folder: Path, tmp_path: Path):
    out = tmp_path / "run"
    assert "no usable checkpoint" in refused(CheckpointError, shapes_folder, out, "--resume")
    done = run(shapes_folder, out, "--steps", "1", "--val-split", "none")
    (done / "model.safetensors").unlink()  # never silently start from zero over a damaged run
    assert "no usable checkpoint" in refused(CheckpointError, shapes_folder, out, "--steps", "2")


def test_a_folder_in_use_is_refused(shapes_folder: Path, tmp_path: Path):
    from fasterrcnn.engine.run_folder import RunFolder

    first = RunFolder(tmp_path / "run")
    first.open()
    message = refused(UsageError, shapes_folder, tmp_path / "run", "--steps", "1")
    assert "in use by process" in message


def test_places_that_cannot_be_written(shapes_folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    assert "not a folder" in refused(UsageError, shapes_folder, tmp_path / "file")
    assert "not a folder" in refused(UsageError, shapes_folder, tmp_path / "file" / "run")
    assert refused(StorageError, shapes_folder, Path("/proc/run"))
    assert (tmp_path / "file").read_text() == "mine"


def test_divergence_stops_and_names_the_images(shapes_folder: Path, tmp_path: Path):
    flags = ("--steps", "40", "--val-split", "none", "--save-every", "1", "--log-every", "5")
    message = refused(
        Diverged,
        shapes_folder,
        tmp_path / "run",
        *flags,
        "--lr",
        "1e12",
        "--schedule.warmup-steps",
        0,
    )
    assert "not finite" in message
    assert ".png" in message
    assert "\n" not in message
    for path in (tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors"):
        assert all(v.isfinite().all() for v in load_file(path).values() if v.is_floating_point())


def test_wrong_numbers(shapes_folder: Path, tmp_path: Path):
    out = tmp_path / "run"
    assert "choose from 1, 2, 4" in refused(UsageError, shapes_folder, out, "--images-per-gpu", "3")
    assert "must be 1 or more" in refused(UsageError, shapes_folder, out, "--steps", "0")
    assert not out.exists()  # nothing is touched before the flags are right


def test_stored_proposals_do_not_follow_a_crop(shapes_folder: Path, tmp_path: Path):
    flags = ("--detector", "fast_rcnn", "--proposals", tmp_path / "p", "--augment.iou-crop")
    message = refused(UsageError, shapes_folder, tmp_path / "run", *flags)
    assert "do not follow zoom-out, iou-crop and jitter" in message
    assert not (tmp_path / "run").exists()
