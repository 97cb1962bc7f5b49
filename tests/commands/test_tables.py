"""The tables: what was measured stands beside what is published, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.commands import benchmark, tables, train
from fasterrcnn.errors import UsageError
from tests.commands.test_benchmark import SMALL
from tests.conftest import TINY

NAMES = ("fasterrcnn_r10_fpn_shapes", "rpn_r10_fpn_shapes")


@pytest.fixture(scope="module")
def sources(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run folder and a benchmark file of each of two small recipes."""
    root = tmp_path_factory.mktemp("tables")
    made = []
    for name in NAMES:
        flags = ("--steps", "2", "--data-path", str(shapes_folder), "--recipe", name)
        train.main([*TINY, *flags, "--output-dir", str(root / name)])
        speed = root / f"{name}.json"
        benchmark.main([*SMALL, "--recipe", name, "--json", str(speed)])
        made += [root / name, speed]
    return made


def cells(text: str, name: str) -> dict[str, str]:
    """A row of the tables by column."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| `{name}`"))
    head = max(i for i in range(at) if lines[i].startswith("| recipe"))
    names, values = ([c.strip() for c in lines[i].strip("|").split("|")] for i in (head, at))
    return dict(zip(names, values, strict=True))


def test_rows_from_runs_and_benchmarks(sources: list[Path], tmp_path: Path, capsys):
    file = tmp_path / "tables.md"
    tables.main(["--output", str(file), *map(str, sources)])
    text = file.read_text()
    for name, metric, key in (
        (NAMES[0], "box AP", "AP"), (NAMES[1], "AR1000", "AR_1000")
    ):  # fmt: skip
        row = cells(text, name)
        run, speed = sources[0].parent / name, sources[0].parent / f"{name}.json"
        results, measured = (json.loads(p.read_text()) for p in (run / "results.json", speed))
        assert row[metric] == f"{100 * results[key]:.1f}"
        one = measured["inference"]["by_batch_size"]["1"]
        assert row["Inf time (fps)"] == f"{one['images_per_s']:.1f}"
        assert row["Mem (GB)"] == f"{measured['peak_memory_gb']:.1f}"
        assert "CPU" in row["measured on"]
        assert "changed: " in row["measured on"]  # the run's images are smaller than the recipe's
        assert "min_size" in row["measured on"]


def test_published_numbers_stand_apart(capsys):
    tables.main([])
    text = capsys.readouterr().out
    row = cells(text, "rpn_x101_64x4d_fpn_1x_mmdetection")
    assert (row["Mem published"], row["fps published"], row["AR1000 published"]) == (
        "10.1", "9.1", "61"
    )  # fmt: skip
    assert row["backbone"] == "resnext101_64x4d-FPN"
    assert (row["style"], row["lr schd"]) == ("pytorch", "1x")
    assert (row["Mem (GB)"], row["Inf time (fps)"], row["AR1000"]) == ("", "", "")
    assert row["measured on"] == "not yet measured"
    for name in recipes.RECIPES:
        assert cells(text, name)["recipe"] == f"`{name}`"


def test_a_runs_memory_counts_where_no_benchmark_is(sources: list[Path], capsys):
    tables.main([str(sources[0])])
    row = cells(capsys.readouterr().out, NAMES[0])
    assert float(row["Mem (GB)"]) > 0
    assert row["Inf time (fps)"] == ""


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text("{}")
    for wrong in (tmp_path / "x.json", tmp_path / "missing"):
        with pytest.raises(UsageError, match="nor a file of fasterrcnn benchmark"):
            tables.main([str(wrong)])


def test_a_page_and_counted_memory_of_chosen_recipes(tmp_path: Path, capsys):
    chosen = "rpn_r10_fpn_shapes,fasterrcnn_r10_fpn_shapes"
    tables.main(["--recipes", chosen, "--count"])
    text = capsys.readouterr().out
    counted = [float(cells(text, name)["Mem counted (GiB)"]) for name in NAMES]
    assert 0 < counted[1] <= counted[0]
    assert "rpn_r50_fpn_1x" not in text
    page = tmp_path / "tables.html"
    tables.main(["--recipes", chosen, "--output", str(page)])
    found = page.read_text()
    assert all(found.count(f"<td>{name}</td>") == 1 for name in NAMES)
    assert found.count('<th scope="col"') == 2 * len(tables._HEAD)
    assert found.count('<td class="number">') == 2 * (len(tables._HEAD) - len(tables._WORDS))
    assert "aria-sort" in found
    with pytest.raises(UsageError, match="--recipe: rpn_r5: unknown"):
        tables.main(["--recipes", "rpn_r5"])


def test_networks_of_a_missing_extra_have_no_size(capsys, monkeypatch: pytest.MonkeyPatch):
    def missing(recipe: recipes.Recipe):
        raise UsageError("needs timm")

    monkeypatch.setattr(tables, "coco_cost", missing)
    tables.main(["--recipes", NAMES[0]])
    row = cells(capsys.readouterr().out, NAMES[0])
    assert (row["parameters (M)"], row["G multiply-adds"]) == ("", "")
