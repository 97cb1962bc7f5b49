"""The paper's 4-step alternating training, by the commands that its launcher prints."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasterrcnn import seeds
from fasterrcnn.cli import names
from fasterrcnn.commands import assemble, propose, train
from fasterrcnn.data import proposals
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, runtime
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.models.build import build
from tests.conftest import HANG, PROJECT, clean_environment
from tests.models.stock import narrow_vgg16

LAUNCHER = PROJECT / "start_scripts" / "train_fasterrcnn_vgg16_voc_alternating_torch.sh"
RUNS = ("1_rpn", "2_fast_rcnn", "3_rpn", "4_fast_rcnn", "detector")
STEPS = 4
NARROW = (
    "--train-split", "few", "--val-split", "others", "--steps", str(STEPS), "--save-every", "2",
    "--input.min-size", "96", "--input.max-size", "128", "--backbone.base-channels", "2",
    "--roi-heads.representation-size", "16", "--rpn.anchor-sizes", "16,32,64",
    "--rpn.min-side", "2", "--rpn.post-nms-top-n-train", "60", "--rpn.post-nms-top-n-test", "30",
    "--workers", "0", "--device", "cpu", "--amp", "off",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(bccd_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`: ten real images in VOC's layout, six to train on; `vgg.pth`."""
    root = tmp_path_factory.mktemp("alternating")
    lists = root / "data" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    ids = (bccd_voc / "ImageSets" / "Main" / "train.txt").read_text().split()
    (lists / "few.txt").write_text("\n".join(ids[:6]) + "\n")
    (lists / "others.txt").write_text("\n".join(ids[6:10]) + "\n")
    for name in ("Annotations", "JPEGImages"):
        (root / "data" / name).symlink_to(bccd_voc / name)
    torch.save(narrow_vgg16(2, 16).state_dict(), root / "vgg.pth")
    return root


def flags(place: Path, out: Path) -> list[str]:
    fixed = ("--data-path", str(place / "data"), "--weights", str(place / "vgg.pth"))
    return [*NARROW, *fixed, "--output-dir", str(out)]


def commands(place: Path, out: Path) -> list[list[str]]:
    """The name and flags of every command of the launcher."""
    done = subprocess.run(
        ["bash", str(LAUNCHER), *flags(place, out)],
        env=clean_environment() | {"DRY_RUN": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("+ ")]
    return [words[words.index("-m") + 2 :] for words in lines]


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """Everything the launcher makes, undisturbed."""
    out = place / "undisturbed"
    for name, *rest in commands(place, out):
        importlib.import_module(names.module_of(name)).main(rest)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find(run) / "model.safetensors")


def test_the_steps_are_ordinary_runs(finished: Path, place: Path):
    kinds = [name for name, *_ in commands(place, finished)]
    step = ["train", "propose", "train"]
    assert {"AR_100"} <= set(json.loads((finished / "3_rpn" / "results.json").read_text()))
    assert kinds == [*step, *step, "assemble", "evaluate"]
    detectors = [checkpoint.load_detector(finished / run)[1].recipe.detector for run in RUNS]
    assert detectors == ["rpn", "fast_rcnn", "rpn", "fast_rcnn", "faster_rcnn"]
    assert {"AP", "AP50"} <= set(json.loads((finished / "detector" / "results.json").read_text()))


def test_what_is_fixed_stays_and_the_rest_learns(finished: Path, place: Path):
    """Steps 3 and 4 keep step 2's convolutions to the bit; whatever is to train has changed."""
    given = torch.load(place / "vgg.pth")
    found = {run: weights(finished / run) for run in RUNS[:4]}
    frozen = {f"backbone.body.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")}
    for run in ("1_rpn", "2_fast_rcnn"):
        for name, value in found[run].items():
            if name.startswith("backbone.body."):
                start = given[name.replace("backbone.body.", "features.")]
                assert torch.equal(value, start) == (name in frozen), name
    for run in ("3_rpn", "4_fast_rcnn"):
        for name, value in found["2_fast_rcnn"].items():
            if name.startswith("backbone."):
                assert torch.equal(found[run][name], value), name
    recipe = checkpoint.load_detector(finished / "3_rpn")[1].recipe
    torch.manual_seed(seeds.key(recipe.seed, "weights"))
    fresh = build(recipe, 4).state_dict()
    for name, value in found["3_rpn"].items():
        assert name.startswith("backbone.") or not torch.equal(value, fresh[name]), name
    for name, value in found["4_fast_rcnn"].items():
        same = torch.equal(value, found["2_fast_rcnn"][name])
        assert same == name.startswith("backbone."), name


def detections(run: Path, stored: Path | None = None):
    model, state, _ = checkpoint.load_detector(run)
    state.data["val_split"] = "others"
    data = evaluation.read_split(
        evaluation.find_source(state, None, None, None),
        state.classes,
        Problems(),
        config=state.recipe.input,
    )
    rt = runtime.start("cpu")
    return evaluation.evaluate(
        rt.place(model), data, state.recipe, rt, images_per_gpu=2, workers=0,
        stored=stored and proposals.read(stored),
    )[1]  # fmt: skip


