"""check-data: exit codes, what it says, what it writes, and that it changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.commands import check_data
from fasterrcnn.errors import DataError, Failure, UsageError
from fasterrcnn.reports import data_pictures
from tests.conftest import PROJECT
from tests.data import fuzz_images, make
from tests.data.test_channels import image, split
from tests.reports import html_pages

SMALL = ("--input.min-size", "64", "--input.max-size", "96", "--workers", "1")


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file below the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(root: Path, out: Path, *flags: str) -> tuple[html_pages.Page, dict]:
    """The page and the json of a check."""
    files = ("--page", str(out / "page.html"), "--json", str(out / "found.json"))
    check_data.main([str(root), *SMALL, *files, *flags])
    return written(out)


def written(out: Path) -> tuple[html_pages.Page, dict]:
    page = html_pages.check((out / "page.html").read_text())
    return page, json.loads((out / "found.json").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The two images of `make.coco`."""
    root = tmp_path / "data"
    make.coco(root)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_good_data_set(data: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(data)
    page, found = run(data, out)
    assert contents(data) == before
    said = capsys.readouterr().out
    assert "no split val" in said
    assert "train: 2 images, 2 boxes" in said
    assert f"page: {out / 'page.html'}" in said
    assert sorted(found) == [
        "anchors", "data_path", "duplicates", "failures", "format", "odd", "problems", "recipe",
        "splits", "tiles", "value_range", "values",
    ]  # fmt: skip
    assert (found["format"], found["failures"], found["problems"]) == ("coco", [], [])
    (split,) = found["splits"]
    assert (split["name"], split["images"], split["boxes"], split["crowd"]) == ("train", 2, 2, 1)
    assert [(c["name"], c["boxes"]) for c in split["classes"]] == [("cat", 1), ("dog", 1)]
    assert len([f for f in page.all("figure") if "data-split" in f]) == 2
    assert found["anchors"]["before"]["train"]["boxes"] == 2


def test_notes_alone_are_no_fault(tmp_path: Path, out: Path):
    root = tmp_path / "data"
    make.coco(root, make.changed(("annotations", 0, "bbox"), [1, 2, 0, 20]))
    page, found = run(root, out)
    (problem,) = found["problems"]
    assert (problem["action"], problem["file"]) == (
        "dropped", str(root / "annotations" / "instances_train2017.json")
    )  # fmt: skip
    assert [(b["file"], b["name"], b["xywh"]) for b in found["splits"][0]["lost"]] == [
        ("a.png", "cat", [1, 2, 0, 20])
    ]
    marks = {f["data-marks"] for f in page.all("figure") if "data-split" in f}
    assert marks == {"box dropped|image without a box to train on", ""}


def test_all_faults_are_named_and_exit_with_3(tmp_path: Path, out: Path, capsys):
    content = make.changed(("annotations", 0, "bbox"), [1, 2, -5, 20])
    content["annotations"][1]["category_id"] = 99
    content["images"].append({"id": 3, "file_name": "gone.png", "height": 1, "width": 1})
    root = tmp_path / "data"
    make.coco(root, content)
    content["annotations"].append(dict(content["annotations"][2], id=4, iscrowd=0))
    make.coco(root, content)
    before = contents(root)
    with pytest.raises(DataError, match="3 boxes or images cannot be used"):
        run(root, out)
    assert contents(root) == before
    page, found = written(out)
    assert [problem["action"] for problem in found["problems"]] == ["stop"] * 3 + ["kept"]
    said = capsys.readouterr().out
    for part in ("gone.png", "/annotations/0/bbox", "/annotations/1/category_id"):
        assert part in said
        assert part in page.text()
    assert found["splits"][0]["boxes"] == 1  # what is left
    assert "box that cannot be used" in " ".join(
        f.get("data-marks", "") for f in page.all("figure")
    )


def test_what_cannot_be_read_at_all_exits_with_3(tmp_path: Path, out: Path, capsys):
    """The one annotation is at fault; nothing is left to train on."""
    content = make.changed(("annotations",), [dict(make.CONTENT["annotations"][0], category_id=5)])
    make.coco(tmp_path / "data", content)
    with pytest.raises(DataError, match="no box of the classes"):
        run(tmp_path / "data", out)
    page, found = written(out)
    assert "/annotations/0/category_id" in capsys.readouterr().out
    assert "no box of the classes" in page.text()
    assert found["splits"] == []
    assert len(found["failures"]) == len(found["problems"]) == 1


def test_an_image_that_cannot_be_decoded_exits_with_3(tmp_path: Path, out: Path):
    """Its header is whole."""
    root = tmp_path / "data"
    make.coco(root)
    path = root / "train2017" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="1 boxes or images cannot be used"):
        run(root, out)
    page, found = written(out)
    (problem,) = found["problems"]
    assert (problem["field"], problem["action"]) == ("image 1", "stop")
    assert page.text().count("cannot be decoded") >= 1


