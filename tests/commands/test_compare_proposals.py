"""Stored proposals compared: by hand, and a region proposal network with selective search."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.commands import compare_proposals, propose, selective_search, train
from fasterrcnn.data import formats, proposals
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import ImageProposals
from fasterrcnn.engine import evaluation
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics.proposals import evaluate
from tests.conftest import TINY, command


def gt_as_proposals(root: Path, path: Path, size: tuple[int, int] | None = None) -> None:
    """As proposals of every image 20 useless boxes, then its gt; px of an image of `size`."""
    data = formats.read(root, "val", "auto", (), Problems())
    useless = np.array([[0, 0, 1, 1]] * 20, np.float32)
    images = []
    for i in range(len(data)):
        height, width = map(int, data.sizes[i])
        new = size or (height, width)
        scale = np.array([new[1] / width, new[0] / height] * 2, np.float32)
        boxes = np.concatenate([useless, data.training_boxes(i)[0]]) * scale
        images.append(ImageProposals(boxes, np.linspace(1, 0, len(boxes), dtype=np.float32), new))
    about = {"made_by": "gt", "seconds_per_image": 0.5}
    proposals.write(path, data.ids, images, about)


@pytest.mark.parametrize("size", [None, (320, 480)], ids=["own size", "another size"])
def test_recall_by_number(shapes_folder: Path, tmp_path: Path, capsys, size):
    gt_as_proposals(shapes_folder, tmp_path / "p", size)
    compare_proposals.main([
        str(tmp_path / "p"), "--data-path", str(shapes_folder), "--json", str(tmp_path / "j"),
        "--plot", str(tmp_path / "plot.png"),
    ])  # fmt: skip
    (found,) = json.loads((tmp_path / "j").read_text()).values()
    assert found["counts"] == [10, 30, 100, 300, 1000, 2000]
    for name in ("recall at IoU 0.5", "recall at IoU 0.7", "AR"):
        assert found[name][0] == 0.0  # the first ten are useless
        assert found[name][2:] == [1.0] * 4
    assert "gt, 0.500 s an image" in capsys.readouterr().out
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_ar_is_that_of_the_metric(shapes_folder: Path, tmp_path: Path):
    data = formats.read(shapes_folder, "val", "auto", (), Problems())
    random = np.random.default_rng(0)
    images = []
    for i in range(len(data)):
        box = np.repeat(data.training_boxes(i)[0], 30, axis=0)
        box = box + random.normal(scale=6, size=box.shape).astype(np.float32)
        order = random.permutation(len(box))
        scores = np.linspace(1, 0, len(box), dtype=np.float32)
        images.append(ImageProposals(box[order], scores, tuple(map(int, data.sizes[i]))))
    proposals.write(tmp_path / "p", data.ids, images, {})
    stored = proposals.read(tmp_path / "p")
    found = compare_proposals.compare(stored, data)
    expected = evaluate(data, stored.rows(data))["proposal_fast"]
    assert 0.1 < expected["AR_100"] < expected["AR_300"] < 1
    for count in (100, 300, 1000):
        at = found["counts"].index(count)
        assert found["AR"][at] == pytest.approx(expected[f"AR_{count}"], abs=1e-12)


def test_a_detector_on_each(shapes_folder: Path, tmp_path: Path, capsys, monkeypatch):
    """One that has seen nothing yet: it is measured with each file, and says so."""
    flags = ("--data-path", str(shapes_folder), "--steps", "2", "--val-split", "none")
    run, rpn, file = tmp_path / "run", tmp_path / "rpn", tmp_path / "p"
    small = [*TINY, "--recipe", "rpn_r10_fpn_shapes", *flags]
    train.main([*small, "--output-dir", str(rpn)])
    common = ("--checkpoint", str(rpn), "--device", "cpu", "--workers", "0")
    propose.main([*common, "--training", "--proposals", str(file)])
    val = tmp_path / "val"
    propose.main([*common, "--split", "val", "--proposals", str(val)])
    propose.main([*common, "--split", "val", "--proposals", str(val)])
    assert f"{val}: there already" in capsys.readouterr().out
    small = [*TINY, "--recipe", "fast_rcnn_r10_fpn_shapes", *flags]
    train.main([*small, "--proposals", str(file), "--output-dir", str(run)])
    json_file = tmp_path / "j"
    gt = tmp_path / "gt"
    gt_as_proposals(shapes_folder, gt)
    used, measure = [], evaluation.evaluate

    def recorded(model, data, recipe, rt, *, stored, **options):
        results, detections = measure(model, data, recipe, rt, stored=stored, **options)
        used.append((stored.path, model.config.post_nms_top_n_test, results["AP50"]))
        return results, detections

    monkeypatch.setattr(evaluation, "evaluate", recorded)
    compare_proposals.main([
        str(val), str(gt), "--data-path", str(shapes_folder), "--fast-rcnn", str(run),
        "--workers", "0", "--json", str(json_file), "--top-n", "77",
    ])  # fmt: skip
    found = json.loads(json_file.read_text())
    assert used == [(p, 77, found[str(p)]["Fast R-CNN"]["AP50"]) for p in (val, gt)]
    assert "Fast R-CNN: AP " in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--fast-rcnn: .* a run of --detector rpn"):
        compare_proposals.main([
            str(val), "--data-path", str(shapes_folder), "--fast-rcnn", str(rpn),
        ])  # fmt: skip


def test_a_plot_that_cannot_be_drawn(shapes_folder: Path, tmp_path: Path):
    flags = [str(tmp_path / "p"), "--data-path", str(shapes_folder)]
    with pytest.raises(UsageError, match=r"must end in \.png"):
        compare_proposals.main([*flags, "--plot", str(tmp_path / "plot.foo")])


def test_results_that_cannot_be_written(shapes_folder: Path, tmp_path: Path, shell):
    """Of every command: one line, exit 5."""
    gt_as_proposals(shapes_folder, tmp_path / "p")
    nowhere = tmp_path / "nowhere" / "j"
    flags = (tmp_path / "p", "--data-path", shapes_folder, "--json", nowhere)
    done = shell(command("compare-proposals", *flags))
    assert done.code == 5
    assert done.err == f"error: {nowhere}: No such file or directory; give another path\n"


def test_selective_search(shapes_folder: Path, tmp_path: Path, capsys):
    pytest.importorskip("cv2.ximgproc", reason="opencv-contrib-python-headless is not installed")
    flags = ["--data-path", str(shapes_folder), "--workers", "1", "--top-n", "500"]
    for name in ("one", "two"):
        selective_search.main([*flags, "--proposals", str(tmp_path / name)])
    assert (tmp_path / "one").exists()
    one, two = (proposals.read(tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    data = formats.read(shapes_folder, "val", "auto", (), Problems())
    found = compare_proposals.compare(one, data)
    assert found["recall at IoU 0.5"][-1] > 0.5
    assert "s an image" in capsys.readouterr().out


def test_without_opencv_the_message_says_what_to_install(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match="pip install opencv-contrib-python-headless"):
        selective_search.main(["--data-path", str(tmp_path), "--proposals", str(tmp_path / "p")])
