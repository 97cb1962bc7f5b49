"""The documentation is true: what it names exists, what it says to type is understood."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pkgutil import resolve_name

import pytest
from torch.distributed import run as torchrun

from fasterrcnn import errors, recipes
from fasterrcnn.cli import flags, names
from fasterrcnn.models import cost
from tests import test_layers
from tests.conftest import PROJECT

PAGES = [
    *(PROJECT / folder / "README.md" for folder in (".", "fasterrcnn", "datasets")),
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]
TEXT = {path.relative_to(PROJECT).as_posix(): path.read_text() for path in PAGES}
README, INSIDE, COMMANDS_PAGE = (
    TEXT[name] for name in ("README.md", "fasterrcnn/README.md", "docs/commands.md")
)
EVERYTHING = "\n".join(TEXT.values()).replace("\\\n", "")
LAUNCHED = sorted(set(re.findall(r"(?:[A-Z_]+=\S+ )*bash \w+/\w+\.sh[^`#\n]*", EVERYTHING)))
TYPED = sorted(
    set(re.findall(r"`(?:\.venv/bin/)?fasterrcnn ([a-z][^`]*)`", EVERYTHING))
    | set(re.findall(r"^ +\.venv/bin/fasterrcnn ([a-z][^#\n]*)", EVERYTHING, re.MULTILINE))
)
WITH_RECIPE = ("train", "benchmark", "check-data", "check-gpu")
FIXED = (
    "bash start_scripts/init_torch.sh",
    "bash start_scripts/train_fasterrcnn_resnet50_amp_torch.sh",
    "bash start_scripts/train_fasterrcnn_resnet50_amp_dist_torch.sh",
)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def section(text: str, title: str) -> str:
    """The part of a page under a heading, up to the next one of any level."""
    return re.split(r"^#+ ", text.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the tables in `text`."""
    rows = [line[1:].split("|")[0].strip() for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row.strip("-")]


# Links and commands


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page: str):
    for link in re.findall(r"\]\(([^)]+)\)", TEXT[page]):
        if "://" in link:
            continue
        target, _, heading = link.partition("#")
        path = (PROJECT / page).parent / target if target else PROJECT / page
        assert path.exists(), link
        assert not heading or heading in anchors(path.read_text()), link


def test_every_page_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}
    assert set(TEXT) - {"README.md"} <= linked


@pytest.mark.parametrize("command", LAUNCHED)
def test_launchers_exist_and_their_flags_are_known(command: str, shell):
    words = ["9" if word == "N" else word for word in shlex.split(command)]
    at = words.index("bash")
    env, script, given = dict(w.split("=", 1) for w in words[:at]), words[at + 1], words[at + 2 :]
    assert (PROJECT / script).is_file()
    if not script.startswith("start_scripts/"):
        return
    done = shell(["bash", PROJECT / script, *given], **{**env, "DRY_RUN": "1"})
    assert done.code == 0, done.err
    printed = [shlex.split(line) for line in done.out.splitlines() if line.startswith("+ ")]
    assert printed
    for line in printed:
        understood(line)


def understood(words: list[str]) -> None:
    """Raises UsageError or SystemExit for flags that a command of a printed line does not know."""
    starts = [i + 2 for i in range(len(words)) if words[i : i + 2] == ["-m", "fasterrcnn"]]
    for start in starts:
        name, given = words[start], words[start + 1 :]
        if name == "torchrun":
            torchrun.get_args_parser().parse_args(given)
        else:
            options = getattr(import_module(names.module_of(name)), "Options", None)
            parse = flags.parse_with_recipe if name in WITH_RECIPE else flags.parse
            assert not given if options is None else parse(options, given, "")


@pytest.mark.parametrize("typed", TYPED)
def test_commands_exist_and_their_flags_are_known(typed: str):
    name, *given = shlex.split(typed)
    assert name in names.COMMANDS
    understood(["-m", "fasterrcnn", name, *given])
    for word in given:
        assert not re.match("(fasterrcnn|fast_rcnn|rpn)_", word) or recipes.get(word)


def test_the_commands_were_found():
    assert len(LAUNCHED) >= 40
    assert {typed.split()[0] for typed in TYPED} >= {"recipes", "self-test"}
    scripts = {command.split("bash ")[1].split()[0] for command in LAUNCHED}
    for script in (PROJECT / "start_scripts").glob("*_torch.sh"):
        assert f"start_scripts/{script.name}" in scripts
    for script in ("tests/run_tests.sh", "datasets/get_coco.sh", "datasets/get_voc.sh"):
        assert script in scripts


def test_the_three_fixed_commands_stand_in_the_readme_as_they_are():
    lines = {line.partition("#")[0].strip() for line in README.splitlines()}
    assert set(FIXED) <= lines


# README.md


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 110


def test_what_the_readme_quotes_as_measured_stands_in_the_measurements():
    measured = TEXT["docs/measurements.md"]
    rows = section(README, "Measured so far").split("| --- |")[-1].splitlines()[1:]
    rows = [row for row in rows if row.startswith("|")]
    assert len(rows) >= 4
    for row in rows:
        *_, command, commit, result, _ = (cell.strip() for cell in row.split("|"))
        assert commit in measured
        if command.startswith("`"):
            assert command.strip("`") in measured
        for number in re.findall(r"\d+[.:e]-?\d+", result):
            assert number in measured, number
    for number in re.findall(r"\d+\.\d+ times", README):
        assert number.replace(" times", " x") in measured, number


