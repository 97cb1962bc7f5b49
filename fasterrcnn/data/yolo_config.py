"""What a YOLO data set says about itself: ``data.yaml``, darknet's ``obj.data``, lists of classes.

All values of a yaml file are taken as the text that is written there: a class called ``no``,
``1e3`` or ``2024-01-01`` keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fasterrcnn.data import split_names, text
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.paths import is_file
from fasterrcnn.data.yolo_paths import Finder, short
from fasterrcnn.errors import DataError, UsageError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
# what cannot be printed in one line, or be in a path
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Config:
    """The content of a data set's description; empty if it has none."""

    file: Path | None = None
    folder: str = ""  # `path`, that of the images
    # the other keys: paths of images, if those of a split; None: something else than paths
    places: dict[str, list[str] | None] = field(default_factory=dict)
    names: dict[int, str] | None = None  # class index -> name
    names_file: str = ""  # the list that holds them instead
    count: str = ""  # `nc`
    channels: int = 0  # of the images; 0: not stated
    keypoints: tuple[int, int] | None = None  # `kpt_shape`: their number, values of each


def find(root: Path) -> Path | None:
    """The file that describes the data set: one of the usual names, or the only one that could.

    Raises DataError if there are several.
    """
    usual = [root / name for name in YAML_NAMES if is_file(root / name)]
    darknet = [root / "obj.data"] if is_file(root / "obj.data") else []
    others = [*sorted(root.glob("*.y*ml")), *sorted(root.glob("*.data"))]
    found = usual or darknet or [p for p in others if _describes_data(p)]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{root}: {names} each describe a data set; keep one, as data.yaml")
    return found[0] if found else None


def load(root: Path) -> Config:
    """What the data set in `root` says about itself. Raises DataError."""
    file = find(root)
    if file is None:
        return Config()
    return _from_darknet(file) if file.suffix == ".data" else _from_yaml(file)


def classes(root: Path, config: Config, finder: Finder, folders: Iterable[Path]) -> Classes:
    """The classes that data.yaml names, else the list of classes at the root, else the one in
    `folders` (those of the images and labels). Raises DataError; UsageError if none is there."""
    if config.names is not None:
        assert config.file is not None
        return _checked(config.file, config.names, config.count)
    lists = [_names_file(config, finder)] if config.names_file else []
    lists = lists or _class_lists(finder, [finder.root])
    lists = lists or _class_lists(finder, dict.fromkeys(folders))
    if not lists:
        raise UsageError(
            f"{root}: no class names; list them in classes.txt, one per line, or in data.yaml"
        )
    tables = [_listed(path) for path in lists]
    for path, table in zip(lists, tables, strict=True):
        if table != tables[0]:
            raise DataError(f"{path}: names other classes than {lists[0]}; keep one of them")
    return _checked(lists[0], tables[0], config.count)


def _describes_data(path: Path) -> bool:
    """Whether a file of another name than the usual ones names classes and images."""
    if path.name.startswith(".") or not is_file(path):
        return False
    try:
        content = text.read_text(path)
    except (DataError, FileNotFoundError):
        return False
    wanted = ("names", "|".join((*split_names.KNOWN, "path")))
    return all(re.search(rf"""(?mi)^["']?({keys})["']?\s*[:=]""", content) for keys in wanted)


def _from_yaml(file: Path) -> Config:
    nodes = _mapping(file)
    names = nodes.pop("names", None)
    keypoints = nodes.pop("kpt_shape", None)
    single = {key: _scalar(file, key, nodes.pop(key, None)) for key in ("path", "nc", "channels")}
    names_file = ""
    if isinstance(names, yaml.ScalarNode) and names.value.lower().endswith((".txt", ".names")):
        names_file, names = _text(file, "/names", names), None
    return Config(
        file=file,
        folder=single["path"],
        places={key: _paths(node) for key, node in nodes.items() if not _is_null(node)},
        names=None if names is None else _names(file, names),
        names_file=names_file,
        count=single["nc"],
        channels=_channels(file, single["channels"]),
        keypoints=None if keypoints is None else _keypoints(file, keypoints),
    )


def _mapping(file: Path) -> dict[str, yaml.Node]:
    """The keys and values of a yaml file. Values are left as nodes: aliases are not copied."""
    content = text.read_text(file)
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not yaml: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DataError(f"{file}: not yaml for a data set: nested too deeply") from None
    if not isinstance(root, yaml.MappingNode):
        raise DataError(f"{file}: /: {_shown(root)}: must be a mapping with names, train and val")
    return dict(_pairs(file, "/", root))


