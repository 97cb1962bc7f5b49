"""Which annotation files and images of a VOC data set belong together, and to which split.

PASCAL's layout, and what exports in its format make of it: other names of the two folders, XML
beside the images, sub-folders, one folder per split, no lists.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.data import split_names, text, xml_files
from fasterrcnn.data.image_files import SUFFIXES, files_in, is_image
from fasterrcnn.data.image_index import ImageIndex, file_name
from fasterrcnn.data.paths import composed, fold, folders_in, is_file, is_folder
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

SHORT_NAMES = {
    "07": "2007_trainval",
    "12": "2012_trainval",
    "07++12": "2007_trainval+2007_test+2012_trainval",
}
_ANNOTATIONS = ("annotations", "annotation", "xmls", "xml", "labels", "label")
_IMAGES = ("jpegimages", "images", "image", "imgs", "img", "data")
_FEW = 20  # entries that are looked at to recognize a folder, which may hold a million


class Place(NamedTuple):
    """Where the annotation files and the images of a data set are."""

    annotations: list[Path]
    images: list[Path]


class Folder:
    """Annotation files and the images that they may be about, listed once.

    `xml`: image id (path below the folder of annotations, without suffix) -> annotation file.
    """

    def __init__(self, root: Path, place: Place, problems: Problems) -> None:
        self.annotations, *others = place.annotations
        if others:
            raise UsageError(
                f"{root}: annotation files are in {self.annotations.name} and {others[0].name}; "
                "leave one of the two folders there"
            )
        self.image_folders = place.images
        self.images = ImageIndex(root, place.images, problems)
        names = files_in(self.annotations, ".xml")
        self.xml = {composed(name[: -len(".xml")]): self.annotations / name for name in names}

    def xml_of(self, id: str) -> Path:
        """The annotation file of an image, where it is or should be."""
        return self.xml.get(id, self.annotations / f"{id}.xml")

    def images_of(self, id: str, named: str) -> list[str]:
        """The images that the annotation file of `id`, which names `named`, can be about: those
        that are called like the file, else those that it names."""
        found = self.images.at(id) or self.images.called(id)
        if named and not found:
            found = self.images.at(named) or self.images.called(named)
        exact = [i for i in found if composed(Path(i).name) == composed(Path(named).name)]
        return exact if len(exact) == 1 else found

    def images_without_xml(self, used: Collection[str]) -> list[str]:
        """The images that no annotation file is called like, except those `used` nevertheless."""
        described = {fold(Path(id).name) for id in self.xml}
        names = ((image, Path(fold(image))) for image in self.images.names)
        return [
            image
            for image, path in names
            if image not in used and not {path.stem, path.name} & described
        ]


class Images(NamedTuple):
    """Images of a split that are in one folder."""

    folder: Folder
    ids: list[str]
    listed_in: Path | None


def is_devkit(root: Path) -> bool:
    """Whether `root` holds folders per year, ``VOC2007/`` for example."""
    return not is_folder(root / "JPEGImages") and any(
        root.glob("VOC[0-9][0-9][0-9][0-9]/JPEGImages")
    )


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return is_devkit(root) or _place(root) is not None or bool(_split_places(root))


def sets(root: Path, split: str) -> list[tuple[str, str]]:
    """The sets of `split`: (folder in `root`, "" or "VOC2007/"; name).

    Raises UsageError for a name that is not YEAR_SET, and for a year without a folder.
    """
    if not is_devkit(root):
        return [("", split)]
    names = [SHORT_NAMES.get(name, name) for name in SHORT_NAMES.get(split, split).split("+")]
    return [_year_and_set(root, name) for name in names]


def find(root: Path, split: str, problems: Problems) -> list[Images]:
    """The images of a split, in the order of the lists, else sorted. Raises UsageError."""
    if is_devkit(root):
        return _of_years(root, split, problems)
    place = _place(root)
    if place is None:
        places = _split_places(root)
        if not places:
            _year_and_set(root, SHORT_NAMES.get(split, split).partition("+")[0])
            raise UsageError(f"{root}: no annotation files found (Annotations/*.xml)")
        folder = Folder(root, places[split_names.choose(root, split, places)], problems)
        return [Images(folder, sorted(folder.xml), None)]
    folder = Folder(root, place, problems)
    if _lists(root):
        path = _list(root, split)
        return [Images(folder, _ids(path, folder), path)]
    if not folder.xml:
        raise UsageError(f"{folder.annotations}: no annotation file (*.xml) in this folder")
    name = split_names.choose(root, split, split_names.first_folders(folder.xml))
    ids = [id for id in folder.xml if not name or id.startswith(f"{name}/")]
    return [Images(folder, sorted(ids), None)]


def in_no_split(root: Path, images: Images) -> list[Path]:
    """Annotation files in the folder of a split that are in no list, or not in a split's folder."""
    xml = images.folder.xml
    inside = {*xml}
    if images.listed_in is not None:
        try:
            inside = {id for path in _lists(root).values() for id in _listed(path, images.folder)}
        except (DataError, OSError):  # nothing is known of a list that cannot be read
            pass
    elif split_names.first_folders(xml):
        inside = {id for id in xml if "/" in id}
    return [xml[id] for id in sorted(xml.keys() - inside)]


