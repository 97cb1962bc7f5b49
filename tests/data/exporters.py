"""Writes a COCO data set in every format that a labeling tool's library can write.

    python tests/data/exporters.py {supervision,datumaro} COCO_ROOT OUT

COCO_ROOT has annotations/instances_train.json and images/train. Not imported by the project: it
runs under the interpreter in which the library is installed. Prints the folders it has written.
"""

from __future__ import annotations

import sys
from pathlib import Path

DATUMARO = ("coco_instances", "voc_detection", "yolo", "cvat")


def supervision(root: Path, out: Path) -> None:
    """supervision's exporters."""
    import supervision as sv

    data = sv.DetectionDataset.from_coco(
        str(root / "images" / "train"), str(root / "annotations" / "instances_train.json")
    )
    coco, yolo, voc = out / "coco", out / "yolo", out / "voc"
    data.as_coco(str(coco / "train"), str(coco / "train" / "_annotations.coco.json"))
    data.as_yolo(
        str(yolo / "train" / "images"), str(yolo / "train" / "labels"), str(yolo / "data.yaml")
    )
    data.as_pascal_voc(str(voc / "images"), str(voc / "annotations"))


def datumaro(root: Path, out: Path) -> None:
    """Datumaro's exporters."""
    import datumaro as dm

    data = dm.Dataset.import_from(str(root), "coco_instances")
    for name in DATUMARO:
        data.export(str(out / name), name, save_media=True)
    split = data.transform("random_split", splits=[("train", 0.5), ("val", 0.5)])
    split.export(str(out / "yolo_ultralytics"), "yolo_ultralytics", save_media=True)


if __name__ == "__main__":
    tool, root, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"supervision": supervision, "datumaro": datumaro}[tool](root, out)
    print(*sorted(path.name for path in out.iterdir()))