def _pairs(file: Path, pointer: str, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    """The items of a mapping at `pointer`, which ends in a slash."""
    seen = set()
    for key_node, value in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise DataError(f"{file}: {pointer}: {_shown(key_node)}: must not be a key")
        key = _text(file, pointer, key_node)
        if key in seen:
            raise DataError(f"{file}: {pointer}{short(key)}: stands there twice; keep one of them")
        seen.add(key)
        yield key, value


def _text(file: Path, pointer: str, node: yaml.ScalarNode) -> str:
    """The text of a value. Raises DataError where it could not be printed or be a path."""
    value: str = node.value.strip()
    if _CONTROL.search(value):
        raise DataError(f"{file}: {pointer}: {short(ascii(value))}: has a control character")
    return value


def _is_null(node: yaml.Node | None) -> bool:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return node is None or (plain and node.value in _NULLS)


def _scalar(file: Path, key: str, node: yaml.Node | None) -> str:
    if node is None or _is_null(node):
        return ""
    if not isinstance(node, yaml.ScalarNode):
        raise DataError(f"{file}: /{key}: {_shown(node)}: must be a single value")
    return _text(file, f"/{key}", node)


def _paths(node: yaml.Node) -> list[str] | None:
    """The paths in a value: one or a list; None if it is neither, as for other keys than splits:
    ``download`` can be a program."""
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    written = [item.value.strip() for item in items if isinstance(item, yaml.ScalarNode)]
    usable = all(path and not _CONTROL.search(path) for path in written)
    return written if usable and len(written) == len(items) else None


def _names(file: Path, node: yaml.Node) -> dict[int, str]:
    if isinstance(node, yaml.SequenceNode):
        items = [(str(k), item) for k, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        items = list(_pairs(file, "/names/", node))
    else:
        raise DataError(f"{file}: /names: {_shown(node)}: must be a list of class names")
    table: dict[int, str] = {}
    for key, item in items:
        if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) in table:
            raise DataError(f"{file}: /names/{short(key)}: must be a class index: 0, 1, 2 ...")
        if not isinstance(item, yaml.ScalarNode):
            raise DataError(f"{file}: /names/{short(key)}: {_shown(item)}: must be a class name")
        table[int(key)] = _text(file, f"/names/{key}", item)
    return table


def _keypoints(file: Path, node: yaml.Node) -> tuple[int, int] | None:
    if _is_null(node):
        return None
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    values = [item.value for item in items if isinstance(item, yaml.ScalarNode)]
    if len(items) != 2 or len(values) != 2 or not re.fullmatch(r"[1-9]\d{0,3}", values[0]):
        values = []
    if not values or values[1] not in ("2", "3"):
        raise DataError(
            f"{file}: /kpt_shape: {_shown(node)}: must be [number of keypoints, 2 or 3]"
        )
    return int(values[0]), int(values[1])


def _channels(file: Path, value: str) -> int:
    if value and not re.fullmatch(r"[1-9]\d{0,4}", value):
        raise DataError(f"{file}: /channels: {short(value)}: must be a number of bands")
    return int(value or 0)


def _shown(node: yaml.Node | None) -> str:
    """A value in a message."""
    if isinstance(node, yaml.ScalarNode):
        shown = node.value if node.value.isprintable() else ascii(node.value)
    elif isinstance(node, yaml.SequenceNode):
        plain = all(isinstance(item, yaml.ScalarNode) for item in node.value)
        shown = f"[{', '.join(map(_shown, node.value))}]" if plain else "a nested list"
    else:
        shown = "nothing" if node is None else "a mapping"
    return short(shown)


def _from_darknet(file: Path) -> Config:
    """``names = data/obj.names``, ``train = data/train.txt``, ``valid = ...``, ``classes = 2``."""
    values: dict[str, str] = {}
    for number, line in text.lines(file):
        key, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("#"):
            continue
        if not equals or key in values:
            what = "stands there twice; keep one of them" if equals else "must be: key = value"
            raise DataError(f"{file}: line {number}: {short(' '.join(line.split()))}: {what}")
        values[key] = value
    return Config(
        file=file,
        names_file=values.pop("names", ""),
        count=values.pop("classes", ""),
        places={key: [value] for key, value in values.items() if value},
    )


def _names_file(config: Config, finder: Finder) -> Path:
    assert config.file is not None
    name = config.names_file
    found = finder.find(name, [finder.root]) or (finder.find_moved(name) or (None,))[0]
    if found is None:
        raise DataError(f"{config.file}: /names: {short(name)}: no such file; correct the entry")
    return found


def _class_lists(finder: Finder, folders: Iterable[Path]) -> list[Path]:
    """The lists of classes in these folders."""
    return [
        folder / name
        for folder in folders
        for name in finder.names(folder)
        if (name.lower() in CLASS_LISTS or name.endswith(".names")) and not name.startswith(".")
    ]


def _listed(path: Path) -> dict[int, str]:
    """The names in a list of classes, one per line. Raises DataError."""
    try:
        numbered = text.lines(path)
    except FileNotFoundError:
        raise DataError(f"{path}: broken link") from None
    for place, (number, _) in enumerate(numbered, start=1):
        if number != place:
            raise DataError(f"{path}: line {place}: blank, where a class name is expected")
    return {k: " ".join(name.split()) for k, (_, name) in enumerate(numbered)}


def _checked(file: Path, table: dict[int, str], count: str) -> Classes:
    """The classes, if their names are usable and as many as announced. Raises DataError."""
    names, ids = tuple(table[k] for k in sorted(table)), tuple(sorted(table))
    if not names:
        raise DataError(f"{file}: /names: must be a list of class names; it is empty")
    seen: set[str] = set()
    for k, name in zip(ids, names, strict=True):
        if not name or name in seen:
            what = "not unique" if name else "a class without a name"
            raise DataError(f"{file}: /names/{k}: {short(name)}: {what}; correct the list of names")
        seen.add(name)
    if count and count.removesuffix(".0") not in (str(len(ids)), str(ids[-1] + 1)):
        raise DataError(
            f"{file}: {short(count)} classes are announced, but {len(ids)} named; correct one"
        )
    return Classes(names, ids)
