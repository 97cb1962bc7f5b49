"""All that `predict` writes: tables, and by other processes a picture, labels and crops per image.

Pictures of a video's frames become one video; they come back from the processes in order.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data import sources, video
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.frames import Frame
from fasterrcnn.data.known_images import Known
from fasterrcnn.data.sources import Source
from fasterrcnn.data.windows import InFile
from fasterrcnn.errors import StorageError
from fasterrcnn.reports import detection_files, drawing
from fasterrcnn.reports.picture_files import picture_names, save

_LONGEST = 4096  # px: side of a picture of an image that is too large to be decoded whole
Boxes = dict[str, Tensor]  # boxes (D, 4) x1 y1 x2 y2 (px), labels (D,) in 1..K, scores (D,)


@dataclass(frozen=True)
class Wanted:
    """What is written of each image, and where."""

    folder: Path
    names: tuple[str, ...]  # of the classes
    draw_threshold: float
    pictures: bool
    labels: bool
    crops: bool

    @property
    def any(self) -> bool:
        """Whether there is more to write than tables."""
        return self.pictures or self.labels or self.crops


class Names(NamedTuple):
    """The files of one image or frame, relative to their folders."""

    picture: str
    labels: str


def write(
    wanted: Wanted,
    names: Names,
    image: Tensor | InFile,
    found: Boxes,
    truth: Boxes | None,
    in_video: bool,
) -> Image.Image | None:
    """Write the files of one image; of a frame the picture is returned. An image that stays in its
    file is drawn with sides of at most `_LONGEST` px. Raises StorageError."""
    sure = found["scores"] >= wanted.draw_threshold
    drawn = {key: value[sure] for key, value in found.items()}
    try:
        if wanted.labels:
            file = wanted.folder / "labels" / names.labels
            detection_files.write_labels(file, (image.shape[1], image.shape[2]), found)
        if wanted.crops:
            folder = wanted.folder / "crops"
            detection_files.write_crops(folder, names.picture, image, drawn, wanted.names)
        if not wanted.pictures:
            return None
        line = not in_video  # it would come and go
        if isinstance(image, InFile):
            image, step = image.reduced(_LONGEST)
            drawn = _shrunk(drawn, step)
            truth = truth and _shrunk(truth, step)
        picture = drawing.draw(image, **drawn, names=wanted.names, truth=truth, legend=line)
        if in_video:
            return picture
        save(picture, wanted.folder / names.picture)
    except OSError as error:
        raise StorageError(
            f"{error.filename or wanted.folder}: {error.strerror or error}; free some space, or "
            "choose another --output-dir"
        ) from None
    return None


def _shrunk(boxes: Boxes, step: int) -> Boxes:
    return {**boxes, "boxes": boxes["boxes"] / step}


class PredictionFiles:
    """Takes the detections of one frame after the other, in order; `close` waits for the files."""

    def __init__(
        self,
        wanted: Wanted,
        classes: Classes,
        names: dict[Source, Names],
        tables: detection_files.Tables,
        pool: Executor,
        ahead: int,
    ) -> None:
        self._wanted, self._classes, self._tables = wanted, classes, tables
        self._pool, self._ahead = pool, ahead
        self._label = {name: label for label, name in enumerate(classes.names, start=1)}
        self._names = names
        self._waiting: deque[tuple[Source, Future]] = deque()
        self._video: tuple[Source, video.Writer] | None = None

    def add(
        self, image_id: int | str, frame: Frame, found: Boxes, truth: Boxes | None = None
    ) -> None:
        """Write what is wanted of a frame with an image. Raises StorageError."""
        self._tables.add(detection_files.rows(image_id, frame.name, found, self._classes))
        if not self._wanted.any:
            return
        names = self._names[frame.source]
        if frame.source.is_video:
            names = Names(frame.name, str(Path(frame.name).with_suffix(".txt")))
        image = frame.image if frame.picture is None else frame.picture
        assert not isinstance(image, str)
        in_video = frame.source.is_video
        job = self._pool.submit(write, self._wanted, names, image, found, truth, in_video)
        self._waiting.append((frame.source, job))
        self._finish(self._ahead)

    def truth(self, image: Known) -> Boxes:
        """The ground truth of an image, of the classes of the detector."""
        labels = [self._label.get(name, 0) for name in image.names]
        kept = torch.tensor(labels, dtype=torch.int64) > 0
        return {"boxes": image.boxes[kept], "labels": torch.tensor(labels)[kept]}

    def close(self) -> None:
        """Finish all files. Raises StorageError."""
        try:
            self._finish(0)
        finally:
            self._end_video()
            self._tables.close()

    def _finish(self, most: int) -> None:
        """Wait until at most `most` frames are being drawn."""
        while len(self._waiting) > most:
            source, future = self._waiting.popleft()
            picture = future.result()
            if picture is not None:
                self._writer(source).add(picture)

    def _writer(self, source: Source) -> video.Writer:
        """The video of a source; that of the source before is finished."""
        if self._video is None or self._video[0] != source:
            self._end_video()
            file = self._wanted.folder / self._names[source].picture
            self._video = source, video.Writer(file, video.rate(source.path))
        return self._video[1]

    def _end_video(self) -> None:
        if self._video is not None:
            self._video[1].close()
            self._video = None


def names_of(all_sources: list[Source]) -> dict[Source, Names]:
    """What the files of each source are called; all different."""
    names: dict[Source, Names] = {}
    for is_video, suffix in ((False, ".jpg"), (True, ".mp4")):
        some = [source for source in all_sources if source.is_video == is_video]
        own = [source.name for source in some]
        pictures, labels = picture_names(own, suffix), picture_names(own, ".txt")
        names |= dict(zip(some, map(Names, pictures, labels), strict=True))
    return names


def check(wanted: Wanted, names: dict[Source, Names]) -> None:
    """Raise StorageError if the folder cannot be written to, UsageError if a picture would replace
    an image."""
    if not wanted.any:
        return
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=wanted.folder).close()
    except OSError as error:
        raise StorageError(
            f"--output-dir: {wanted.folder}: cannot be written to ({error.strerror}); give another "
            "folder"
        ) from None
    if wanted.pictures:
        sources.check_not_replaced(names, wanted.folder, [own.picture for own in names.values()])
