"""Several processes: equal results on any number of them, exit codes, signals, kills, orphans.

Through the launchers, as a user runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasterrcnn.commands import torchrun
from tests.commands.processes import (
    ALL,
    ONE,
    has_handlers,
    in_session,
    left_after,
    processes_of,
    run_folder,
    start,
    train,
    wait_for_step,
)
from tests.commands.runs import assert_same_bits, rows, run
from tests.conftest import HANG, TINY, clean_environment, command

__all__ = ["run_folder"]  # a fixture
AUGMENTED = (
    *("--augment.photometric", "--augment.zoom-out", "--augment.iou-crop"),
    *("--augment.jitter", "--augment.jitter-size", 96),
)


def train_here(root: Path, out: Path, *flags: object) -> Path:
    """What `train` with `ONE` does, in this process, which has imported torch already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(root, out, "--amp", "off", *flags)
    finally:
        torch.set_num_threads(threads)


def assert_close(a: Path, b: Path) -> None:
    """Tensors of two files differ by at most 1e-5 of their norm."""
    first, second = load_file(a), load_file(b)
    assert set(first) == set(second)
    assert len(first) > 20
    for key in first:
        assert (first[key] - second[key]).norm() <= 1e-5 * first[key].norm(), key


@pytest.mark.parametrize("stages", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_are_one_rank_with_accumulation(shapes_folder: Path, tmp_path: Path, stages: int):
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--roi-heads.stages", stages)
    one = train_here(shapes_folder, tmp_path / "one", *flags, "--steps", 1)
    two = train(ALL, tmp_path / "two", *flags, "--steps", 1, ngpu=2)
    # momentum after one step is the gradient (and weight decay of equal weights)
    assert_close(one / "optimizer.safetensors", two / "optimizer.safetensors")
    for key in ("loss_classifier" + "_stage2" * (stages > 1), "loss_objectness", "rpn_positives"):
        assert rows(tmp_path / "one")[0][key] == pytest.approx(rows(tmp_path / "two")[0][key], 1e-6)
    text = (tmp_path / "two.log").read_text()
    assert "2 processes" in text
    assert text.count("\nrecipe fasterrcnn_r10_fpn_shapes") == 1  # one rank speaks
    assert "Warning" not in text


def test_two_ranks_resume_with_the_same_bits_and_evaluate_every_image_once(
    shapes_folder: Path, tmp_path: Path
):
    # One image at a time: what an image's neighbors are changes the last bits of its scores.
    flags = ("--data-path", shapes_folder, "--log-every", 2, "--images-per-gpu", 1)
    whole = train(ALL, tmp_path / "whole", *flags, "--steps", 6, "--eval-every", 3, ngpu=2)
    train(ALL, tmp_path / "parts", *flags, "--steps", 4, "--val-split", "none", ngpu=2)
    flags = (*flags, "--steps", 6, "--resume")
    parts = train(ALL, tmp_path / "parts", *flags, ngpu=2)
    assert_same_bits(whole, parts)
    two = json.loads((tmp_path / "parts" / "results.json").read_text())
    from fasterrcnn.commands import evaluate

    alone = ("--images-per-gpu", "1", "--workers", "0", "--device", "cpu")
    evaluate.main(["--checkpoint", str(parts), *alone])
    one = json.loads((tmp_path / "parts" / "results.json").read_text())
    for key in ("AP", "AP50", "AR_100", "proposals"):
        assert one[key] == pytest.approx(two[key], abs=1e-6)


def test_three_ranks_share_eight_micro_batches_and_resume_as_two(
    shapes_folder: Path, tmp_path: Path
):
    """An RPN with frozen norms: proposals and statistics of one image would make last bits grow."""
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--log-every", 1)
    flags += ("--detector", "rpn", "--backbone.norm", "frozen")
    flags += ("--images-per-step", 8, "--images-per-gpu", 1, "--save-every", 1, "--keep", 9)
    one = train_here(shapes_folder, tmp_path / "one", *flags, "--steps", 5)
    processes = "-m fasterrcnn torchrun --standalone --nproc-per-node=3 -m".split()
    program = [sys.executable, *processes, "tests.commands.every_rank", tmp_path]
    out = tmp_path / "three"
    code = in_session(program, out, *flags, "--steps", 3, ngpu=3).wait(timeout=HANG)
    assert code == 0, out.with_suffix(".log").read_text()

    gradient, weights = "step-00000001/optimizer.safetensors", "step-00000003/model.safetensors"
    for name in (gradient, weights):
        assert_close(one.parent / name, out / "checkpoints" / name)
    assert len(rows(out)) == 3
    for a, b in zip(rows(tmp_path / "one")[:3], rows(out), strict=True):
        for key in ("loss_objectness", "loss_rpn_box_reg", "rpn_positives", "grad_norm"):
            assert a[key] == pytest.approx(b[key], rel=1e-5)
    saved = load_file(out / "checkpoints" / weights)
    for rank in range(3):
        own = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert len(own) > 20
        assert [name for name in own if not own[name].equal(saved[name])] == [], rank
    two = train(ALL, out, *flags, "--steps", 5, "--resume", ngpu=2)
    assert_close(one / "model.safetensors", two / "model.safetensors")
    assert "ranks was 3, is 2" in out.with_suffix(".log").read_text()


@pytest.mark.slow
def test_two_compiled_ranks_resume_with_the_same_bits(shapes_folder: Path, tmp_path: Path):
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--input.max-size", 64)
    flags = (*flags, "--compile")
    whole = train(ALL, tmp_path / "whole", *flags, "--steps", 4, ngpu=2)
    train(ALL, tmp_path / "parts", *flags, "--steps", 2, ngpu=2)
    parts = train(ALL, tmp_path / "parts", *flags, "--steps", 4, "--resume", ngpu=2)
    assert_same_bits(whole, parts)


def test_more_processes_than_micro_batches_exit_2_and_are_told_what_works(
    shapes_folder: Path, tmp_path: Path
):
    process = start(ALL, tmp_path / "run", "--data-path", shapes_folder, ngpu=3)
    assert process.wait(timeout=HANG) == 2
    text = (tmp_path / "run.log").read_text()
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1  # one rank speaks
    assert "use NGPU=1 to 2, or --images-per-gpu 1" in errors[0]
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "victim",
    [
        "rank 1",
        *(pytest.param(v, marks=pytest.mark.slow) for v in ("launcher", "rank 0", "worker")),
    ],
)
def test_killing_any_process_leaves_no_other_and_the_same_command_ends_with_the_same_bits(
    shapes_folder: Path, run_folder: Path, victim: str
):
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--steps", 16)
    flags += ("--save-every", 3, "--log-every", 1, "--workers", 1, *AUGMENTED)
    undisturbed = train(
        ALL, run_folder.parents[1] / "undisturbed", *flags, "--skip-finished", ngpu=2
    )

    out = run_folder
    process = start(ALL, out, *flags, ngpu=2)
    wait_for_step(out, 5, process)
    parents = processes_of(out)
    ranks = sorted(pid for pid, parent in parents.items() if parent == process.pid)
    workers = sorted(pid for pid, parent in parents.items() if parent in ranks)
    assert (len(ranks), len(workers)) == (2, 2)
    pid = {"launcher": process.pid, "rank 0": ranks[0], "rank 1": ranks[1], "worker": workers[1]}
    os.kill(pid[victim], signal.SIGKILL)
    code = process.wait(timeout=HANG)
    assert left_after(out) == {}
    assert code == (-9 if victim == "launcher" else 7)
    if victim != "launcher":
        assert "the same command continues" in out.with_suffix(".log").read_text()
        assert "Traceback" not in out.with_suffix(".log").read_text()
    assert len(rows(out)) < 16

    assert_same_bits(undisturbed, train(ALL, out, *flags, ngpu=2))
    assert [row["step"] for row in rows(out)] == list(range(1, 17))


