"""The READMEs are true: what they name exists, what they say to type is understood."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from fasterrcnn import cli, errors, recipes
from tests import test_layers
from tests.conftest import PROJECT

READMES = [PROJECT / name / "README.md" for name in (".", "fasterrcnn", "datasets")]
README, INSIDE, _ = (path.read_text() for path in READMES)
OPTIONS = {
    f"fasterrcnn.{name}"
    for name in (
        "assemble",
        "compare_proposals",
        "evaluate",
        "export",
        "import_checkpoint",
        "predict",
        "propose",
        "report",
        "selective_search",
    )
}
COMMANDS = sorted(
    set(re.findall(r"(?:[A-Z_]+=\S+ )*bash \w+/\w+\.sh[^`#\n]*", README.replace("\\\n", "")))
)


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.parent.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist_and_their_flags_are_known(command: str, shell):
    words = ["9" if word == "N" else word for word in shlex.split(command)]
    at = words.index("bash")
    env, script, flags = dict(w.split("=", 1) for w in words[:at]), words[at + 1], words[at + 2 :]
    assert (PROJECT / script).is_file()
    if not script.startswith("start_scripts/"):
        return
    done = shell(["bash", PROJECT / script, *flags], **{**env, "DRY_RUN": "1"})
    assert done.code == 0, done.err
    for line in done.out.splitlines():
        understood_by_its_command(shlex.split(line) if line.startswith("+ ") else [])


def understood_by_its_command(words: list[str]) -> None:
    """Raises UsageError for flags that the module of a printed command does not know."""
    for i, word in enumerate(words):
        if word in ("fasterrcnn.train", "fasterrcnn.benchmark"):
            cli.parse_recipe_and_options(import_module(word).Options, words[i + 1 :], "")
        elif word in OPTIONS:
            cli.parse_options(import_module(word).Options, words[i + 1 :], "")


def test_the_commands_were_found():
    assert len(COMMANDS) >= 14
    assert {c.split(".sh")[0] for c in COMMANDS} >= {
        "bash start_scripts/demo_torch", "bash tests/run_tests", "bash datasets/get_coco"
    }  # fmt: skip


def test_recipes_are_listed_with_their_published_numbers():
    rows = dict(
        re.findall(r"^\| `((?:fasterrcnn|rpn)_\w+)` \|[^|]*\| ?([\d.]*)", README, re.MULTILINE)
    )
    assert f"lists all {len(recipes.RECIPES)} " in README
    assert set(rows) <= set(recipes.RECIPES)
    assert set(rows) >= {"fasterrcnn_r50_fpn_1x", "rpn_r50_fpn_1x", "fasterrcnn_r10_fpn_shapes"}
    for name, written in rows.items():
        published = recipes.RECIPES[name].published
        assert written == (f"{published.value:g}" if published else ""), name


def test_exit_codes():
    codes = {kind.code for kind in errors.Failure.__subclasses__() if hasattr(kind, "code")}
    text = README.split("Exit codes:")[1].split(".")[0]
    assert {int(n) for n in re.findall(r"\d+", text)} == (codes - {1}) | {0, 130, 143}


def test_environment_variables_are_those_of_the_scripts():
    scripts = "".join(p.read_text() for p in (PROJECT / "start_scripts").glob("*.sh"))
    for name in re.findall(r"`([A-Z_]{5,})(?:=1)?`", README):
        assert name in scripts, name


def test_layers_are_listed():
    for label, names in (
        ("commands", test_layers.VERBS),
        ("services", test_layers.SERVICES),
        ("libraries", test_layers.LIBRARIES),
        ("plain values", test_layers.VALUES),
    ):
        (row,) = re.findall(rf"^\| {label}[^|]*\|([^|]*)\|", INSIDE, re.MULTILINE)
        assert {n.rstrip("/") for n in re.findall(r"`([\w/.]+)`", row)} == names


def test_what_to_edit_exists():
    section = INSIDE.split("## To change X")[1].split("\n## ")[0]
    for name in re.findall(r"`([\w/]+\.(?:py|json))`", section):
        assert any((folder / name).exists() for folder in (PROJECT, PROJECT / "fasterrcnn")), name
