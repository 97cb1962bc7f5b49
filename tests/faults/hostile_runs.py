"""Hostile run folders and folders of the Hub.

Every function writes into `place.given` and returns the command line to try. Of a checkpoint, the
manifest is written anew: it guards against damage, not against intent.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.hostile_pickles import Call
from tests.faults.places import Place

_DEEP = "[" * 100_000


def plain(place: Place) -> list[str]:
    """A harmless folder: what a command takes for it is the base."""
    _run(place)
    return predict(place)


def _run(place: Place) -> Path:
    """A copy of the run; its checkpoint."""
    shutil.copytree(place.base / "run", place.given / "run")
    return max((place.given / "run" / "checkpoints").glob("step-*"))


def predict(place: Place) -> list[str]:
    image = next((place.base / "shapes" / "val").glob("*.png"))
    return ["predict", "--checkpoint", str(place.given / "run"), "--device", "cpu", "--workers",
            "0", "--output-dir", str(place.out), str(image)]  # fmt: skip


def report(place: Place) -> list[str]:
    return ["report", str(place.given / "run"), "--output-dir", str(place.out / "report")]


def go_on(place: Place) -> list[str]:
    """Trains a step more."""
    saved = json.loads((place.base / "command.json").read_text())
    run = ["--output-dir", str(place.given / "run"), "--resume", "--steps", "5"]
    return ["train", *saved, *run]


def _sealed(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint that was changed."""
    files = [p for p in checkpoint.iterdir() if p.suffix == ".safetensors" or p.stem == "state"]
    manifest = {
        p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in files
    }
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest))


def _state(place: Place, at: tuple[str, ...], value: Any) -> list[str]:
    """A run whose state.json has another value."""
    checkpoint = _run(place)
    content = json.loads((checkpoint / "state.json").read_text())
    item = content
    for key in at[:-1]:
        item = item[key]
    item[at[-1]] = value
    (checkpoint / "state.json").write_text(json.dumps(content))
    _sealed(checkpoint)
    return predict(place)


def _state_text(place: Place, text: str) -> list[str]:
    checkpoint = _run(place)
    (checkpoint / "state.json").write_text(text)
    _sealed(checkpoint)
    return predict(place)


def state_in_brackets(place: Place) -> list[str]:
    return _state_text(place, _DEEP)


def state_of_a_number(place: Place) -> list[str]:
    return _state_text(place, "7")


def state_of_many_digits(place: Place) -> list[str]:
    return _state_text(place, '{"format": ' + "9" * 1_000_000 + "}")


def step_of_text(place: Place) -> list[str]:
    return _state(place, ("step",), f"__import__('os').mkdir({str(place.canary)!r})")


def recipe_that_runs(place: Place) -> list[str]:
    call = f"__import__('os').mkdir({str(place.canary)!r})"
    return _state(place, ("recipe", "backbone", "name"), call)


def recipe_of_numbers_as_text(place: Place) -> list[str]:
    return _state(place, ("recipe", "input", "min_size"), "64")


def recipe_of_huge_layers(place: Place) -> list[str]:
    return _state(place, ("recipe", "roi_heads", "representation_size"), 1 << 40)


def recipe_of_huge_images(place: Place) -> list[str]:
    _state(place, ("recipe", "input", "min_size"), 1 << 30)
    return _state_again(place, ("recipe", "input", "max_size"), 1 << 30)


def _state_again(place: Place, at: tuple[str, ...], value: Any) -> list[str]:
    (checkpoint,) = (place.given / "run" / "checkpoints").glob("step-*4")
    content = json.loads((checkpoint / "state.json").read_text())
    content[at[0]][at[1]][at[2]] = value
    (checkpoint / "state.json").write_text(json.dumps(content))
    _sealed(checkpoint)
    return predict(place)


def recipe_of_nan(place: Place) -> list[str]:
    return _state(place, ("recipe", "roi_heads", "nms_thresh"), float("nan"))


def recipe_of_lists(place: Place) -> list[str]:
    return _state(place, ("recipe", "rpn", "aspect_ratios"), [[[1.0]]])