def test_the_assembled_detector_is_step_4_on_the_proposals_of_step_3(
    finished: Path, tmp_path: Path
):
    file = tmp_path / "others.proposals"
    propose.main(["--checkpoint", str(finished / "3_rpn"), "--split", "others", "--device", "cpu",
                  "--proposals", str(file), "--workers", "0"])  # fmt: skip
    ours = detections(finished / "detector")
    assert len(ours) > 20
    assert (ours == detections(finished / "4_fast_rcnn", file)).all()
    other = finished / "1_rpn" / "training.proposals"
    with pytest.raises(DataError, match="has no proposals"):
        detections(finished / "4_fast_rcnn", other)


def first_loss(place: Path, out: Path, stored: Path) -> float:
    command = commands(place, out)[2]
    assert command[0] == "train"
    train.main([*command[1:], "--proposals", str(stored), "--steps", "1"])
    lines = (out / "2_fast_rcnn" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    return first["loss_classifier"] + first["loss_box_reg"]


def test_fast_rcnn_reads_proposals_from_the_file_only(finished: Path, place: Path, tmp_path: Path):
    stored = finished / "1_rpn" / "training.proposals"
    loss = first_loss(place, tmp_path / "same", stored)
    found = proposals.read(stored)
    images = [found.of(i) for i in range(len(found.ids))]
    moved = [image._replace(boxes=image.boxes[::-1] * 0.5) for image in images]
    proposals.write(tmp_path / "other.proposals", found.ids, moved, found.about)
    assert first_loss(place, tmp_path / "other", tmp_path / "other.proposals") != loss

    damaged = tmp_path / "damaged.proposals"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.proposals: damaged \(SHA-256 differs\)"):
        first_loss(place, tmp_path / "damaged", damaged)


def test_only_runs_that_fit_are_put_together(finished: Path, tmp_path: Path):
    def together(rpn: str, fast_rcnn: str) -> None:
        assemble.main(["--rpn", str(finished / rpn), "--fast-rcnn", str(finished / fast_rcnn),
                       "-o", str(tmp_path / "out")])  # fmt: skip

    with pytest.raises(UsageError, match=r"--rpn: .*backbone\.body\.10\.weight is not that of"):
        together("1_rpn", "4_fast_rcnn")
    with pytest.raises(UsageError, match="--rpn: a run of --detector fast_rcnn"):
        together("2_fast_rcnn", "4_fast_rcnn")
    with pytest.raises(UsageError, match="--fast-rcnn: a run of --detector rpn"):
        together("3_rpn", "3_rpn")
    assert not (tmp_path / "out").exists()


def test_another_run_is_not_overwritten(finished: Path, tmp_path: Path):
    flags = ["--rpn", str(finished / "3_rpn"), "--fast-rcnn", str(finished / "4_fast_rcnn")]
    before = sorted(finished.rglob("*.safetensors"))
    for run in ("4_fast_rcnn", "2_fast_rcnn"):
        with pytest.raises(UsageError, match="holds another run"):
            assemble.main([*flags, "-o", str(finished / run)])
    assemble.main([*flags, "-o", str(finished / "detector")])  # this very detector: nothing to do
    assert sorted(finished.rglob("*.safetensors")) == before
    shutil.copytree(finished / "4_fast_rcnn", tmp_path / "other")
    state = tmp_path / "other" / "checkpoints" / f"step-{STEPS:08d}" / "state.json"
    content = json.loads(state.read_text())
    content["recipe"]["rpn"]["post_nms_top_n_test"] = 7
    state.write_text(json.dumps(content))
    manifest = json.loads((state.parent / "MANIFEST.json").read_text())
    manifest["state.json"] = checkpoint._fingerprint(state)
    (state.parent / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="post_nms_top_n_test is not that of"):
        assemble.main(
            [*flags[:2], "--fast-rcnn", str(tmp_path / "other"), "-o", str(tmp_path / "o")]
        )


def test_flags_that_do_not_go_together(finished: Path, place: Path, tmp_path: Path):
    stored = str(finished / "1_rpn" / "training.proposals")
    base = flags(place, tmp_path / "out")
    with pytest.raises(UsageError, match="--proposals: Fast R-CNN needs proposals"):
        train.main(["--recipe", "fast_rcnn_vgg16_voc", *base])
    with pytest.raises(UsageError, match="only --detector fast_rcnn takes"):
        train.main(["--recipe", "rpn_vgg16_voc", *base, "--proposals", stored])


def run_and_kill(command: list[str], ready, how=signal.SIGKILL) -> int:
    """Run the launcher; kill it as soon as `ready()`: its whole group, or by SIGTERM it alone. Its
    exit code."""
    environment = clean_environment() | {"PYTHON": sys.executable}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while process.poll() is None:
            if ready():
                (os.killpg if how == signal.SIGKILL else os.kill)(process.pid, how)
                process.wait(HANG)
            time.sleep(0.005)
        return process.wait()


@pytest.mark.slow
def test_killed_in_each_step_it_ends_with_the_same_bits(finished: Path, place: Path):
    """In training after its first checkpoint, while proposals are made, between commands; and once
    by a SIGTERM to the script alone, which hands it on."""
    out = place / "killed"
    command = ["bash", str(LAUNCHER), *flags(place, out)]

    def appears(path: str):
        return lambda: (out / path).exists()

    def proposing():
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        return any(b"fasterrcnn\0propose" in c and bytes(out) in c for c in commands)

    assert run_and_kill(command, appears("1_rpn/checkpoints/step-00000002"), signal.SIGTERM) == 143
    assert json.loads((out / "1_rpn" / "status.json").read_text())["kind"] == "Stopped"
    assert run_and_kill(command, proposing) == -signal.SIGKILL
    assert not (out / "1_rpn" / "training.proposals").exists()
    for moment in (
        "1_rpn/training.proposals",
        "2_fast_rcnn/checkpoints/step-00000002",
        "3_rpn/checkpoints/step-00000002",
        "3_rpn/training.proposals",
        "4_fast_rcnn/checkpoints/step-00000002",
        "detector/checkpoints/step-00000004",
    ):
        assert not (out / moment).exists(), moment
        assert run_and_kill(command, appears(moment)) == -signal.SIGKILL, moment
    assert run_and_kill(command, lambda: False) == 0
    for run in RUNS:
        mine, theirs = weights(out / run), weights(finished / run)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), (run, name)
    for run in ("1_rpn", "3_rpn"):
        files = [proposals.read(root / run / "training.proposals") for root in (out, finished)]
        assert files[0].sha256 == files[1].sha256
    assert run_and_kill(command, lambda: False) == 0  # finished: evaluated again, nothing else


