"""Hostile files of proposals, detections and benchmarks.

Every function writes one into `place.given` and returns the command line to try.
"""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any

import numpy as np

from tests.faults.hostile_pickles import Call, doubled
from tests.faults.places import Place

_DEEP = "[" * 100_000


def _proposals(place: Place, name: str = "x.safetensors") -> list[str]:
    shapes = str(place.base / "shapes")
    return ["compare-proposals", str(place.given / name), "--data-path", shapes]


def proposals_in_brackets(place: Place) -> list[str]:
    header = {"__metadata__": {"fasterrcnn proposals 1": _DEEP}}
    return _stored(place, header, b"")


def _stored(place: Place, header: dict[str, Any], data: bytes) -> list[str]:
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + data
    (place.given / "x.safetensors").write_bytes(content)
    return _proposals(place)


def proposals_about_nothing(place: Place) -> list[str]:
    return _stored(place, {"__metadata__": {"fasterrcnn proposals 1": "[1, 2]"}}, b"")


def _whole(place: Place, about: Any = None, **changes: np.ndarray) -> list[str]:
    """Proposals whose SHA-256 is right."""
    from safetensors.numpy import save_file

    from fasterrcnn.data import proposals

    tensors = {
        "boxes": np.zeros((8, 4), np.float32), "scores": np.zeros(8, np.float32),
        "first": np.arange(9, dtype=np.int64), "sizes": np.full((8, 2), 64, np.int32),
        "ids": np.frombuffer(json.dumps([str(10**6 + k) for k in range(8)]).encode(), np.uint8),
    } | changes  # fmt: skip
    said = {"sha256": proposals._digest(tensors), "about": about or {}}
    save_file(tensors, place.given / "x.safetensors", {proposals._FORMAT: json.dumps(said)})
    return _proposals(place)


def proposals_of_rows_behind_the_end(place: Place) -> list[str]:
    return _whole(place, first=np.array([0, *[1 << 62] * 8], np.int64))


def proposals_of_negative_rows(place: Place) -> list[str]:
    return _whole(place, first=np.array([*range(0, -9, -1)], np.int64))


def proposals_of_text(place: Place) -> list[str]:
    return _whole(place, ids=np.frombuffer(_DEEP.encode(), np.uint8))


def proposals_of_flat_boxes(place: Place) -> list[str]:
    return _whole(place, boxes=np.zeros(8, np.float32))


def proposals_of_no_size(place: Place) -> list[str]:
    return _whole(place, sizes=np.zeros((8, 2), np.int32))


def proposals_of_odd_facts(place: Place) -> list[str]:
    return _whole(place, about=["\x1b[2J"])


def proposals_of_odd_seconds(place: Place) -> list[str]:
    return _whole(place, about={"seconds_per_image": "9" * 9, "made_by": "\x1b]0;owned\x07"})


def proposals_that_run(place: Place) -> list[str]:
    content = {"ids": [], "boxes": Call(eval, f"__import__('os').mkdir({str(place.canary)!r})")}
    (place.given / "x.pkl").write_bytes(pickle.dumps(content))
    return _proposals(place, "x.pkl")


def proposals_of_doubled_lists(place: Place) -> list[str]:
    array = [np.zeros((1, 4), np.float32)]
    content = {"ids": ["a"], "boxes": array, "objectness_logits": [np.zeros(1, np.float32)],
               "bbox_mode": doubled(60)}  # fmt: skip
    (place.given / "x.pkl").write_bytes(pickle.dumps(content, 2))
    return _proposals(place, "x.pkl")


def proposals_of_doubled_ids(place: Place) -> list[str]:
    array = [np.zeros((1, 4), np.float32)]
    content = {
        "ids": [doubled(60)],
        "boxes": array,
        "objectness_logits": [np.zeros(1, np.float32)],
    }
    (place.given / "x.pkl").write_bytes(pickle.dumps(content, 2))
    return _proposals(place, "x.pkl")


def _compared(place: Place, text: str) -> list[str]:
    path = place.given / "x.json"
    path.write_text(text)
    shapes = str(place.base / "shapes")
    return ["compare", str(path), str(path), "--data-path", shapes, "--split", "val", "--page",
            str(place.out / "page.html")]  # fmt: skip


def detections_in_brackets(place: Place) -> list[str]:
    return _compared(place, _DEEP)


def detections_of_many_digits(place: Place) -> list[str]:
    row = '{"image_id": 1000000, "category_id": 1, "bbox": [0, 0, 1, 1], "score": '
    return _compared(place, f"[{row}{'9' * 100_000}}}]")


def detections_in_objects(place: Place) -> list[str]:
    return _compared(place, '[{"image_id": ' + '{"a": ' * 900 + "1" + "}" * 900 + "}]")


def benchmark_in_brackets(place: Place) -> list[str]:
    (place.given / "x.json").write_text(_DEEP)
    return ["tables", str(place.given / "x.json"), "--recipes", "fasterrcnn_r50_fpn_1x"]


def benchmark_of_other_things(place: Place) -> list[str]:
    (place.given / "x.json").write_text("[7]")
    return ["tables", str(place.given / "x.json"), "--recipes", "fasterrcnn_r50_fpn_1x"]


FILES = (
    proposals_in_brackets, proposals_about_nothing, proposals_of_rows_behind_the_end,
    proposals_of_negative_rows, proposals_of_text, proposals_of_flat_boxes,
    proposals_of_no_size, proposals_of_odd_facts, proposals_of_odd_seconds, proposals_that_run,
    proposals_of_doubled_lists, proposals_of_doubled_ids, detections_in_brackets,
    detections_of_many_digits, detections_in_objects, benchmark_in_brackets,
    benchmark_of_other_things,
)  # fmt: skip
