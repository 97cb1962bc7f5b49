"""Launchers print the exact command, from any folder, with any path, without an environment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import venv
from itertools import pairwise
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.cli import names
from tests.conftest import PROJECT

SCRIPTS = PROJECT / "start_scripts"
ONE = "train_fasterrcnn_resnet50_amp_torch.sh"
ALL = "train_fasterrcnn_resnet50_amp_dist_torch.sh"
LAUNCHERS = sorted(p.name for p in SCRIPTS.glob("*_torch.sh"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts and nothing else, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("a project")
    shutil.copytree(SCRIPTS, root / "start_scripts")
    return root


def printed(shell, root: Path, name: str, *flags: str, cwd: Path | None = None, **env: str):
    done = shell(["bash", root / "start_scripts" / name, *flags], cwd=cwd, DRY_RUN="1", **env)
    assert done.code == 0, done.err
    commands = [line[2:] for line in done.out.splitlines() if line.startswith("+ ")]
    return [shlex.split(command) for command in commands]


def expected(root: Path, *command: str) -> list[str]:
    return [
        f"PYTHONPATH={root}:{PROJECT}",
        f"{root}/.venv/bin/python",
        *("-m", "fasterrcnn", *command),
        *("--recipe", "fasterrcnn_r50_fpn_1x", "--amp", "auto"),
        *("--data-path", f"{root}/datasets/coco"),
    ]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_has_a_dry_run_without_environment_and_data(shell, bare: Path, name: str):
    assert printed(shell, bare, name, "--flag", "a b")
    assert not (bare / ".venv").exists()
    assert not (bare / "datasets").exists()


def test_one_gpu(shell, bare: Path):
    assert printed(shell, bare, ONE) == [expected(bare, "train")]


@pytest.mark.parametrize(
    ("env", "processes"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "4,5", "NGPU": "1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,-1,2"}, 2),
        ({"NGPU": "8"}, 8),
    ],
)
def test_all_gpus(shell, bare: Path, env: dict[str, str], processes: int):
    torchrun = ("torchrun", f"--nproc-per-node={processes}", "--standalone")
    command = expected(bare, *torchrun, "-m", "fasterrcnn", "train")
    assert printed(shell, bare, ALL, **env) == [command]


def test_alternating_training_of_another_network(shell, bare: Path, tmp_path: Path):
    name, out = "train_fasterrcnn_vgg16_voc_alternating_torch.sh", str(tmp_path / "a run")
    flags = ("--output-dir", out, "--weights", "first.pth", "--workers", "3", "--val-split", "07")
    found = printed(shell, bare, name, *flags, RECIPE="r50_fpn_voc", DATA_DIR="/v o c")
    trainings = [words for words in found if words[4] == "train"]
    kinds = ["rpn", "fast_rcnn", "rpn", "fast_rcnn"]
    assert [words[words.index("--recipe") + 1] for words in trainings] == [
        f"{kind}_r50_fpn_voc" for kind in kinds
    ]

    def last(words: list[str], flag: str) -> str:
        return words[len(words) - words[::-1].index(flag)]

    shared = f"{out}/2_fast_rcnn"
    assert [last(w, "--weights") for w in trainings] == ["first.pth", "first.pth", shared, shared]
    assert ["--backbone.fixed" in words for words in trainings] == [False, False, True, True]
    assert all("/v o c" in words and "--skip-finished" in words for words in trainings)
    assert last(found[-1], "--split") == "07"
    assert last(found[-1], "--workers") == last(found[1], "--workers") == "3"


def test_gpus_are_counted_by_nvidia_smi(shell, bare: Path, tmp_path: Path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: x'\necho 'GPU 1: x'\necho 'GPU 2: x'\n")
    tool.chmod(0o755)
    (command,) = printed(shell, bare, ALL, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert "--nproc-per-node=3" in command


def test_several_machines(shell, bare: Path):
    env = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host0", "NGPU": "4"}
    (command,) = printed(shell, bare, ALL, **env)
    assert command[4:10] == [
        "torchrun",
        "--nproc-per-node=4",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=host0",
        "--master-port=29500",
    ]
    done = shell(["bash", bare / "start_scripts" / ALL], NNODES="2")
    assert done.code == 2
    assert "NODE_RANK" in done.err


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("NGPU", "x", "0 to 9999"),
        ("NGPU", "08", "0 to 9999"),
        ("NNODES", "x", "1 to 9999"),
        ("NNODES", "-1", "1 to 9999"),
        ("NODE_RANK", "2", "0 to 1"),
        ("MASTER_PORT", "x", "1 to 65535"),
        ("MASTER_PORT", "65536", "1 to 65535"),
    ],
)
def test_a_variable_that_is_no_number_in_its_range(
    shell, bare: Path, name: str, value: str, bound: str
):
    env = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host0", "NGPU": "4", name: value}
    done = shell(["bash", bare / "start_scripts" / ALL], **env)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {name}: {value}: must be a whole number, {bound}\n"


@pytest.mark.parametrize("where", ["start_scripts", ".", "/"])
def test_any_folder(shell, bare: Path, where: str):
    done = printed(shell, bare, ONE, cwd=bare / where)
    assert done == [expected(bare, "train")]
    assert printed(shell, Path(os.path.relpath(bare, bare / where)), ONE, cwd=bare / where) == done


def test_through_a_link(shell, bare: Path, tmp_path: Path):
    (tmp_path / "train").symlink_to(bare / "start_scripts" / ONE)
    done = shell(["bash", tmp_path / "train"], DRY_RUN="1")
    assert done.code != 0 or f"{bare}/.venv" in done.out.replace("\\ ", " ")


def test_flags_pass_through_last_and_variables_count(shell, bare: Path):
    (command,) = printed(
        shell, bare, ONE, "--data-path", "my data", "--lr", "1", DATA_DIR="/d", PYTHON="/p y"
    )
    assert command[1] == "/p y"
    assert command[-6:] == ["--data-path", "/d", "--data-path", "my data", "--lr", "1"]


def test_evaluate_on_several_gpus(shell, bare: Path):
    (one,) = printed(shell, bare, "evaluate_torch.sh", "--checkpoint", "x")
    assert one[2:5] == ["-m", "fasterrcnn", "evaluate"]
    (two,) = printed(shell, bare, "evaluate_torch.sh", "--checkpoint", "x", NGPU="2")
    assert two[3:6] == ["fasterrcnn", "torchrun", "--nproc-per-node=2"]


def test_demo_pipeline(shell, bare: Path):
    make, train, evaluate, report = printed(
        shell, bare, "demo_torch.sh", "--steps", "3", "--output-dir", "some where"
    )
    assert make[3:5] == ["fasterrcnn", "make-shapes"]
    assert train[3:5] == ["fasterrcnn", "train"]
    assert train[-2:] == ["--output-dir", "some where"]
    assert evaluate[4:7] == ["evaluate", "--checkpoint", "some where"]
    assert report[4:] == ["report", "some where"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_command_and_recipe_exists(shell, bare: Path, name: str):
    """Also of what torchrun starts. The set-up only runs `venv` and `pip`."""
    for words in printed(shell, bare, name):
        modules = [word for before, word in pairwise(words) if before == "-m"]
        assert set(modules) <= {"fasterrcnn", "venv", "pip"}
        started = [word for before, word in pairwise(words) if before == "fasterrcnn"]
        assert set(started) <= set(names.COMMANDS)
        chosen = [word for before, word in pairwise(words) if before == "--recipe"]
        assert set(chosen) <= set(recipes.RECIPES)


def test_without_an_environment_the_error_says_what_makes_it(shell, bare: Path):
    done = shell(["bash", bare / "start_scripts" / ONE])
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert f"bash {bare}/start_scripts/init_torch.sh" in done.err
    done = shell(["bash", bare / "start_scripts" / ONE], PYTHON="/nowhere/python")
    assert (done.code, done.err) == (2, "error: PYTHON: /nowhere/python: not found\n")


def test_a_python_without_torch_is_one_line(shell, tmp_path: Path):
    venv.create(tmp_path / "venv", symlinks=True)  # without any package
    python = tmp_path / "venv" / "bin" / "python"
    for name in (ONE, ALL):
        done = shell(["bash", SCRIPTS / name], PYTHON=str(python), NGPU="1")
        assert done.code == 2
        (line,) = done.err.splitlines()
        assert line.startswith(f"error: PYTHON: {python}: has no ")


def test_without_data_one_error_names_files_and_command(shell, tmp_path: Path):
    done = shell(
        ["bash", SCRIPTS / ONE, "--output-dir", tmp_path / "run"],
        PYTHON=sys.executable,
        DATA_DIR=str(tmp_path / "datasets" / "coco"),
    )
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "annotations/instances_train2017.json" in line
    assert "get_coco.sh" in line


def test_a_wrong_flag_exits_2(shell):
    done = shell(["bash", SCRIPTS / ONE, "--leraning-rate", "1"], PYTHON=sys.executable)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: --leraning-rate: unknown flag")


def test_shellcheck_is_clean(shell):
    tool = shutil.which("shellcheck") or str(Path(sys.executable).parent / "shellcheck")
    if not Path(tool).exists():
        pytest.skip("shellcheck is not installed")
    scripts = [*SCRIPTS.glob("*.s*h"), *(PROJECT / "datasets").glob("*.sh")]
    scripts += [*(PROJECT / "tests").glob("*.sh"), PROJECT / ".ci" / "run"]
    done = shell([tool, *scripts])
    assert done.code == 0, done.out
