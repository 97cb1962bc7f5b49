"""Recognizes the format of a data set and reads a split of it.

A new format is a module with `recognizes` and `read`, and one line in `READERS`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from fasterrcnn.data import coco, cvat, image_folder, other_tools, paths, voc, yolo
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

READERS = {"coco": coco, "voc": voc, "yolo": yolo, "cvat": cvat, "imagefolder": image_folder}


def read(
    root: Path,
    split: str,
    dataset: str,
    wanted: Sequence[str] | Classes,
    problems: Problems,
    *,
    known: Collection[str] = (),
) -> Annotations:
    """Images and boxes of `split` of the data set in `root`.

    `dataset`: a key of `READERS`, or "auto". `wanted`: class names (none: all), or the classes of a
    model, whose labels are then used. Boxes of other classes are left out, and noted unless their
    class is one of the `known`. Raises UsageError if there is no such split, DataError if it has
    faults, after all of it was read.
    """
    _check_folder(root)
    name = recognize(root) if dataset == "auto" else dataset
    reader = READERS[name].read
    if name == "voc":
        reader = functools.partial(reader, declared=is_declared_voc(root, dataset))
    try:
        annotations = reader(root, split, problems)
    except DataError:
        problems.stop_if_any()  # a fault found before may be the cause
        raise
    _stop_if_unusable(annotations, root, split, problems)
    if isinstance(wanted, Classes):
        _note_left_out(annotations, wanted, known, f"{root}: split {split}", problems)
        classes = wanted
    else:
        classes = annotations.classes.subset(wanted or annotations.classes.names)
    annotations = annotations.with_classes(classes)
    if len(annotations.labels) == 0:
        names = ", ".join(annotations.classes.names)
        raise DataError(f"{root}: split {split}: no box of the classes {names}")
    return annotations


def _note_left_out(
    annotations: Annotations,
    classes: Classes,
    known: Collection[str],
    where: str,
    problems: Problems,
) -> None:
    """Note every class with boxes that a model does not have, unless it is one of the `known`."""
    counts = np.bincount(annotations.labels, minlength=annotations.classes.num_classes)
    spelled = {_folded(name): name for name in classes.names}
    for name, count in zip(annotations.classes.names, counts[1:].tolist(), strict=True):
        if count and name not in classes.names and name not in known:
            same = spelled.get(_folded(name))
            hint = f" (it has {same}: rename one of them)" if same else ""
            what = f"class {name}, which the model does not have{hint}"
            problems.note(where, f"class {name}", count, what, f"boxes left out: {count}")


def _folded(name: str) -> str:
    """`name` without what spellings of one word differ in."""
    return "".join(c for c in name.casefold() if c.isalnum())


def read_voc_images(root: Path, split: str, classes: Classes, problems: Problems) -> Annotations:
    """Images of a split of PASCAL VOC whose boxes are not public. Raises the errors of `read`."""
    _check_folder(root)
    annotations = voc.read_images(root, split, classes, problems)
    _stop_if_unusable(annotations, root, split, problems)
    return annotations


def is_declared_voc(root: Path, dataset: str) -> bool:
    """Whether this is PASCAL VOC's own data: the user says so, or it has a folder per year.

    Other tools write the layout of a single folder too.
    """
    return dataset == "voc" or (dataset == "auto" and voc.is_devkit(root))


def _stop_if_unusable(annotations: Annotations, root: Path, split: str, problems: Problems) -> None:
    """Raise DataError for faults, or if no image is left."""
    problems.stop_if_any()
    if len(annotations) == 0:
        raise DataError(f"{root}: split {split}: no usable image (dropped: {len(problems.found)})")


def recognize(root: Path) -> str:
    """Key in `READERS` of the data set in `root`. Raises UsageError unless exactly one fits."""
    _check_folder(root)
    fits = [name for name, reader in READERS.items() if reader.recognizes(root)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(
            f"--data-path: {root}: could be {' or '.join(fits)}; say --dataset {fits[0]}"
        )
    tops = paths.folders_in(root)
    inner = [*tops, *(folder for top in tops for folder in paths.folders_in(top))]
    inner = [p for p in inner if any(reader.recognizes(p) for reader in READERS.values())]
    if inner:
        raise UsageError(
            f"--data-path: {root}: holds no data set itself; try --data-path {inner[0]}"
        )
    if advice := other_tools.advice(root):
        raise UsageError(f"--data-path: {root}: {advice}")
    raise UsageError(
        f"--data-path: {root}: no data set found: annotations/*.json (COCO), Annotations/*.xml "
        "with JPEGImages/ or VOC2007/ (VOC), images/ with labels/ (YOLO), annotations.xml (CVAT) "
        f"or metadata.jsonl (Hugging Face) expected{_hint(root)}"
    )


def _check_folder(root: Path) -> None:
    """Raise UsageError unless `root` is a folder that can be listed."""
    if not paths.is_folder(root):
        what = "not a folder" if paths.is_file(root) else "no such folder"
        raise UsageError(f"--data-path: {root}: {what}{_hint(root)}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UsageError(f"--data-path: {root}: it may not be read; change its permissions")


def _hint(root: Path) -> str:
    """What to do about missing data; for the default folders, the script that downloads it."""
    wanted = {
        "coco": "annotations/instances_train2017.json and _val2017.json, train2017/, val2017/",
        "voc": "VOC2007/ and VOC2012/ with Annotations/, JPEGImages/, ImageSets/Main/",
    }
    if root.name in wanted and root.parent.name == "datasets":
        script = root.parent / f"get_{root.name}.sh"
        return f" ({wanted[root.name]}); bash {script} gets it, or give another --data-path"
    return "; check the path"