def test_a_split_whose_images_cannot_be_decoded_is_named_beside_the_others(
    shapes_folder: Path, tmp_path: Path, out: Path
):
    root = tmp_path / "data"
    shutil.copytree(shapes_folder, root)
    for path in (root / "train").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{root}.*: none of 24 images can be decoded"):
        run(root, out)
    page, found = written(out)
    assert [split["name"] for split in found["splits"]] == ["val"]
    assert [problem["action"] for problem in found["problems"]] == ["stop"] * 24
    assert page.text().count("none of 24 images can be decoded") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "0 folders given"),
        (["a", "b"], "2 folders given"),
        (["a", "--data-path", "b"], "2 folders given"),
        (["{data}/none"], "no such folder"),
        (["{data}", "--train-split", "other"], "no split other; found: train2017"),
        (["{data}", "--classes", "cow"], "--classes: cow"),
        (["{data}", "--page", "{data}/page.html"], "--page: .*lies in"),
        (["{data}", "--json", "{data}/annotations/instances_train2017.json"], "--json: .*lies in"),
        (["{data}", "--imagse", "3"], "unknown flag; did you mean --images"),
        (["{data}", "--rpn.anchor-sizes", "1,2"], "2 given, this backbone has 5 levels"),
    ],
)
def test_wrong_usage(data: Path, tmp_path: Path, monkeypatch, flags: list[str], message: str):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    before = contents(data)
    with pytest.raises(UsageError, match=message):
        check_data.main([*SMALL, *(flag.format(data=data) for flag in flags)])
    assert contents(data) == before
    assert not (tmp_path / "output").exists()


def test_a_validation_split_that_was_named_must_be_there(data: Path, out: Path):
    with pytest.raises(UsageError, match="no split val; found: train2017"):
        run(data, out, "--val-split", "val")
    assert written(out)[1]["splits"][0]["name"] == "train"
    run(data, out, "--val-split", "none")


def test_the_folder_can_be_given_as_in_training(data: Path, tmp_path: Path, monkeypatch):
    """By --data-path; the page is then in the output folder, named after the data."""
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    check_data.main(["--data-path", str(data), *SMALL])
    html_pages.check((tmp_path / "output" / "data-data" / "index.html").read_text())


def test_images_that_do_not_go_together_are_shown_all_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = recipes.get("fasterrcnn_r50_fpn_1x")
    for k, (bands, shown) in enumerate((((5, 4), 3), ((5, 2), 1))):
        data = split(tmp_path / str(k), *(image(*[90] * count, dtype="u2") for count in bands))
        failures: list[Failure] = []
        read, changed = check_data.as_trained({"train": data}, recipe, failures)
        assert [str(failure).partition(":")[0] for failure in failures] == [
            "images with different numbers of bands"
        ]
        pictures, undecodable = data_pictures.make(
            [("train", 0), ("train", 1)], {}, read, changed, threads=1
        )
        assert len(pictures) == 2 and undecodable == []
        assert changed.input.in_channels == shown


def test_leakage_and_duplicates(shapes_folder: Path, tmp_path: Path, out: Path, capsys):
    """An image of the training split is put in the place of another and of one of validation, all
    of one size."""
    root = tmp_path / "data"
    shutil.copytree(shapes_folder, root)
    by_size: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(root.glob("*/*.png")):
        with Image.open(path) as image:
            by_size.setdefault(image.size, []).append(path)
    first, second, *_, last = next(
        paths
        for paths in by_size.values()
        if paths[1].parent.name == "train" and paths[-1].parent.name == "val"
    )
    shutil.copy(first, second)
    shutil.copy(first, last)
    page, found = run(root, out, "--recipe", "fasterrcnn_r10_fpn_shapes")
    (across,), (within,) = found["duplicates"]["across"], found["duplicates"]["within"]
    assert [(m["split"], m["file"]) for m in across] == [
        ("train", first.name), ("train", second.name), ("val", last.name)
    ]  # fmt: skip
    assert within == across
    assert "in several splits: the same image" in capsys.readouterr().out
    assert "In several splits: 1" in page.text()


def test_validation_boxes_of_unknown_classes_are_named(tmp_path: Path, out: Path):
    root = tmp_path / "data"
    make.coco(root)
    content = make.changed(("categories", 0, "name"), "Dog")
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    shutil.copytree(root / "train2017", root / "val2017")
    _, found = run(root, out)
    assert [s["name"] for s in found["splits"]] == ["train", "val"]
    assert "it has dog" in found["problems"][0]["what"]
    assert len(found["duplicates"]["across"]) == 2  # both images