def _of_years(root: Path, split: str, problems: Problems) -> list[Images]:
    """The images of several sets of a devkit."""
    found: list[Images] = []
    folders: dict[str, Folder] = {}
    for year, name in sets(root, split):
        if year not in folders:
            place = Place([root / year / "Annotations"], [root / year / "JPEGImages"])
            folders[year] = Folder(root, place, problems)
        path = root / year / f"ImageSets/Main/{name}.txt"
        found.append(Images(folders[year], _ids(path, folders[year], root), path))
        earlier = {id for images in found[:-1] for id in images.ids}
        if twice := earlier & {*found[-1].ids}:
            raise UsageError(
                f"{root}: {split}: image {min(twice)} is in two of the sets; join sets without "
                "common images"
            )
    return found


def _year_and_set(root: Path, name: str) -> tuple[str, str]:
    """``2007_trainval`` -> ``("VOC2007/", "trainval")``."""
    year, _, rest = name.partition("_")
    if not (len(year) == 4 and year.isdecimal() and rest):
        raise UsageError(f"{root}: {name}: no such split; {_available(root)}")
    if not (root / f"VOC{year}").is_dir():
        raise UsageError(
            f"{root / f'VOC{year}'}: no such folder; bash datasets/get_voc.sh gets VOC2007 and "
            "VOC2012"
        )
    return f"VOC{year}/", rest


# Folders.


def _place(root: Path) -> Place | None:
    """The folders of annotations and of images in `root`; None if it holds no such data set."""
    inner = folders_in(root)
    annotations, images = (
        [folder for folder in inner if folder.name.casefold() in names]
        for names in (_ANNOTATIONS, _IMAGES)
    )
    holding = [folder for folder in annotations if _has_annotations(folder)]
    if not holding and is_folder(root / "JPEGImages") and is_folder(root / "Annotations"):
        holding = [root / "Annotations"]  # PASCAL's layout, whatever is in it
    if holding:
        return Place(holding, images or [root])
    beside = [folder for folder in images if _has_annotations(folder)]
    if beside:
        return Place(beside, images)
    return Place([root], [root]) if _has_annotations(root, depth=0) else None


def _split_places(root: Path) -> dict[str, Place]:
    """Folders of `root` that are a data set each, if they are called like splits."""
    inner = folders_in(root)
    if not any(split_names.is_known(folder.name) for folder in inner):
        return {}
    places = {folder.name: place for folder in inner if (place := _place(folder))}
    return places if split_names.are_splits(places) else {}


def _has_annotations(folder: Path, depth: int = 2) -> bool:
    """Whether `folder` holds VOC annotation files; what is not XML at all may be a broken one."""
    few = itertools.islice(_xml_files(folder, depth), _FEW)
    tags = {path: xml_files.root_tag(path) for path in few}
    broken = [path for path, tag in tags.items() if tag is None]
    return "annotation" in tags.values() or any(
        path.name not in xml_files.OF_ALL_IMAGES for path in broken
    )


def _xml_files(folder: Path, depth: int) -> Iterator[Path]:
    """XML files in `folder` and its sub-folders, found without listing all of their images."""
    try:
        with os.scandir(folder) as all_entries:
            entries = [*itertools.islice(all_entries, 50 * _FEW)]
    except OSError:
        return
    visible = sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    names = [e.name for e in visible if e.name.lower().endswith(".xml")]
    images = (Path(e.name) for e in visible if is_image(e.name))
    names += [image.with_suffix(".xml").name for image in itertools.islice(images, _FEW)]
    yield from filter(is_file, (folder / name for name in dict.fromkeys(names)))
    if depth:
        inner = (entry.path for entry in visible if is_folder(entry))
        for path in itertools.islice(inner, _FEW):
            yield from _xml_files(Path(path), depth - 1)