@pytest.mark.parametrize("augmented", [(), AUGMENTED], ids=["plain", "every augmentation"])
def test_a_killed_run_ends_with_the_same_bits(
    shapes_folder: Path, run_folder: Path, augmented: tuple
):
    """One process, killed after whatever step it has reached; two are killed above."""
    flags = ("--data-path", shapes_folder, "--val-split", "none", *augmented)
    flags += ("--save-every", 3, "--log-every", 1)
    process = start(ONE, run_folder, *flags, "--steps", 900, "--workers", 1)
    wait_for_step(run_folder, 5, process)
    process.kill()
    assert process.wait(timeout=HANG) == -signal.SIGKILL
    assert left_after(run_folder) == {}
    saved = max(int(path.name[5:]) for path in (run_folder / "checkpoints").glob("step-*"))
    assert 3 <= saved < 900
    flags = (*flags, "--steps", saved + 4)
    continued = train(ONE, run_folder, *flags, "--workers", 0)
    assert f"continuing at step {saved} from" in run_folder.with_suffix(".log").read_text()
    assert [row["step"] for row in rows(run_folder)] == list(range(1, saved + 5))
    undisturbed = run_folder.with_name("undisturbed")
    undisturbed = train_here(shapes_folder, undisturbed, *flags, "--workers", 2)
    assert_same_bits(undisturbed, continued)