@pytest.mark.slow
def test_a_step_at_the_real_width(place: Path):
    """VGG-16 at 600 px with 4096 wide layers; a step of each kind."""
    out = place / "wide"
    common = ["--data-path", str(place / "data"), "--weights", "none", "--train-split", "few",
              "--val-split", "none", "--steps", "1", "--workers", "0", "--amp", "off"]  # fmt: skip
    train.main(["--recipe", "rpn_vgg16_voc", *common, "--output-dir", str(out / "rpn")])
    propose.main([
        "--checkpoint", str(out / "rpn"), "--training", "--proposals", str(out / "p"),
        "--workers", "0",
    ])  # fmt: skip
    train.main(["--recipe", "fast_rcnn_vgg16_voc", *common, "--proposals", str(out / "p"),
                "--output-dir", str(out / "fast_rcnn")])  # fmt: skip
    train.main(["--recipe", "fasterrcnn_vgg16_voc", *common, "--output-dir", str(out / "both")])
    for run in ("rpn", "fast_rcnn", "both"):
        line = json.loads((out / run / "metrics.jsonl").read_text().splitlines()[0])
        assert 0.5 < sum(value for key, value in line.items() if key.startswith("loss_")) < 10
    shutil.rmtree(out)


@pytest.mark.parametrize("wrong", ["--recipe", "--recipe=x", "--detector"])
def test_flags_that_each_step_has_of_its_own(shell, wrong: str):
    done = shell(["bash", LAUNCHER, wrong, "fasterrcnn_vgg16_voc"], DRY_RUN="1")
    assert done.code == 2
    assert done.err.startswith(f"error: {wrong}: every step has its own; RECIPE=NAME chooses")


@pytest.mark.parametrize("wrong", ["--val-fraction", "--val-fraction=0.1"])
def test_nothing_is_held_out(shell, wrong: str):
    done = shell(["bash", LAUNCHER, wrong, "0.1"], DRY_RUN="1")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {wrong}: the four steps hold nothing out; name a split to evaluate on with "
        "--val-split, or none\n"
    )


def test_help_is_the_trainers_and_nothing_runs(shell):
    done = shell(["bash", LAUNCHER, "--help"], DRY_RUN="1")
    assert done.code == 0
    (line,) = done.out.splitlines()
    assert line.endswith("-m fasterrcnn train --recipe rpn_vgg16_voc --help")


def test_without_a_split_nothing_is_evaluated(shell, tmp_path: Path):
    done = shell(["bash", LAUNCHER, "--val-split", "none"], DRY_RUN="1", cwd=tmp_path)
    assert "fasterrcnn evaluate" not in done.out
    words = shlex.split(done.out)
    assert words[words.index("--output-dir") + 1] == (
        f"{PROJECT}/output/vgg16_voc_alternating/1_rpn"
    )
