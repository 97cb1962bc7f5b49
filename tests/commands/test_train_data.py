"""The data of a run: images that are left out or go bad before and during it, splits, classes."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fasterrcnn.data import images
from fasterrcnn.engine import run_data, training
from fasterrcnn.errors import DataError
from tests.commands.runs import assert_same_bits, refused, rows, run
from tests.data import make


def test_data_errors_come_before_the_first_step(tmp_path: Path, capsys):
    content = make.changed(("annotations", 1, "bbox", 2), -1)
    make.coco(tmp_path / "data", content)
    message = refused(DataError, tmp_path / "data", tmp_path / "run", "--val-split", "none")
    assert "/annotations/1/bbox/2" in message
    listed = [json.loads(x) for x in (tmp_path / "run" / "problems.jsonl").read_text().splitlines()]
    assert listed[0]["field"].startswith("/annotations/1/bbox/2")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["code"] == 3
    capsys.readouterr()
    flags = ("--val-split", "none", "--bad-data", "skip", "--steps", "1")
    run(tmp_path / "data", tmp_path / "run", *flags)
    assert "data: 1 x width and height must not be negative: dropped" in capsys.readouterr().out


def copy_of(folder: Path, place: Path) -> tuple[Path, Path]:
    """A data set to break, and one of its training images."""
    shutil.copytree(folder, place)
    return place, sorted((place / "train").glob("*.png"))[7]


@contextlib.contextmanager
def after_step(number: int, action, monkeypatch):
    """Inside, `action` is called after step `number` (from 1), before the next batch is loaded."""
    train_step, done = training.train_step, []

    def watch(*args, **options):
        result = train_step(*args, **options)
        done.append(result)
        if len(done) == number:
            action()
        return result

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_step", watch)
        yield


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def kill() -> None:
    raise KeyboardInterrupt


STEPS = ("--steps", "14", "--val-split", "none", "--save-every", "0")  # two epochs


def test_an_image_that_goes_bad_stops_the_run_with_its_state_saved(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    data, victim = copy_of(shapes_folder, tmp_path / "data")
    out = tmp_path / "run"
    with after_step(6, lambda: cut(victim), monkeypatch):
        message = refused(DataError, data, out, *STEPS)
    (saved,) = (out / "checkpoints").glob("step-*")
    step = int(saved.name[5:])
    assert 6 <= step < 14
    assert message.startswith(f"{victim}: image 7: cannot be decoded")
    assert f"; step {step} saved in {saved}; the same command continues" in message
    assert json.loads((out / "status.json").read_text())["step"] == step
    assert len(rows(out)) == step
    message = refused(DataError, data, out, *STEPS)  # found at once now
    assert message.startswith(f"{victim}: image 7: ")
    shutil.copy(shapes_folder / "train" / victim.name, victim)
    assert_same_bits(run(data, out, *STEPS), run(shapes_folder, tmp_path / "straight", *STEPS))


def test_a_bad_image_in_the_first_step_leaves_no_checkpoint(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    data, _ = copy_of(shapes_folder, tmp_path / "data")
    check = run_data.image_check.find_damaged

    def check_and_cut(*args):
        found = check(*args)
        for path in (data / "train").glob("*.png"):
            cut(path)
        return found

    monkeypatch.setattr(run_data.image_check, "find_damaged", check_and_cut)
    message = refused(DataError, data, tmp_path / "run", *STEPS)
    assert "before the first step; the same command continues" in message
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("killed_after", [8, 14])  # image 7 is read in the steps 2 and 13
def test_with_skip_it_is_replaced_and_a_killed_run_ends_with_the_same_bits(
    shapes_folder: Path, tmp_path: Path, monkeypatch, capsys, killed_after: int
):
    flags = (*STEPS, "--bad-data", "skip", "--save-every", "1")
    data, victim = copy_of(shapes_folder, tmp_path / "data")
    with after_step(6, lambda: cut(victim), monkeypatch):
        undisturbed = run(data, tmp_path / "undisturbed", *flags)
    text = capsys.readouterr().out
    assert text.count(f"data: {victim}: image 7: ") == 1
    assert "; replaced by another image" in text
    listed = (tmp_path / "undisturbed" / "problems.jsonl").read_text().splitlines()
    assert [json.loads(line)["field"] for line in listed] == ["image 7"]

    data, victim = copy_of(shapes_folder, tmp_path / "again")
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        with after_step(6, lambda: cut(victim), monkeypatch):
            with after_step(killed_after, kill, monkeypatch):
                run(data, out, *flags)
    if killed_after == 14:  # its checkpoint knows the image
        victim.unlink()
    assert_same_bits(undisturbed, run(data, out, *flags))
    straight = run(shapes_folder, tmp_path / "straight", *flags)
    with pytest.raises(AssertionError):
        assert_same_bits(undisturbed, straight)
    state = json.loads((undisturbed / "state.json").read_text())
    assert state["data"]["bad_images"] == {
        "left_out": [],
        "replaced": {"7": [f"train/{victim.name}", *state_size(shapes_folder, victim.name), False]},
    }


def test_an_image_that_was_replaced_stays_so_when_its_file_is_mended(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    """In the process that replaced it, with batches loaded ahead, as in one that is continued."""
    flags = (*STEPS, "--steps", "21", "--bad-data", "skip", "--save-every", "1")  # three epochs

    def damage_and_mend(name: str, killed_after: int, *more: str) -> Path:
        data, victim = copy_of(shapes_folder, tmp_path / f"{name} data")
        with (
            after_step(6, lambda: cut(victim), monkeypatch),
            after_step(13, lambda: shutil.copy(shapes_folder / "train" / victim.name, victim),
                       monkeypatch),
            after_step(killed_after, kill, monkeypatch),
            contextlib.suppress(KeyboardInterrupt),
        ):  # fmt: skip
            return run(data, tmp_path / name, *flags, *more)
        return run(data, tmp_path / name, *flags, *more)

    straight = damage_and_mend("straight", 99, "--workers", "2")
    assert_same_bits(straight, damage_and_mend("killed", 15))


def state_size(root: Path, name: str) -> list[int]:
    images = json.loads((root / "annotations" / "instances_train.json").read_text())["images"]
    (image,) = [image for image in images if image["file_name"] == name]
    return [image["height"], image["width"]]


def test_what_was_left_out_at_the_start_stays_left_out(shapes_folder: Path, tmp_path: Path, capsys):
    data, victim = copy_of(shapes_folder, tmp_path / "data")
    cut(victim)
    message = refused(DataError, data, tmp_path / "refused", *STEPS)
    assert message.startswith(f"{victim}: image 7: ")
    flags = (*STEPS, "--bad-data", "skip")
    straight = run(data, tmp_path / "straight", *flags)
    assert "23 training images" in capsys.readouterr().out
    run(data, tmp_path / "parts", *flags, "--steps", "4")
    shutil.copy(shapes_folder / "train" / victim.name, victim)
    parts = run(data, tmp_path / "parts", *flags, "--resume")
    assert "earlier in this run: still left out" in capsys.readouterr().out
    assert_same_bits(straight, parts)


def test_a_validation_image_is_checked_before_the_first_step(shapes_folder: Path, tmp_path: Path):
    data, _ = copy_of(shapes_folder, tmp_path / "data")
    victim = sorted((data / "val").glob("*.png"))[2]
    cut(victim)
    message = refused(DataError, data, tmp_path / "run", "--steps", "1")
    assert message.startswith(f"{victim}: image ")
    run(data, tmp_path / "run", "--steps", "1", "--bad-data", "skip")


def test_a_validation_image_that_goes_bad_stops_the_run_even_with_skip(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    """No other one can stand in for it. The same command continues without it."""
    data, _ = copy_of(shapes_folder, tmp_path / "data")
    victim = sorted((data / "val").glob("*.png"))[2]
    out, flags = tmp_path / "run", ("--eval-every", "3", "--bad-data", "skip")
    with after_step(4, lambda: cut(victim), monkeypatch):
        message = refused(DataError, data, out, *flags, "--steps", "7")
    assert message.startswith(f"{victim}: image ")
    assert "; step 6 saved in " in message
    assert json.loads((out / "results.json").read_text())["step"] == 3
    run(data, out, *flags, "--steps", "7")
    assert json.loads((out / "results.json").read_text())["step"] == 7
    (listed,) = (out / "problems.jsonl").read_text().splitlines()
    assert json.loads(listed)["file"] == str(victim)


@pytest.fixture
def _limit_as_before():
    yield
    images.limit_pixels(images.MAX_PIXELS)


@pytest.mark.usefixtures("_limit_as_before")
def test_the_limit_of_pixels(shapes_folder: Path, tmp_path: Path):
    flags = ("--steps", "1", "--val-split", "none", "--max-image-pixels")
    message = refused(DataError, shapes_folder, tmp_path / "run", *flags, 120 * 120)
    assert "more than 14400 pixels" in message
    assert "raise the limit with --max-image-pixels" in message
    run(shapes_folder, tmp_path / "run", *flags, 160 * 160)


def test_no_image_with_boxes(tmp_path: Path):
    content = make.changed(("annotations",), [make.CONTENT["annotations"][2]])  # only the crowd
    make.coco(tmp_path / "data", content)
    flags = ("--val-split", "none", "--no-data.keep-empty")
    message = refused(DataError, tmp_path / "data", tmp_path / "run", *flags)
    assert "0 of 2 images have a box to train on" in message


@pytest.mark.parametrize("keep", [True, False])
def test_keep_empty(shapes_folder: Path, tmp_path: Path, keep: bool, capsys):
    flag = "--data.keep-empty" if keep else "--no-data.keep-empty"
    run(shapes_folder, tmp_path / "run", "--steps", "1", "--val-split", "none", flag)
    text = capsys.readouterr().out
    left_out = int(text.split(" images without boxes left out")[0].rsplit("(", 1)[1])
    assert (left_out == 0) == keep


def test_small_images_are_left_out(shapes_folder: Path, tmp_path: Path, capsys):
    """MMDetection's filter. Short sides are 120 to 160 px."""
    flags = ("--steps", "1", "--val-split", "none", "--data.min-image-side")
    run(shapes_folder, tmp_path / "few", *flags, "130")
    out = capsys.readouterr().out
    left_out = int(out.split(" training images smaller than --data.min-image-side")[0].split()[-1])
    assert 0 < left_out < 24
    assert f"{24 - left_out} training images with" in out
    run(shapes_folder, tmp_path / "all", *flags, "32")
    assert "smaller than" not in capsys.readouterr().out


def test_eight_images_or_one_train(tmp_path: Path):
    make.coco(tmp_path / "data")
    run(tmp_path / "data", tmp_path / "run", "--steps", "3", "--val-split", "none",
        "--images-per-step", "16", "--images-per-gpu", "2")  # fmt: skip
    assert len(rows(tmp_path / "run")) == 3


def test_subset_of_classes(shapes_folder: Path, tmp_path: Path):
    out = tmp_path / "run"
    last = run(shapes_folder, out, "--steps", "1", "--classes", "star,ring")
    state = json.loads((last / "state.json").read_text())
    assert state["classes"] == {"names": ["star", "ring"], "category_ids": [4, 6]}
    assert set(json.loads((out / "results.json").read_text())["per_class"]) == {"star", "ring"}
    weight = load_file(last / "model.safetensors")["roi_heads.box_predictor.cls_score.weight"]
    assert len(weight) == 3