@pytest.mark.parametrize(
    ("script", "ngpu", "number", "target"),
    [
        (ONE, 1, signal.SIGTERM, "launcher"),
        pytest.param(ONE, 1, signal.SIGTERM, "group", marks=pytest.mark.slow),
        (ONE, 1, signal.SIGINT, "group"),
        (ALL, 2, signal.SIGTERM, "launcher"),
        pytest.param(ALL, 2, signal.SIGINT, "group", marks=pytest.mark.slow),
        pytest.param(ONE, 1, signal.SIGUSR1, "launcher", marks=pytest.mark.slow),
        pytest.param(ALL, 2, signal.SIGUSR1, "launcher", marks=pytest.mark.slow),
    ],
)
def test_signals_save_and_exit(
    shapes_folder: Path, run_folder: Path, script: Path, ngpu: int, number: int, target: str
):
    """Ctrl-C reaches the whole group, a scheduler's SIGTERM or SIGUSR1 the launcher."""
    out, code = run_folder, 130 if number == signal.SIGINT else 143
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--save-every", 0, "--steps", 900)
    process = start(script, out, *flags, "--log-every", 1, "--workers", 1, ngpu=ngpu)
    wait_for_step(out, 3, process)
    if target == "group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=HANG) == code
    assert left_after(out) == {}
    (saved,) = (out / "checkpoints").glob("step-*")
    status = json.loads((out / "status.json").read_text())
    assert status["code"] == code
    assert status["step"] == int(saved.name[5:])
    text = out.with_suffix(".log").read_text()
    assert f"step {status['step']} saved in {saved}; the same command continues" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_ranks_that_have_just_begun_die_with_their_launcher(shapes_folder: Path, run_folder: Path):
    process = start(ALL, run_folder, "--data-path", shapes_folder, ngpu=2)
    ranks: list[int] = []
    while len(ranks) < 2 or not any(has_handlers(rank, "TORCHELASTIC_RUN_ID") for rank in ranks):
        assert process.poll() is None
        ranks = [pid for pid, parent in processes_of(run_folder).items() if parent == process.pid]
    process.kill()
    process.wait(timeout=HANG)
    assert left_after(run_folder) == {}