def recipe_of_no_group(place: Place) -> list[str]:
    return _state(place, ("recipe", "rpn"), 7)


def classes_without_end(place: Place) -> list[str]:
    many = {"names": [f"n{k}" for k in range(2_000_000)], "category_ids": [*range(2_000_000)]}
    return _state(place, ("classes",), many)


def classes_of_numbers(place: Place) -> list[str]:
    return _state(place, ("classes",), {"names": [1, None], "category_ids": ["a", {}]})


def classes_with_escapes(place: Place) -> list[str]:
    names = ["\x1b]0;owned\x07", "../../../outside/x", *"cdef"]
    _state(place, ("classes", "names"), names)
    return [*predict(place), "--save-crop", "--score-threshold", "0"]


def data_that_is_elsewhere(place: Place) -> list[str]:
    _state(place, ("data", "path"), {"a": [1]})
    return report(place)


def manifest_of_files_outside(place: Place) -> list[str]:
    checkpoint = _run(place)
    secret = place.outside / "secret.txt"
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    found = hashlib.sha256(secret.read_bytes()).hexdigest()
    said = {"size": secret.stat().st_size, "sha256": found}
    manifest |= {"../../../../outside/secret.txt": said, str(secret): said}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest))
    return predict(place)


def manifest_in_brackets(place: Place) -> list[str]:
    (_run(place) / "MANIFEST.json").write_text(_DEEP)
    return predict(place)


