"""YOLO txt folders: one text file per image, with a line ``class x y width height`` per box.

Coordinates are fractions of the displayed image (x, y: the box's center), whose size is read from
its header. Layouts: a ``data.yaml`` that names classes and splits (as written by Ultralytics and
Roboflow), or ``images/<split>`` with ``labels/<split>`` or ``<split>/images`` with
``<split>/labels``, and class names in ``classes.txt``. The image id is the relative path; category
ids are those of the files, from 0.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_files import SUFFIXES
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

_ALIASES = {"val": ("val", "valid", "validation")}


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return _yaml_file(root) is not None or any(
        (root / images).is_dir() and (root / labels).is_dir()
        for images, labels in (("images", "labels"), ("train/images", "train/labels"))
    )


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    config = _config(root)
    classes = _classes(root, config)
    label_of = {id: label for label, id in enumerate(classes.category_ids, start=1)}
    names = _image_names(root, split, config)

    def describe(where: tuple[str, int]) -> tuple[Path, str]:
        return _label_file(root / where[0]), f"line {where[1]}"

    builder = Builder(root, problems, describe)
    for name in names:
        builder.add_image(name, name, None, root / name, "image")
    for id, (height, width, _) in builder.usable.items():
        name = str(id)
        for number, line in _lines(_label_file(root / name), problems):
            box = _box(line, label_of)
            if isinstance(box, str):
                problems.fault(*describe((name, number)), line, box)
            else:
                category, x, y, w, h = box
                xywh = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
                builder.add_box(name, label_of[category], xywh, None, False, (name, number))
    return builder.build(classes)


def _yaml_file(root: Path) -> Path | None:
    there = [
        root / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (root / name).is_file()
    ]
    return there[0] if there else None


def _config(root: Path) -> dict:
    """The content of data.yaml; {} if there is none."""
    path = _yaml_file(root)
    if path is None:
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not yaml: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: /: {type(config).__name__}: must be a mapping with names")
    return config


def _classes(root: Path, config: dict) -> Classes:
    """The classes named by data.yaml, else by classes.txt."""
    names = config.get("names")
    if names is None:
        for path in (root / "classes.txt", root / "labels" / "classes.txt"):
            if path.is_file():
                names = [n.strip() for n in path.read_text("utf-8-sig").split("\n") if n.strip()]
                break
        else:
            raise UsageError(
                f"{root}: no class names; list them in classes.txt, one per line, or in data.yaml"
            )
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table or not all(isinstance(k, int) for k in table):
        raise DataError(f"{_yaml_file(root)}: /names: {names}: must be a list of class names")
    ids = sorted(table)
    if len(set(map(str, table.values()))) != len(ids):
        raise DataError(f"{root}: class names: {', '.join(map(str, table.values()))}: not unique")
    return Classes(tuple(str(table[id]) for id in ids), tuple(ids))


def _image_names(root: Path, split: str, config: dict) -> list[str]:
    """Relative paths of the split's images, sorted."""
    names = _ALIASES.get(split, (split,))
    entries = [config[name] for name in names if config.get(name)]
    entries = entries[0] if entries and isinstance(entries[0], list) else entries[:1]
    base = root / str(config.get("path", ""))
    folders = [base / str(entry) for entry in entries]
    # Roboflow writes "../train/images" for train/images
    folders += [root / str(entry).removeprefix("../") for entry in entries]
    folders += [root / f for name in names for f in (f"images/{name}", f"{name}/images")]
    for folder in folders:
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            found = sorted(p for p in folder.resolve().rglob("*") if p.suffix.lower() in SUFFIXES)
            return [p.relative_to(root.resolve()).as_posix() for p in found]
    raise UsageError(
        f"{folders[-2]}: no such folder, nor {folders[-1]}: no images of split {split} "
        "(--train-split, --val-split)"
    )


def _label_file(image: Path) -> Path:
    """``.../images/.../x.jpg`` -> ``.../labels/.../x.txt`` (replaces the last "images")."""
    parts = list(image.parts)
    last = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    if last is not None:
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path, problems: Problems) -> list[tuple[int, str]]:
    """Numbered non-empty lines of a label file; none if it does not exist."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        problems.fault(path, f"byte {error.start}", path.name, "not UTF-8")
        return []
    return [(n, line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _box(line: str, label_of: dict[int, int]) -> tuple[int, float, float, float, float] | str:
    """(class, center x, center y, w, h) as fractions, or what is wrong with the line."""
    fields = line.split()
    if len(fields) != 5:
        return "must be five numbers: class, center x, center y, width, height"
    try:
        category, box = int(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        return "must be five numbers: class, center x, center y, width, height"
    if category not in label_of:
        return f"no class has the index {category}"
    if not all(0 <= value <= 1 for value in box):
        return "coordinates must be fractions between 0 and 1"
    x, y, w, h = box
    return category, x, y, w, h
