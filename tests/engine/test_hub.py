"""A folder for the Hub: a valid card, nothing of this machine, and the same detector."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from safetensors.torch import load_file

from fasterrcnn import recipes
from fasterrcnn.commands import export, train
from fasterrcnn.engine import checkpoint, detectors, hub
from fasterrcnn.errors import CheckpointError, DownloadError, UsageError
from tests.conftest import TINY

SAID = ("--license", "mit", "--datasets", "org/shapes", "--base-model", "org/base")


@pytest.fixture(scope="module")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated."""
    out = tmp_path_factory.mktemp("runs") / "my run"
    flags = ("--steps", "10", "--classes", "star,ring")
    train.main([*TINY, "--data-path", str(shapes_folder), "--output-dir", str(out), *flags])
    return out


def write(run: Path, folder: Path, *flags: str) -> Path:
    export.main(["--checkpoint", str(run), "--format", "hub", "-o", str(folder), *flags])
    return folder


def test_the_card_says_what_was_measured_and_what_the_user_said(run: Path, tmp_path: Path, capsys):
    data = ModelCard.load(write(run, tmp_path / "a", *SAID) / "README.md").data
    assert "note:" not in capsys.readouterr().out
    assert (data.library_name, data.pipeline_tag) == ("fasterrcnn", "object-detection")
    assert (data.license, data.datasets, data.base_model) == ("mit", ["org/shapes"], "org/base")
    assert data.model_name == "my run"
    measured = json.loads((run / "results.json").read_text())
    assert all(isinstance(result, EvalResult) for result in data.eval_results)
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    wanted = {k: v for k, v in measured.items() if k.startswith(("AP", "AR")) and v is not None}
    assert found == wanted
    assert "AP" in found
    assert {result.dataset_split for result in data.eval_results} == {"val"}
    text = (tmp_path / "a" / "README.md").read_text()
    assert f"| AP | {measured['AP']:.4f} |" in text
    assert "star, ring" in text


def test_what_was_not_said_or_measured_is_not_in_the_card(
    shapes_folder: Path, tmp_path: Path, capsys
):
    flags = ("--steps", "1", "--val-split", "none", "--output-dir", str(tmp_path / "run"))
    train.main([*TINY, "--data-path", str(shapes_folder), *flags])
    folder = write(tmp_path / "run", tmp_path / "a", "--license", "mit")
    assert "does not say: datasets, base_model; give them as flags" in capsys.readouterr().out
    card = ModelCard.load(folder / "README.md")
    assert not card.data.eval_results
    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "license", "tags"}
    assert "Not measured." in card.text


def test_no_file_names_a_place_of_this_machine(run: Path, shapes_folder: Path, tmp_path: Path):
    folder = tmp_path / "a"
    model, state, path = checkpoint.load_detector(run)
    recipe = recipes.change(state.recipe, weights=f"{shapes_folder.parent}/first.pth")
    hub.write(folder, model, replace(state, recipe=recipe), path, {})
    assert hub.load(folder)[1].recipe.weights == "first.pth"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    host = state.environment["host"]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(shapes_folder.parent).encode() not in content, path
        assert path.suffix == ".safetensors" or f'"{host}"'.encode() not in content, path


def test_the_detector_is_the_runs_to_the_bit(run: Path, tmp_path: Path):
    folder = write(run, tmp_path / "a")
    model, state, *where, of_run = detectors.load(folder)
    assert where == [folder, tmp_path / "a-results"]
    assert not of_run
    theirs, before, _ = checkpoint.load_detector(run)
    assert not model.training
    assert (state.recipe, state.classes, state.step) == (before.recipe, before.classes, 10)
    assert all(theirs.state_dict()[k].equal(v) for k, v in model.state_dict().items())
    torch.manual_seed(0)
    images = [torch.randint(256, (3, 90, 120), dtype=torch.uint8)]
    model.roi_heads.score_thresh = theirs.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (ours,), (own,) = model(images), theirs(images)
    assert len(own["scores"]) > 10
    assert all(ours[key].equal(own[key]) for key in own)


def test_config_and_preprocessor(run: Path, tmp_path: Path):
    folder = write(run, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"1": "star", "2": "ring"}
    assert config["label2id"] == {"star": 1, "ring": 2}
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    assert pixels["size"] == {"shortest_edge": 64, "longest_edge": 96}
    assert pixels["rescale_factor"] == 1 / 255
    assert set(load_file(folder / "model.safetensors")) == set(
        checkpoint.load_detector(run)[0].state_dict()
    )


def test_nothing_of_the_users_is_overwritten(run: Path, tmp_path: Path):
    folder = write(run, tmp_path / "a")
    before = (folder / "README.md").read_text()
    (folder / "notes.txt").write_text("mine")
    write(run, folder, *SAID)  # it is ours
    assert (folder / "README.md").read_text() != before
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "README.md").write_text("my own words")
    with pytest.raises(UsageError, match=r"its README\.md was edited; move it away"):
        write(run, folder)
    assert (folder / "README.md").read_text() == "my own words"
    other = tmp_path / "other"
    other.mkdir()
    write(run, other)
    (other / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"--output: .*: holds other files; give an empty or new"):
        write(run, other)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        write(run, other / "config.json")


def test_a_config_that_another_program_sorted_is_the_same(run: Path, tmp_path: Path):
    folder = write(run, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(label): f"c{label}" for label in (10, 2, *range(3, 10), 1)}
    config["category_ids"] = list(range(10))
    assert hub.classes_of(config).names == tuple(f"c{label}" for label in range(1, 11))


def test_wrong_use(run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="--base-model: is for --format hub; leave it out"):
        export.main(["--checkpoint", str(run), "--format", "torchvision", "-o", "x.pth",
                     "--base-model", "a/b"])  # fmt: skip
    folder = write(run, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    nms = {**config["recipe"], "rpn": {**config["recipe"]["rpn"], "nms_thresh": 7}}
    for entry, value, message in (
        ("recipe", {"x": 1}, "x: unknown recipe field"),
        ("recipe", nms, "--rpn.nms-thresh: 7: must be"),
        ("category_ids", [1], "1 category_ids for 2 names"),
        ("category_ids", ["a", "b"], "invalid literal for int"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, entry: value}))
        with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}.*; export it again"):
            detectors.load(str(folder))


def test_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DownloadError, match=r"^hf:not a name: Repo id must"):
        detectors.load("hf:not a name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="hf:a/b: needs huggingface_hub; pip install hugg"):
        hub.download("hf:a/b")
