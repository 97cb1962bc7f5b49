"""The environment's self-test and the small commands around it."""

from tests.conftest import PROJECT, command


def test_one_line(shell):
    done = shell(command("self-test"))
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    assert line.startswith("ready: Python 3.")
    assert "torch 2." in line
    assert "GPU" in line


def test_a_missing_package_is_named(shell, tmp_path):
    (tmp_path / "hotcoco.py").write_text("raise ImportError('no shared object')\n")
    done = shell(command("self-test"), PYTHONPATH=f"{tmp_path}:{PROJECT}")
    assert done.code == 1
    assert done.err == (
        "error: hotcoco: cannot be imported (no shared object); install it, or run init_torch.sh\n"
    )


def test_the_self_test_knows_every_requirement():
    from fasterrcnn.commands.self_test import REQUIRED

    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    names = {line.split(">")[0].split("=")[0] for line in lines if line and line[0] != "#"}
    modules = {"PIL": "pillow", "yaml": "pyyaml"}
    assert {modules.get(n, n) for n in REQUIRED} | {"torch", "torchvision"} == names


def test_make_shapes(shell, tmp_path):
    done = shell(command("make-shapes", "--output-dir", tmp_path, "--train", 2, "--val", 1))
    assert done.code == 0, done.err
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_help_checks_nothing(shell):
    done = shell(command("self-test", "--help"))
    assert done.code == 0
    assert "ready" not in done.out