@pytest.mark.parametrize(
    ("rank", "number"),
    [
        ("echo 1; exec sleep 600", signal.SIGUSR1),  # which torchrun hands on as SIGTERM
        pytest.param("echo 1; kill -TERM $$$$", 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_that_no_rank_explains_is_explained_by_torchrun(rank: str, number: int):
    """As long as the ranks have not begun."""
    flags = ("--standalone", "--nproc-per-node", 2, "--no-python", "sh", "-c", rank)
    process = subprocess.Popen(
        command("torchrun", *flags), env=clean_environment(), stdout=-1, stderr=-1, text=True
    )
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == 2 * ["1\n"]
    time.sleep(0.5)  # torchrun has noted both
    process.send_signal(number)
    said = process.communicate()[1].splitlines()[-1]
    assert said.startswith("stopped: SIGTERM: no step was under way")
    assert process.returncode == 143


def test_an_image_that_goes_bad_stops_all_ranks_with_the_state_saved(
    shapes_folder: Path, tmp_path: Path, run_folder: Path
):
    """One rank meets it, none is left waiting, and the same command continues once it is mended."""
    data, out = shutil.copytree(shapes_folder, tmp_path / "data"), run_folder
    flags = ("--data-path", data, "--val-split", "none", "--save-every", 0, "--log-every", 1)
    process = start(ALL, out, *flags, "--steps", 900, ngpu=2)
    wait_for_step(out, 3, process)
    victim = sorted((data / "train").glob("*.png"))[7]
    content = victim.read_bytes()
    victim.write_bytes(content[:200])  # the header is fine
    code, text = process.wait(timeout=HANG), out.with_suffix(".log").read_text()
    assert code == 3, text
    (error,) = [line for line in text.splitlines() if line.startswith("error:")]
    (saved,) = (out / "checkpoints").glob("step-*")
    step = int(saved.name[5:])
    assert error.startswith(f"error: {victim}: image ")
    assert f"step {step} saved in {saved}; the same command continues" in error
    assert "Traceback" not in text
    status = json.loads((out / "status.json").read_text())
    assert (status["code"], status["step"]) == (3, step)

    victim.write_bytes(content)
    flags = (*flags, "--steps", step + 2)
    continued = train(ALL, out, *flags, ngpu=2)
    assert_same_bits(train(ALL, tmp_path / "undisturbed", *flags, ngpu=2), continued)


def test_a_second_run_in_the_same_folder_exits_2(shapes_folder: Path, run_folder: Path):
    out = run_folder
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--steps", 900, "--log-every", 1)
    first = start(ONE, out, *flags)
    wait_for_step(out, 1, first)
    second = subprocess.run(
        ["bash", ONE, *TINY, "--output-dir", out, *map(str, flags)],
        env=clean_environment() | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in second.stderr


def test_a_failure_of_torchrun_itself_is_one_line(shell):
    flags = ("--standalone", "--nproc-per-node", 1, "--log-dir", "/proc/nowhere")
    done = shell(command("torchrun", *flags, "-m", "fasterrcnn", "self-test"))
    assert done.code == 5
    assert done.err.splitlines()[-1].startswith("error: /proc/nowhere")
    assert "Traceback" not in done.err


def test_a_port_in_use_is_one_line_that_names_its_variable(shell):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        env = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "NGPU": "1"}
        done = shell(["bash", ALL], PYTHON=sys.executable, MASTER_PORT=str(port), **env)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: MASTER_PORT: {port}: in use on this machine; set another")


@pytest.mark.parametrize(
    "leftover",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "x", "LOCAL_WORLD_SIZE": "x"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
    ids=["size", "ranks", "address"],
)
def test_rank_variables_of_another_program_count_for_nothing(
    shell, shapes_folder: Path, tmp_path: Path, leftover: dict[str, str]
):
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--steps", 1)
    out = tmp_path / "run"
    done = shell(
        ["bash", ONE, *TINY, *flags, "--output-dir", out], PYTHON=sys.executable, **leftover
    )
    assert done.code == 0, done.err
    assert ", 1 process\n" in done.out
    assert len(rows(out)) == 1


def test_the_finalizer_of_torchruns_timer_is_left_out(capsys):
    """What else cannot be raised is shown."""

    class Collected:
        def __init__(self, words: str) -> None:
            self.words = words

        def __del__(self) -> None:
            raise RuntimeError(self.words)

    before, sys.unraisablehook = sys.unraisablehook, torchrun.leave_out_timer
    try:
        for words in ("cannot join current thread", "something else"):
            Collected(words)
    finally:
        sys.unraisablehook = before
    said = capsys.readouterr().err
    assert "something else" in said and "cannot join" not in said