# Lists.


def _lists(root: Path) -> dict[str, Path]:
    """The lists of images in `root`: name -> file."""
    sets = [folder for folder in folders_in(root) if folder.name.casefold() == "imagesets"]
    main = [p for place in sets for p in folders_in(place) if p.name.casefold() == "main"]
    for place in (*main, *sets):
        files = [path for path in sorted(place.glob("*.txt")) if path.name[0] != "."]
        if files:
            return {path.stem: path for path in files}
    return {p.stem: p for p in sorted(root.glob("*.txt")) if split_names.is_known(p.stem)}


def _list(root: Path, split: str) -> Path:
    """The list of a split of one folder. Raises UsageError."""
    lists = _lists(root)
    if split in lists:
        return lists[split]
    names = _names_of_lists(root)
    try:
        name = split_names.choose(root, split, names)
    except UsageError:
        if not names:
            raise
        path = next(iter(lists.values())).with_name(f"{split}.txt")
        raise UsageError(f"{path}: no such split; {_available(root)}") from None
    return lists[name or "default"]


def _names_of_lists(root: Path) -> list[str]:
    """The splits that have a list, without lists of a single class. CVAT and Datumaro call the
    list of a set without a name "default"; alone it is none."""
    if is_devkit(root):
        lists = {
            f"{path.parts[-4].removeprefix('VOC')}_{path.stem}": path
            for path in root.glob("VOC????/ImageSets/Main/*.txt")
        }
    else:
        lists = _lists(root)
    files = {*lists.values()}
    names = [
        name
        for name, path in lists.items()
        if path.with_stem(path.stem.rpartition("_")[2]) not in files - {path}
    ]
    return [] if names == ["default"] else sorted(names)


def _available(root: Path) -> str:
    """The splits in `root` and their flags, for messages."""
    return f"found: {', '.join(_names_of_lists(root)) or 'none'} (--train-split, --val-split)"


def _ids(path: Path, folder: Folder, root: Path | None = None) -> list[str]:
    """The image ids in a list; `root` is where other lists are, for the message if there is no
    such list. Raises UsageError and DataError."""
    try:
        ids = _listed(path, folder)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such split; {_available(root or path.parent)}") from None
    if not ids:
        raise DataError(f"{path}: lists no image; give another split")
    return ids


def _listed(path: Path, folder: Folder) -> list[str]:
    """The image ids in a list, in order, without duplicates."""
    return list(dict.fromkeys(id for _, line in text.lines(path) if (id := _id(line, folder))))


def _id(line: str, folder: Folder) -> str:
    """The image id that a line means, "" for a comment: of the ways in which tools write lines,
    the first whose annotation file is there, else the first whose image is."""
    line = composed(line)
    if line in folder.xml:
        return line
    quoted = re.match(r'"([^"]+)"', line)
    flagged = re.sub(r"\s+-?[01]$", "", line)
    written = [quoted[1] if quoted else line, line, flagged, line.split()[0]]
    paths = [tail for path in map(file_name, written) for tail in (path, *_inside(path, folder))]
    bare = [_bare(path) for path in paths]
    for id in itertools.chain.from_iterable(zip(paths, bare, strict=True)):
        if id in folder.xml:
            return id
    if there := [id for id in bare if folder.images.at(id)]:
        return there[0]
    return "" if line.startswith("#") else _bare(file_name(flagged))


def _bare(path: str) -> str:
    """`path` without the suffix of an image or annotation file."""
    suffix = Path(path).suffix
    return path.removesuffix(suffix) if suffix.lower() in (".xml", *SUFFIXES) else path


def _inside(path: str, folder: Folder) -> Iterator[str]:
    """What follows the name of one of the folders in a path: ``JPEGImages/a.jpg`` -> ``a.jpg``."""
    names = {place.name.casefold() for place in (folder.annotations, *folder.image_folders)}
    parts = path.split("/")
    for k in range(len(parts) - 1, 0, -1):
        if parts[k - 1].casefold() in names:
            yield "/".join(parts[k:])
