"""Checkpoints: same bytes for the same state, nothing half written, damage found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import CheckpointError, StorageError
from tests.conftest import HANG, PROJECT, clean_environment


def state(step: int) -> checkpoint.State:
    return checkpoint.State(
        step=step,
        last_step=100,
        recipe=recipes.fasterrcnn_r10_fpn_shapes(),
        classes=Classes(("cat", "dög"), (3, 7)),
        scaler={"scale": 2.0},
        data={"digest": "d"},
        environment={"torch": "2.11"},
    )


def tensors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    return {
        "model": {"conv.weight": weight, "count": torch.tensor(3)},
        "optimizer": {"conv.weight": torch.randn(8, 3, 3, 3, generator=generator)},
    }


def test_round_trip(tmp_path: Path):
    path = checkpoint.save(tmp_path, tensors(), state(5), keep=3)
    assert path == tmp_path / "step-00000005"
    assert checkpoint.newest(tmp_path) == (path, [])
    assert checkpoint.load_state(path) == state(5)
    for name, group in tensors().items():
        loaded = checkpoint.load_tensors(path / f"{name}.safetensors")
        assert set(loaded) == set(group)
        assert all(loaded[key].equal(group[key]) for key in group)


def test_saving_one_state_twice_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, tensors(), state(5), keep=3)
    for path in (tmp_path / "a" / "step-00000005").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "step-00000005" / path.name).read_bytes()


def test_there_is_no_pickle(tmp_path: Path):
    path = checkpoint.save(tmp_path, tensors(), state(5), keep=3)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    for source in (PROJECT / "fasterrcnn").rglob("*.py"):
        text = source.read_text()
        others = (
            "export.py",
            "safe_load/reading.py",
            "safe_load/pickle_limits.py",
        )  # frameworks' files
        other = any(source.match(name) for name in others)
        assert other or "import pickle" not in text
        assert "pickle.load" not in text
        assert text.count("torch.load(") == text.count("weights_only=True)")


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path):
    for step in range(1, 8):
        path = checkpoint.save(tmp_path, tensors(), state(step), keep=2)
        checkpoint.add_results(path, {"AP": 0.9 if step == 3 else 0.1 * step})
    assert [p.name[-1] for p in sorted(tmp_path.glob("step-*"))] == ["3", "6", "7"]
    assert checkpoint.best(tmp_path) == tmp_path / "step-00000003"
    checkpoint.save(tmp_path, tensors(), state(8), keep=0)  # never below two
    assert [p.name[-1] for p in sorted(tmp_path.glob("step-*"))] == ["3", "7", "8"]


DAMAGE = {
    "a flipped byte": lambda path: _flip(path / "model.safetensors"),
    "a cut file": lambda path: os.truncate(path / "optimizer.safetensors", 50),
    "a missing file": lambda path: (path / "state.json").unlink(),
    "no manifest": lambda path: (path / "MANIFEST.json").unlink(),
    "a cut manifest": lambda path: os.truncate(path / "MANIFEST.json", 30),
    "a manifest of something else": lambda path: (path / "MANIFEST.json").write_text("[1]"),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_reason(tmp_path: Path, damage):
    good = checkpoint.save(tmp_path, tensors(), state(4), keep=3)
    bad = checkpoint.save(tmp_path, tensors(1), state(5), keep=3)
    damage(bad)
    found, (reason,) = checkpoint.newest(tmp_path)
    assert found == good
    assert str(bad) in reason
    damage(good)
    with pytest.raises(CheckpointError) as error:
        checkpoint.find(tmp_path)
    assert "\n" not in str(error.value)


def test_find_takes_a_run_its_folder_or_a_checkpoint(tmp_path: Path):
    path = checkpoint.save(tmp_path / "checkpoints", tensors(), state(4), keep=3)
    for given in (tmp_path, tmp_path / "checkpoints", path):
        assert checkpoint.find(given) == path
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        checkpoint.find(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "another format"),
        ({"recipe": {"name": "x", "sparkle": 1}}, "sparkle: unknown recipe field"),
        ({"classes": {}}, "names"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(tmp_path: Path, change: dict, message: str):
    path = checkpoint.save(tmp_path, tensors(), state(4), keep=3)
    content = json.loads((path / "state.json").read_text()) | change
    (path / "state.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_state(path)


def test_a_full_disk_keeps_what_is_there(tmp_path: Path):
    good = checkpoint.save(tmp_path, tensors(), state(4), keep=3)
    # RLIMIT_FSIZE makes the kernel refuse the write, as a full disk does
    script = (
        "import resource, signal, sys, torch\n"
        "from tests.engine.test_checkpoint import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "big = {'model': {'x': torch.zeros(4 << 20)}}\n"
        "try: checkpoint.save(Path(sys.argv[1]), big, state(5), 3)\n"
        "except StorageError as error: print(error); sys.exit(5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 5, done.stderr
    assert "checkpoint not written" in done.stdout
    assert [p for p in tmp_path.iterdir() if p.name != ".lock"] == [good]
    assert checkpoint.verify(good) is None


def test_too_little_space_is_found_before_the_first_step(tmp_path: Path):
    with torch.device("meta"):
        huge = nn.Linear(10**7, 10**7)
    with pytest.raises(StorageError, match="two checkpoints need"):
        checkpoint.check_space(tmp_path, {"model": huge.state_dict()})


def test_order_of_system_calls(tmp_path: Path):
    """Files and folder are synced before the rename, its parent after; deletion comes last."""
    import shutil

    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    script = (
        "import sys\nfrom tests.engine.test_checkpoint import *\n"
        "for step in (1, 2, 3): checkpoint.save(Path(sys.argv[1]), tensors(), state(step), 2)\n"
    )
    log = tmp_path / "log"
    subprocess.run(
        ["strace", "-f", "-y", "-o", log, "-e", "trace=fsync,rename,renameat2,rmdir,unlinkat"]
        + [sys.executable, "-c", script, str(tmp_path / "run")],
        env=clean_environment(),
        check=True,
        timeout=HANG,
    )
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if "run" in line]
    last = [i for i, call in enumerate(calls) if "step-00000003" in call]
    third = calls[last[0] :]
    rename = next(i for i, call in enumerate(third) if call.startswith("rename"))
    before = [c for c in third[:rename] if c.startswith("fsync")]
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"):
        assert any(name in call for call in before), name
    assert third[rename - 1].startswith("fsync")
    assert ".tmp-step-00000003" in third[rename - 1]  # the folder itself
    assert third[rename + 1].startswith("fsync")
    assert third[rename + 1].split("<")[1].startswith(str(tmp_path / "run") + ">")
    deletions = [i for i, c in enumerate(third) if c.startswith(("unlinkat", "rmdir"))]
    assert deletions
    assert min(deletions) > rename + 1


def test_killed_anywhere_while_saving_leaves_a_verified_checkpoint(tmp_path: Path):
    """A process saves without end and is killed at 100 different moments after a new checkpoint."""
    step = 0
    for moment in range(100):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    step += 1
                    checkpoint.save(tmp_path, tensors(step), state(step), keep=2)
            finally:
                os._exit(1)
        while not any(int(p.name[5:]) > step for p in tmp_path.glob("step-*")):
            signal.sigtimedwait([], 0.001)
        signal.sigtimedwait([], 0.00037 * moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        checkpoint.remove_unfinished(tmp_path)
        found, skipped = checkpoint.newest(tmp_path)
        assert skipped == []
        before, step = step, checkpoint.load_state(found).step
        assert step > before
        expected = tensors(step)["model"]["conv.weight"]
        assert checkpoint.load_tensors(found / "model.safetensors")["conv.weight"].equal(expected)
    assert step >= 100
    assert not list(tmp_path.glob(".tmp-*"))


def test_momentum_takes_the_parameters_memory_format(tmp_path: Path):
    from fasterrcnn.engine.step import make_optimizer

    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipes.Schedule())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    saved = checkpoint.optimizer_tensors(model, optimizer)
    path = checkpoint.save(tmp_path, {"optimizer": saved}, state(1), keep=2)
    other = make_optimizer(model, recipes.Schedule())
    checkpoint.load_optimizer(model, other, path / "optimizer.safetensors")
    for parameter in model.parameters():
        buffer = other.state[parameter]["momentum_buffer"]
        assert buffer.stride() == parameter.stride()
        assert buffer.equal(optimizer.state[parameter]["momentum_buffer"])


@pytest.mark.parametrize(("at", "value", "message"), [
    (("step",), "7", "step: not of the type int"),
    (("scaler",), [], "scaler: not of the type dict"),
    (("data", "path"), {"a": 1}, "data.path: not a text"),
    (("classes", "names"), [1, 2], "classes: not as many"),
    (("classes", "category_ids"), [3], "classes: not as many"),
    (("recipe", "input", "min_size"), "64", "input.min_size: 64: not of the type int"),
    (("recipe", "input", "flip"), True, "input.flip: True: not of the type float"),
    (("recipe", "rpn", "aspect_ratios"), [[1.0]], "rpn.aspect_ratios: [[1.0]]: not of the type"),
    (("recipe", "roi_heads", "nms_thresh"), float("nan"), "--roi-heads.nms-thresh: nan: must be"),
])  # fmt: skip
def test_a_state_that_was_edited(tmp_path: Path, at: tuple[str, ...], value: object, message: str):
    content = json.loads(checkpoint.to_json(state(5)))
    item = content
    for key in at[:-1]:
        item = item[key]
    item[at[-1]] = value
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_state(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "7", "[]", "{}"])
def test_a_state_that_is_none(tmp_path: Path, text: str):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="use another checkpoint"):
        checkpoint.load_state(tmp_path)


def test_a_manifest_that_names_files_elsewhere(tmp_path: Path):
    path = checkpoint.save(tmp_path / "run", tensors(), state(5), keep=3)
    secret = tmp_path / "secret"
    secret.write_text("x")
    for name in (str(secret), "../../secret"):
        (path / "MANIFEST.json").write_text(json.dumps({name: checkpoint._fingerprint(secret)}))
        assert "a file that is not in it" in str(checkpoint.verify(path))
    (path / "MANIFEST.json").write_text("[" * 100_000)
    assert "cannot be read" in str(checkpoint.verify(path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"AP": []}', '{"AP": {"a": 1}}'])
def test_results_that_are_none_are_not_the_best(tmp_path: Path, text: str):
    for step in (5, 6):
        checkpoint.save(tmp_path, tensors(), state(step), keep=3)
    checkpoint.add_results(checkpoint.path_of(tmp_path, 5), {"AP": 0.5})
    (checkpoint.path_of(tmp_path, 6) / "results.json").write_text(text)
    assert checkpoint.best(tmp_path) == checkpoint.path_of(tmp_path, 5)


def test_a_recipe_of_a_larger_network_than_the_file_holds(tmp_path: Path):
    """It is refused before any memory is taken: these layers would take 51 GB, and 51 TB."""
    path = checkpoint.save(tmp_path, tensors(), state(5), keep=3)
    for width in (1 << 20, 1 << 40):
        recipe = recipes.change(state(5).recipe, roi_heads={"representation_size": width})
        with pytest.raises(CheckpointError, match="its recipe"):
            checkpoint.build_for(recipe, state(5).classes, path / "model.safetensors")