def test_the_number_of_recipes():
    assert f"**{len(recipes.RECIPES)} recipes**" in README
    assert f"# all {len(recipes.RECIPES)}, a line each" in TEXT["docs/recipes.md"]


# docs/


def test_all_recipes_are_listed_with_their_published_numbers():
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\| ([\w. -]+) \| ?([\d.]*) ?\|$", TEXT["docs/recipes.md"], re.MULTILINE
    )
    assert sorted(name for name, _, _ in rows) == sorted(recipes.RECIPES)
    for name, schedule, number in rows:
        entry = recipes.RECIPES[name]
        value = entry.published.value if entry.published else None
        assert number == ("" if value is None else f"{value:g}"), name
        assert schedule == entry.schedule, name


def test_networks_are_listed_with_their_published_numbers_and_sizes():
    columns = r"^\| `(\w+)` \|" + 3 * r" ([\d.]+) \|" + 2 * r" ([\d.]*) \|" + "$"
    rows = re.findall(columns, TEXT["docs/networks.md"], re.MULTILINE)
    assert len(rows) == 25
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    for name, box_ap, *_, memory in rows:
        published = recipes.RECIPES[name].published
        assert published is not None
        assert float(box_ap) == published.value, name
        assert memory == ("" if published.memory_gb is None else f"{published.memory_gb:g}"), name
    for name, _, parameters, operations, *_ in rows[:3]:
        size = cost.coco_cost(recipes.get(name))
        assert f"{size[0] / 1e6:.1f}" == parameters, name
        assert f"{size[1] / 1e9:.1f}" == operations, name


def test_names_of_recipes_are_known():
    suffix = "_(?:mmdetection|detectron2|torchvision|shapes|voc)"
    for name in re.findall(rf"`((?:fasterrcnn|rpn|fast_rcnn)_\w+(?:{suffix}|_1x))`", EVERYTHING):
        assert recipes.get(name).name == name
    for theirs in re.findall(r"`(faster[-_]rcnn_[\w-]+)`", EVERYTHING):
        assert recipes.get(theirs), theirs


def test_exit_codes():
    codes = {kind.code for kind in errors.Failure.__subclasses__() if hasattr(kind, "code")}
    listed = first_cells(section(COMMANDS_PAGE, "Exit codes"))[1:]
    assert [int(code) for code in listed] == sorted(codes | {0, 1, 130, 141, 143})


def test_environment_variables():
    """Those that the scripts say they read are listed; those that are listed are read."""
    scripts = [
        *(PROJECT / "start_scripts").glob("*.sh"),
        *(PROJECT / "datasets").glob("*.sh"),
        PROJECT / "tests" / "conftest.py",
    ]
    source = "\n".join(path.read_text() for path in scripts)
    rows = first_cells(section(COMMANDS_PAGE, "Environment variables"))[1:]
    listed = {row.strip("`").partition("=")[0] for row in rows}
    assert all(re.search(rf"\b{name}\b", source) for name in listed)
    headers = re.findall(r"^#   ([A-Z_]+(?: [A-Z_]+)*)(?:=1)?  +", source, re.MULTILINE)
    assert len(headers) >= 8
    assert {name for header in headers for name in header.split()} <= listed


# fasterrcnn/README.md


def test_layers_are_those_of_the_test():
    rows = re.findall(r"^\| (\d) \| ([^|]*) \| ([^|]*) \|", INSIDE, re.MULTILINE)
    rows = [row for row in rows if "/" in row[1]]
    written, modules = {}, {}
    for layer, folders, listed in rows:
        for folder in re.findall(r"`(\w+)/`", folders):
            written[folder] = int(layer)
            modules[folder] = set(re.findall(r"`(\w+)`", listed))
    top = test_layers.LAYERS[""]
    assert written == {name: layer for name, layer in test_layers.LAYERS.items() if name}
    for folder, inside in (("cli", "cli"), ("engine", "engine"), ("recipes", "")):
        files = {path.stem for path in (test_layers.PACKAGE / inside).glob("*.py")}
        assert modules[folder] == files - {"__init__", "__main__"}, folder
    assert written["recipes"] == top


def test_files_that_are_named_exist():
    places = (PROJECT, PROJECT / "fasterrcnn")
    for name in re.findall(r"`([\w/]+\.(?:py|json|sh)|(?:\w+/)+)`", INSIDE):
        if "/" in name or name.endswith(".py"):
            assert any((folder / name).exists() for folder in places), name


def test_code_that_is_named_exists():
    folders = "|".join(name for name in test_layers.LAYERS if name)
    found = re.findall(rf"`((?:{folders}|image_sizes|seeds)\.[\w.]+)`", INSIDE)
    found = [name for name in found if not name.endswith(".py")]
    assert len(found) >= 25
    for name in found:
        if name != "data.keep_empty":  # a field of the recipe
            resolve_name(f"fasterrcnn.{name}")


def test_fields_of_the_recipe_that_are_named_exist():
    fields = set(recipes.flat(recipes.fasterrcnn_r50_fpn_1x()))
    named = re.findall(r"`(?:--)?((?:input|backbone|rpn|roi[_-]heads)\.[\w-]+)`", INSIDE)
    assert named
    for name in [*named, "data.keep_empty"]:
        assert name.replace("-", "_") in fields, name