def test_file_names_that_are_no_text(tmp_path: Path, out: Path):
    """A byte that is not UTF-8, in a YOLO folder."""
    root = tmp_path / "data"
    make.image(root / "images" / "train" / "a\udcff.png", 40, 60)
    label = root / "labels" / "train" / "a\udcff.txt"
    label.parent.mkdir(parents=True)
    label.write_text("0 0.5 0.5 0 0.1\n0 0.5 0.5 0.2 0.1\n")
    (root / "classes.txt").write_text("pea\n")
    page, found = run(root, out)
    assert found["splits"][0]["lost"][0]["file"].endswith("a\udcff.png")
    assert "a?.png" in page.text()


def test_a_region_proposal_network_and_fast_rcnn(data: Path, out: Path):
    assert run(data, out, "--detector", "rpn")[1]["anchors"] is not None
    assert run(data, out, "--detector", "fast_rcnn")[1]["anchors"] is None


@pytest.mark.parametrize("network", ["vgg16_voc", "mobilenet_v3_large_fpn_torchvision"])
def test_other_networks(data: Path, out: Path, network: str):
    flags = ("--recipe", f"fasterrcnn_{network}", "--train-split", "train")
    _, found = run(data, out, *flags)
    assert found["anchors"]["before"]["train"]["boxes"] == 2


def test_two_boxes_of_blood_cells_have_no_area(bccd_voc: Path, out: Path, capsys):
    page, found = run(
        bccd_voc, out, "--images", "0", "--train-split", "trainval", "--val-split", "test"
    )
    named = [(Path(p["file"]).stem, p["what"]) for p in found["problems"]]
    assert named == [
        (f"BloodImage_{number}", "box of zero width or height") for number in ("00338", "00343")
    ]
    said = capsys.readouterr().out
    for problem in found["problems"]:
        assert f"{problem['file']}: {problem['field']}: " in said
        assert Path(problem["file"]).name in page.text()
    before, after = (found["anchors"][key]["trainval"]["recall"] for key in ("before", "after"))
    assert after[0] >= before[0]
    assert after[1] >= before[1]


def test_the_exit_code_of_the_command(shell, data: Path, out: Path):
    script = PROJECT / "start_scripts" / "check_data_torch.sh"
    files = ("--page", out / "page.html")
    done = shell(["bash", script, data, *SMALL, *files], PYTHON=sys.executable)
    assert (done.code, done.err) == (0, "")
    (data / "train2017" / "a.png").unlink()
    done = shell(["bash", script, data, *SMALL, *files], PYTHON=sys.executable)
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_images_are_named(tmp_path: Path, out: Path, count: int):
    counts = fuzz_images.write(tmp_path / "data", count, seed=20261127)
    command = [
        sys.executable, "-X", "faulthandler", "-c", _MEASURED, str(tmp_path / "data"), *SMALL,
        "--page", str(out / "page.html"), "--json", str(out / "found.json"),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=PROJECT, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr[-2000:]
    imports, peak = map(int, done.stdout.split()[-2:])
    print(f"{count} images, peak {(peak - imports) // 1024} MiB above the imports")
    assert peak - imports < 1 << 20  # KiB
    found = json.loads((out / "found.json").read_text())
    damaged = {Path(problem["file"]).name for problem in found["problems"]}
    named = {name for name in damaged if not name.startswith("-")}
    assert named == damaged  # the whole image of each format is used
    assert count / 4 < len(named) <= count
    assert found["splits"][0]["images"] == count + len(counts) - len(named)


_MEASURED = """
import resource, sys
import torch, torchvision
imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from fasterrcnn.__main__ import main
sys.argv[1:1] = ["check-data"]
try:
    main()
finally:
    print(imports, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_tiles_are_advised_and_then_tried(
    data: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    def write(side: int) -> None:
        content = make.changed(
            ("annotations",), [dict(make.CONTENT["annotations"][0], bbox=[90, 70, side, 16])]
        )
        content["images"] = [dict(content["images"][0], height=200, width=300)]
        make.coco(data, content)
        make.image(data / "train2017" / "a.png", 200, 300)

    write(16)
    page, found = run(data, out, "--val-split", "none")
    assert found["tiles"]["flags"] == "--data.tile 64 --data.tile-overlap 0.25"
    line = "100% of the boxes are below 16 px at the network's input; in tiles 0% are: "
    assert line + found["tiles"]["flags"] in capsys.readouterr().out
    assert any("in tiles" in text for text in page.texts)
    flags = ("--val-split", "none", *found["tiles"]["flags"].split(), "--data.tile-empty", "0")
    _, found = run(data, out, *flags)
    assert found["tiles"] is None
    assert "data: 2 tiles of 64 px, 16 px in common: 2 with boxes" in capsys.readouterr().out
    write(70)
    with pytest.raises(DataError, match=r"--data.tile: 64: smaller than the largest box"):
        run(data, out, *flags)
