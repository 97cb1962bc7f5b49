"""predict and evaluate as commands: files in, files out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fasterrcnn import progress
from fasterrcnn.commands import evaluate, predict, train
from fasterrcnn.data import frames
from fasterrcnn.errors import (
    CheckpointError,
    DataError,
    ProcessDied,
    Stopped,
    StorageError,
    UsageError,
)
from fasterrcnn.reports import prediction_files
from tests.conftest import TINY
from tests.data.test_geo_tags import WGS84, geotiff


@pytest.fixture(scope="module")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps: its detections are poor, but there are some."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--steps", "30", "--classes", "star,ring", "--val-split", "none")
    train.main([*TINY, "--data-path", str(shapes_folder), "--output-dir", str(out), *flags])
    return out


def call(run: Path, *flags: object) -> None:
    predict.main(["--checkpoint", str(run), "--device", "cpu", *map(str, flags)])


def test_pictures_and_json(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    sources = sorted((shapes_folder / "val").glob("*.png"))
    shutil.copy(sources[0], folder / "a.png")
    shutil.copy(sources[1], folder / "sub" / "b.png")
    (folder / "notes.txt").write_text("no image")
    out, file = tmp_path / "out", tmp_path / "found.json"
    call(run, "--score-threshold", 0.01, "--json", file, "--output-dir", out, folder, sources[2])
    rows = json.loads(file.read_text())
    names = {row["file_name"] for row in rows}
    assert names <= {"a.png", "sub/b.png", sources[2].name}
    assert len(rows) > 3
    for row in rows:
        assert row["category_id"] in (4, 6)  # the data's own ids
        assert row["category_name"] == {4: "star", 6: "ring"}[row["category_id"]]
        assert row["score"] >= 0.01
        x, y, w, h = row["bbox"]
        source = {"a.png": sources[0], "sub/b.png": sources[1]}.get(row["file_name"], sources[2])
        width, height = Image.open(source).size
        assert 0 <= x <= x + w <= width + 1e-3
        assert 0 <= y <= y + h <= height + 1e-3
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert {row["image_id"] for row in rows if row["file_name"] == "sub/b.png"} == {2}
    pictures = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*"))
    assert pictures == sorted(["a.jpg", "sub/b.jpg", f"{sources[2].stem}.jpg"])
    assert f"3 of 3 images, {len(rows)} detections" in re.sub(
        r" [\d.]+ images/s:", "", told(capsys)
    )


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_checkpoint_that_is_none_is_explained(run: Path, shapes_folder: Path, tmp_path: Path):
    image = min((shapes_folder / "val").glob("*.png"))
    with pytest.raises(CheckpointError, match="there is no such folder"):
        call(tmp_path / "nope", image)
    with pytest.raises(CheckpointError, match="a file is imported first: fasterrcnn import"):
        call(image, image)


def test_the_images_are_never_replaced_by_pictures(run: Path, shapes_folder: Path, tmp_path: Path):
    source = tmp_path / "a.jpg"
    Image.open(min((shapes_folder / "val").glob("*.png"))).convert("RGB").save(source)
    before = source.read_bytes()
    with pytest.raises(UsageError, match=r"a\.jpg is one of the images"):
        call(run, "--output-dir", tmp_path, source)
    assert source.read_bytes() == before


def test_results_are_pixels_of_the_displayed_image(run: Path, shapes_folder: Path, tmp_path: Path):
    """A file that EXIF turns gives the boxes of its turned copy."""
    image = Image.open(min((shapes_folder / "val").glob("*.png"))).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "shown.png")
    file = tmp_path / "x.json"
    call(run, "--json", file, "--output-dir", tmp_path / "o", "--score-threshold", 0.01,
         tmp_path / "turned.png", tmp_path / "shown.png")  # fmt: skip
    rows = json.loads(file.read_text())
    boxes = {
        n: [r["bbox"] for r in rows if r["file_name"] == n] for n in ("turned.png", "shown.png")
    }
    assert boxes["shown.png"]
    assert boxes["turned.png"] == boxes["shown.png"]


def test_wrong_input(run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no such image, folder, list or video"):
        call(run, tmp_path / "x.jpg")
    with pytest.raises(UsageError, match="no such image, folder, list or video"):
        call(run, tmp_path / "*.jpg")
    with pytest.raises(UsageError, match="no image in this folder"):
        call(run, tmp_path)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        call(tmp_path, __file__)
    with pytest.raises(DataError, match=r"test_predict\.py: not an image"):
        call(run, "--output-dir", tmp_path, __file__)
    for flag, value in (("--images-per-gpu", 0), ("--workers", -1), ("--limit", 0),
                        ("--score-threshold", 2), ("--nms-threshold", -1)):  # fmt: skip
        with pytest.raises(UsageError, match=f"{flag}: {value}.*: must be"):
            call(run, flag, value, __file__)
    with pytest.raises(UsageError, match="--min-size: 900: larger than --max-size 96"):
        call(run, "--min-size", 900, __file__)
    with pytest.raises(UsageError, match="--classes: cat: not in the data; choose from star, ring"):
        call(run, "--classes", "cat", __file__)


def hard_folder(folder: Path, shapes_folder: Path) -> dict[str, tuple[int, int]]:
    """Images and what is none, as folders have them; height and width of the images."""
    real = Image.open(min((shapes_folder / "val").glob("*.png"))).convert("RGB")
    for name in ("one/same.png", "two/same.png", "Größe 1 (ä).jpg", "cut.jpg", "._x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        real.save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "text.jpg").write_text("not an image at all")
    (folder / "set.png").mkdir()
    shutil.copy(folder / "one" / "same.png", folder / "set.png" / "inside.png")
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    Image.new("L", (12_000, 9_000), 90).save(folder / "huge.png")
    size = (real.height, real.width)
    sizes = dict.fromkeys(("one/same.png", "two/same.png", "Größe 1 (ä).jpg"), size)
    return sizes | {"set.png/inside.png": size, "pixel.png": (1, 1), "huge.png": (9_000, 12_000)}


def test_a_folder_as_people_have_them(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    """What can be detected in is; what cannot is named at the end."""
    folder, out = tmp_path / "mixed folder", tmp_path / "out"
    sizes = hard_folder(folder, shapes_folder)
    with pytest.raises(DataError) as error:
        call(run, "--output-dir", out, "--json", tmp_path / "x.json", "--workers", 2,
             "--save-txt", "--score-threshold", 0.01, folder)  # fmt: skip
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{folder}/cut.jpg: cannot be decoded")
    assert second == f"{folder}/text.jpg: not an image"
    assert "8 of 8 images" in told(capsys)
    for name, (height, width) in sizes.items():
        with Image.open(out / Path(name).with_suffix(".jpg")) as picture:
            assert abs(picture.width / picture.height - width / height) < 0.01
        assert (out / "labels" / Path(name).with_suffix(".txt")).is_file()
    assert len([*out.rglob("*.jpg")]) == len(sizes)
    rows = json.loads((tmp_path / "x.json").read_text())
    found = {row["file_name"]: row["image_id"] for row in rows}
    assert found.keys() <= sizes.keys()
    order = ["Größe 1 (ä).jpg", "cut.jpg", "huge.png", "one/same.png", "pixel.png",
             "set.png/inside.png", "text.jpg", "two/same.png"]  # fmt: skip
    assert sorted(order) == sorted([*sizes, "cut.jpg", "text.jpg"])
    for name, image_id in found.items():
        assert image_id == 1 + sorted(order).index(name)


def test_all_that_is_written_agrees(run: Path, shapes_folder: Path, tmp_path: Path):
    call(run, "--score-threshold", 0.01, "--draw-threshold", 0.02, "--save-txt", "--save-crop",
         "--no-pictures", "--json", tmp_path / "x.json", "--csv", tmp_path / "x.csv",
         "--output-dir", tmp_path / "out", shapes_folder / "val")  # fmt: skip
    rows = json.loads((tmp_path / "x.json").read_text())
    with (tmp_path / "x.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table) > 20
    for row, line in zip(rows, table, strict=True):
        for name in ("image_id", "file_name", "category_id", "category_name"):
            assert line[name] == str(row[name])
        numbers = [float(line[name]) for name in ("x", "y", "width", "height", "score")]
        assert numbers == pytest.approx([*row["bbox"], row["score"]], abs=0.006)
    for file in sorted((shapes_folder / "val").glob("*.png")):
        own = [row for row in rows if row["file_name"] == file.name]
        label_file = tmp_path / "out" / "labels" / f"{file.stem}.txt"
        lines = [line.split() for line in label_file.read_text().splitlines()]
        assert len(lines) == len(own)
        width, height = Image.open(file).size
        for row, (number, *values) in zip(own, lines, strict=True):
            assert ("star", "ring")[int(number)] == row["category_name"]
            x, y, w, h, score = map(float, values)
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            assert [*box, score] == pytest.approx([*row["bbox"], row["score"]], abs=1e-3)
        sure = [row for row in own if row["score"] >= 0.02]
        crops = [*(tmp_path / "out" / "crops").glob(f"*/{file.stem}-*.jpg")]
        assert len(crops) == len(sure)
        assert {crop.parent.name for crop in crops} == {row["category_name"] for row in sure}
    assert not [*(tmp_path / "out").glob("*.jpg")]


def test_polygons_in_the_coordinates_of_the_images(run: Path, tmp_path: Path):
    flags = ["--checkpoint", str(run), "--device", "cpu", "--workers", "0", "--no-pictures",
             "--score-threshold", "0"]  # fmt: skip
    one, other = geotiff(tmp_path / "one.tif"), geotiff(tmp_path / "other.tif", keys=WGS84)
    files = {name: tmp_path / f"x.{name}" for name in ("json", "geojson")}
    predict.main([*flags, str(one), *(w for n, f in files.items() for w in (f"--{n}", str(f)))])
    rows = json.loads(files["json"].read_text())
    features = json.loads(files["geojson"].read_text())["features"]
    assert len(rows) == len(features) > 0
    for row, feature in zip(rows, features, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        x, y, width, height = row["bbox"]
        assert ring[3] == pytest.approx([500000 + 10 * x, 4000000 - 20 * y])
        assert ring[1] == pytest.approx([500000 + 10 * (x + width), 4000000 - 20 * (y + height)])
    before = files["geojson"].read_text()
    Image.new("RGB", (9, 9)).save(tmp_path / "plain.tif")
    mixed = "other.tif is in EPSG:4326, images before it in EPSG:32633"
    for second, said in ((other, mixed), (tmp_path / "plain.tif", "plain.tif: no georeference")):
        with pytest.raises(UsageError, match=f"^--geojson: .*{said}"):
            predict.main([*flags, str(one), str(second), "--geojson", str(files["geojson"])])
    assert files["geojson"].read_text() == before


@pytest.mark.parametrize("flag", ["--json", "--csv", "--output-dir"])
def test_outputs_are_checked_before_the_first_image(
    run: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
):
    (tmp_path / "file").touch()
    (tmp_path / "old.json").write_text("kept")
    monkeypatch.setattr(frames, "read", lambda *_: pytest.fail("an image was read"))
    other = ("--json", tmp_path / "old.json") if flag == "--csv" else ()
    with pytest.raises(StorageError, match=f"{flag}: .*cannot be written.*; give another"):
        call(run, *other, flag, tmp_path / "file" / "x", shapes_folder / "val")
    assert (tmp_path / "old.json").read_text() == "kept"


def test_an_output_is_no_input(run: Path, shapes_folder: Path, tmp_path: Path):
    file = shapes_folder / "annotations" / "instances_val.json"
    with pytest.raises(UsageError, match=r"--json: .*is --annotations too"):
        call(run, "--annotations", file, "--json", file, shapes_folder / "val")
    with pytest.raises(UsageError, match=r"--csv: .*is --json too"):
        call(run, "--json", tmp_path / "x", "--csv", tmp_path / "x", shapes_folder / "val")
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(UsageError, match=r"--json: .*is a source too"):
        call(run, "--json", tmp_path / "list.txt", tmp_path / "list.txt")
    assert (tmp_path / "list.txt").read_text() == "x"


def test_pictures_in_the_folder_of_the_images_are_not_detected_in(
    run: Path, shapes_folder: Path, tmp_path: Path, capsys
):
    for source in (shapes_folder / "val").glob("*.png"):
        shutil.copy(source, tmp_path)
    for left_out in ("", "8 pictures of an earlier run left out"):
        call(run, "--output-dir", tmp_path, tmp_path, "--save-crop", "--draw-threshold", 0.9)
        out = told(capsys)
        assert "8 of 8 images" in out
        assert left_out in out
    call(run, "--output-dir", tmp_path, tmp_path / "*")
    assert "8 of 8 images" in told(capsys)


def test_results_do_not_depend_on_batches_and_workers(
    run: Path, shapes_folder: Path, tmp_path: Path
):
    """Images of several shapes, more than are held at a time."""
    rows = []
    for size, workers in ((1, 0), (3, 0), (2, 2)):
        call(run, "--images-per-gpu", size, "--workers", workers, "--score-threshold", 0.01,
             "--no-pictures", "--json", tmp_path / "x.json",
             shapes_folder / "train", shapes_folder / "val")  # fmt: skip
        rows.append(json.loads((tmp_path / "x.json").read_text()))
    names = [*dict.fromkeys(row["file_name"] for row in rows[0])]
    assert names == sorted(names)  # the order of the sources
    for other in rows[1:]:
        assert len(other) == len(rows[0])
        for a, b in zip(rows[0], other, strict=True):
            assert (a["file_name"], a["image_id"]) == (b["file_name"], b["image_id"])
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_ids_and_boxes_of_an_annotation_file(run: Path, shapes_folder: Path, tmp_path: Path):
    """pycocotools reads the result as it is, with the file and without."""
    truth = shapes_folder / "annotations" / "instances_val.json"
    ids = {image["file_name"]: image["id"] for image in json.loads(truth.read_text())["images"]}
    assert min(ids.values()) > 1000
    call(run, "--annotations", truth, "--json", tmp_path / "x.json", "--score-threshold", 0.01,
         "--output-dir", tmp_path / "with", shapes_folder / "val")  # fmt: skip
    rows = json.loads((tmp_path / "x.json").read_text())
    assert rows
    assert all(row["image_id"] == ids[row["file_name"]] for row in rows)
    result = COCO(str(truth)).loadRes(str(tmp_path / "x.json"))
    assert len(result.getAnnIds()) == len(rows)
    call(run, "--json", tmp_path / "y.json", "--score-threshold", 0.01,
         "--output-dir", tmp_path / "without", shapes_folder / "val")  # fmt: skip
    numbered = {"images": [{"id": k} for k in range(1, 9)], "categories": [{"id": 4}, {"id": 6}]}
    (tmp_path / "numbered.json").write_text(json.dumps(numbered))
    result = COCO(str(tmp_path / "numbered.json")).loadRes(str(tmp_path / "y.json"))
    assert len(result.getAnnIds()) == len(rows)
    heights = [
        Image.open(min((tmp_path / kind).glob("*.jpg"))).height for kind in ("with", "without")
    ]
    assert heights[0] > heights[1], "a line says what is annotated"
    shutil.copy(min((shapes_folder / "val").glob("*.png")), tmp_path / "strange.png")
    with pytest.raises(UsageError, match=r"/images: strange\.png has no file_name here"):
        call(run, "--annotations", truth, tmp_path / "strange.png")


def test_choices_at_inference(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    def rows(*flags: object) -> list[dict]:
        file = tmp_path / "x.json"
        call(run, "--no-pictures", "--json", file, *flags, shapes_folder / "val")
        return json.loads(file.read_text())

    everything = rows("--score-threshold", 0.001)
    told(capsys)
    of_one = rows("--score-threshold", 0.001, "--classes", "ring")
    assert "changed: classes: ring of 2" in told(capsys)
    assert {row["category_name"] for row in of_one} == {"ring"}
    assert {row["category_name"] for row in everything} == {"star", "ring"}
    few = rows("--score-threshold", 0.001, "--detections-per-image", 3)
    assert "changed: roi_heads.detections_per_img: 100 -> 3" in told(capsys)
    assert len(few) == 24
    many = rows("--score-threshold", 0, "--nms-threshold", 1, "--detections-per-image", 300)
    assert len(many) > 8 * 100
    assert len(rows("--score-threshold", 0.001, "--nms-threshold", 0.1)) < len(everything)
    assert {row["image_id"] for row in rows("--score-threshold", 0.001, "--limit", 3)} == {1, 2, 3}
    small = rows("--score-threshold", 0.001, "--min-size", 32, "--max-size", 48)
    assert "changed: input.min_size: 64 -> 32" in told(capsys)
    assert small != everything


def test_ctrl_c_keeps_what_is_written(run: Path, shapes_folder: Path, tmp_path: Path, monkeypatch):
    add = prediction_files.PredictionFiles.add

    def add_then_interrupt(self, image_id, *rest):
        add(self, image_id, *rest)
        if image_id == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(prediction_files.PredictionFiles, "add", add_then_interrupt)
    with pytest.raises(Stopped, match="SIGINT: stopped after 3 images; what was found") as stopped:
        call(run, "--json", tmp_path / "x.json", "--output-dir", tmp_path / "out",
             "--score-threshold", 0.01, "--workers", 2, shapes_folder / "train")  # fmt: skip
    assert stopped.value.code == 130
    rows = json.loads((tmp_path / "x.json").read_text())
    assert {row["image_id"] for row in rows} <= {1, 2, 3}
    assert rows
    assert len([*(tmp_path / "out").glob("*.jpg")]) == 3


def test_a_process_that_is_killed_is_one_line(
    run: Path, shapes_folder: Path, tmp_path, monkeypatch
):
    monkeypatch.setattr(frames, "_decode", kill_this_process)
    with pytest.raises(ProcessDied, match="was killed; if memory ran out, lower --workers"):
        call(run, "--workers", 1, "--output-dir", tmp_path, shapes_folder / "val")


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_paths_from_standard_input(run: Path, shapes_folder: Path, tmp_path: Path, monkeypatch):
    files = sorted((shapes_folder / "val").glob("*.png"))[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*map(str, files), "gone.png"])))
    with pytest.raises(DataError, match=r"standard input: line 3: gone\.png: missing"):
        call(run, "--output-dir", tmp_path, "-")
    assert {path.stem for path in tmp_path.glob("*.jpg")} == {file.stem for file in files}


def test_a_file_gets_a_line_every_so_often(run: Path, shapes_folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY", 0)
    call(run, "--no-pictures", shapes_folder / "val")
    captured = capsys.readouterr()
    for count in range(1, 9):
        assert f"\n{count} of 8 images, " in captured.out
    assert captured.err == ""


def test_a_video(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    av = pytest.importorskip("av", reason="PyAV reads and writes videos; pip install av")
    clip = tmp_path / "clip.avi"
    make_video(av, clip, [np.array(Image.open(file).convert("RGB").resize((160, 120)))
                          for file in sorted((shapes_folder / "val").glob("*.png"))])  # fmt: skip
    out = tmp_path / "out"
    call(run, "--output-dir", out, "--json", tmp_path / "x.json", "--save-txt", "--draw-threshold",
         0.02, "--score-threshold", 0.01, "--workers", 2, "--images-per-gpu", 3, clip)  # fmt: skip
    assert "8 images, " in told(capsys)
    rows = json.loads((tmp_path / "x.json").read_text())
    assert {row["file_name"] for row in rows} <= {f"clip.avi/00000{k}.jpg" for k in range(1, 9)}
    assert len({row["image_id"] for row in rows}) > 3
    assert len([*(out / "labels" / "clip.avi").glob("*.txt")]) == 8
    with av.open(str(out / "clip.mp4")) as made:
        assert made.streams.video[0].average_rate == 5
        pictures = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    assert len(pictures) == 8
    assert pictures[0].shape == (480, 640, 3)
    call(run, "--output-dir", out, "--limit", 3, clip)
    with av.open(str(out / "clip.mp4")) as made:
        assert len([*made.decode(video=0)]) == 3
    with pytest.raises(UsageError, match=r"--annotations: .*is a video"):
        call(run, "--annotations", tmp_path / "x.json", clip)
    clip.write_bytes(clip.read_bytes()[:400])
    with pytest.raises(DataError, match=r"clip\.avi: "):
        call(run, "--output-dir", out, clip)


def make_video(av, file: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_without_pyav_a_video_is_one_line(run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(UsageError, match="videos and cameras need PyAV; pip install av"):
        call(run, "--output-dir", tmp_path / "out", tmp_path / "clip.mp4")
    assert not (tmp_path / "out").exists()


def test_evaluate_command(run: Path, tmp_path: Path, capsys):
    file = tmp_path / "metrics.json"
    flags = ["--checkpoint", str(run), "--device", "cpu", "--workers", "0"]
    evaluate.main([*flags, "--json", str(file), "--draw", "2"])
    text = capsys.readouterr().out
    assert "8 images" in text
    metrics = json.loads(file.read_text())
    assert set(metrics["per_class"]) == {"star", "ring"}
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 30
    assert results["AP"] == metrics["AP"]
    assert len(list((run / "pictures").glob("[0-9]*.jpg"))) == 2
    assert (run / "pictures" / "best_and_worst.jpg").is_file()
    evaluate.main([*flags, "--split", "train"])
    assert "24 images" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no split test; found: train, val"):
        evaluate.main([*flags, "--split", "test"])


def test_evaluation_needs_no_flags_of_the_model(run: Path, shapes_folder: Path, tmp_path: Path):
    """A run that moved, and data that moved: the path is all it needs."""
    moved = shutil.copytree(run, tmp_path / "moved")
    data = shutil.copytree(shapes_folder, tmp_path / "data")
    evaluate.main(
        ["--checkpoint", str(moved), "--data-path", str(data), "--device", "cpu", "--workers", "0"]
    )
    assert (moved / "results.json").exists()