def manifest_of_nothing(place: Place) -> list[str]:
    checkpoint = _run(place)
    (checkpoint / "MANIFEST.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62))
    return predict(place)


def index_of_files_outside(place: Place) -> list[str]:
    """As transformers writes one beside the files that it names."""
    checkpoint = _run(place)
    index = {"weight_map": {"a": "../../../../outside/secret.txt"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    return predict(place)


def weights_of_other_shapes(place: Place) -> list[str]:
    checkpoint = _run(place)
    header = json.dumps({"x": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(24)
    (checkpoint / "model.safetensors").write_bytes(content)
    _sealed(checkpoint)
    return predict(place)


def _beside(place: Place, name: str, text: str) -> list[str]:
    _run(place)
    (place.given / "run" / name).write_text(text)
    return report(place)


def metrics_in_brackets(place: Place) -> list[str]:
    return _beside(place, "metrics.jsonl", _DEEP + "\n")


def metrics_in_brackets_resumed(place: Place) -> list[str]:
    _beside(place, "metrics.jsonl", _DEEP + "\n")
    return go_on(place)


def metrics_of_other_things(place: Place) -> list[str]:
    return _beside(place, "metrics.jsonl", '{"step": "x", "loss_a": [], "lr": {}}\n[]\n7\n{}\n')


def metrics_of_other_things_resumed(place: Place) -> list[str]:
    _beside(place, "metrics.jsonl", '{"loss_a": []}\n7\n')
    return go_on(place)


def evaluations_of_other_things(place: Place) -> list[str]:
    return _beside(place, "evaluations.jsonl", '{"step": {}}\n{"step": 1}\n[]\n')


def evaluations_of_other_things_resumed(place: Place) -> list[str]:
    _beside(place, "evaluations.jsonl", '{"step": {}}\n{"a": 1}\n')
    return go_on(place)


def results_in_brackets(place: Place) -> list[str]:
    checkpoint = _run(place)
    (checkpoint / "results.json").write_text(_DEEP)
    return report(place)


def results_of_other_things(place: Place) -> list[str]:
    checkpoint = _run(place)
    step = json.loads((checkpoint / "results.json").read_text())["step"]
    (checkpoint / "results.json").write_text(json.dumps({"step": step, "AP": [], "split": {}}))
    return report(place)


def status_in_brackets(place: Place) -> list[str]:
    _beside(place, "status.json", _DEEP)
    return go_on(place)


def trackers_in_brackets(place: Place) -> list[str]:
    _beside(place, "trackers.json", _DEEP)
    return [*go_on(place), "--track", "tensorboard"]


def recipe_file_in_brackets(place: Place) -> list[str]:
    _beside(place, "recipe.json", _DEEP)
    return go_on(place)


def _detections(place: Place, header: dict[str, Any] | None, data: bytes, kind: int) -> list[str]:
    """The kept detections of a run: a zip of arrays."""
    checkpoint = _run(place)
    with zipfile.ZipFile(checkpoint / "detections.npz", "w", kind, compresslevel=1) as archive:
        for name in ("image", "x1y1x2y2", "score", "label"):
            file = io.BytesIO()
            if header is None:
                np.save(file, np.array([Call(print, 1)], dtype=object), allow_pickle=True)
            else:
                np.lib.format.write_array_header_1_0(file, header)
            archive.writestr(f"{name}.npy", file.getvalue() + data)
    return report(place)


def detections_bomb(place: Place) -> list[str]:
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 26, 4)}
    return _detections(place, header, bytes(768 << 20), zipfile.ZIP_DEFLATED)


def detections_deflated(place: Place) -> list[str]:
    header = {"descr": "<f4", "fortran_order": False, "shape": (1, 4)}
    return _detections(place, header, bytes(16), zipfile.ZIP_DEFLATED)


def detections_of_terabytes(place: Place) -> list[str]:
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 42, 4)}
    return _detections(place, header, bytes(64), zipfile.ZIP_STORED)


def detections_of_objects(place: Place) -> list[str]:
    return _detections(place, None, b"", zipfile.ZIP_STORED)


def detections_of_text(place: Place) -> list[str]:
    header = {"descr": "<U4", "fortran_order": False, "shape": (1,)}
    return _detections(place, header, b"a\0\0\0" * 4, zipfile.ZIP_STORED)


def _hub(place: Place, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    shutil.copytree(place.base / "hub", place.given / "run")
    path = place.given / "run" / "config.json"
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    return predict(place)


def hub_in_brackets(place: Place) -> list[str]:
    return _hub(place, lambda _: '{"library_name": "fasterrcnn", "x": ' + _DEEP)


def hub_recipe_of_text(place: Place) -> list[str]:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        config["recipe"]["rpn"]["sizes"] = "__import__('os')"
        return config

    return _hub(place, change)


def hub_of_many_classes(place: Place) -> list[str]:
    many = {str(k): f"n{k}" for k in range(1_000_000)}
    return _hub(place, lambda c: {**c, "id2label": many, "category_ids": [*range(1_000_000)]})


def hub_classes_of_floats(place: Place) -> list[str]:
    return _hub(place, lambda c: {**c, "step": float("inf")})


def onnx_of_files_outside(place: Place) -> list[str]:
    """A network whose weights are said to be in a file outside."""
    import onnx
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], vals=[0.0, 0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside/secret.txt")
    node = helper.make_node("Identity", ["w"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "g", [], [out], [tensor])
    path = place.given / "x.onnx"
    path.write_bytes(onnx.ModelProto(graph=graph, ir_version=8).SerializeToString())
    return [word if word != str(place.given / "run") else str(path) for word in predict(place)]


FILES = (
    state_in_brackets, state_of_a_number, state_of_many_digits, step_of_text, recipe_that_runs,
    recipe_of_numbers_as_text, recipe_of_huge_layers, recipe_of_huge_images, recipe_of_nan,
    recipe_of_lists, recipe_of_no_group, classes_without_end, classes_of_numbers,
    classes_with_escapes, data_that_is_elsewhere, manifest_of_files_outside,
    manifest_in_brackets, manifest_of_nothing, index_of_files_outside, weights_of_other_shapes,
    metrics_in_brackets, metrics_in_brackets_resumed, metrics_of_other_things,
    metrics_of_other_things_resumed, evaluations_of_other_things,
    evaluations_of_other_things_resumed, results_in_brackets, results_of_other_things,
    status_in_brackets, trackers_in_brackets, recipe_file_in_brackets, detections_bomb,
    detections_deflated, detections_of_terabytes, detections_of_objects, detections_of_text,
    hub_in_brackets, hub_recipe_of_text, hub_of_many_classes, hub_classes_of_floats,
    onnx_of_files_outside,
)  # fmt: skip
