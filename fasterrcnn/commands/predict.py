"""Detect objects in images, videos and cameras: annotated pictures, json and other files.

SOURCE is an image, a folder of images, a glob in quotes, a list of paths (a .txt file, or - for
standard input), a video, or a camera such as /dev/video0.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fasterrcnn import recipes
from fasterrcnn.cli import flags, inference, shared
from fasterrcnn.data import frames, geo_tags, images, sources, video
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.frames import Frame
from fasterrcnn.data.known_images import KnownImages
from fasterrcnn.data.sources import Source
from fasterrcnn.engine import detectors, prediction, runtime
from fasterrcnn.errors import DataError, ProcessDied, Stopped, UsageError
from fasterrcnn.progress import Progress
from fasterrcnn.reports import prediction_files
from fasterrcnn.reports.detection_files import Tables
from fasterrcnn.reports.prediction_files import Boxes, PredictionFiles, Wanted
from fasterrcnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class Options(inference.Inference):
    """The detector, the images, and where results go."""

    checkpoint: Path = shared.detector()
    source: tuple[str, ...] = setting(
        help="images, folders of images, 'globs', lists of paths (.txt, or - for standard input), "
        "videos, cameras (/dev/video0)",
        positional=True,
    )
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/predictions)")
    no_pictures: bool = setting(False, "draw nothing")
    draw_threshold: float = setting(
        0.5, "detections below this score are not drawn or cut out", least=0, most=1
    )
    display_bands: tuple[int, ...] = shared.display_bands()
    json: Path | None = setting(None, "write the detections to this file (COCO's result format)")
    csv: Path | None = setting(None, "write the detections to this table")
    geojson: Path | None = setting(
        None, "write the detections to this file, as polygons in the coordinates of GeoTIFF files"
    )
    save_txt: bool = setting(False, "write YOLO label files with scores to <output-dir>/labels")
    save_crop: bool = setting(False, "write what is drawn, cut out, to <output-dir>/crops")
    annotations: Path | None = setting(
        None, "COCO json file that knows the images: its ids go into --json, its boxes are drawn"
    )
    images_per_gpu: int = shared.images_per_gpu()
    workers: int | None = setting(
        None, "processes that decode and draw (default: number of cores, at most 8)", least=0
    )
    max_image_pixels: int = shared.max_image_pixels()
    device: str = shared.device()


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    check_flags(options)
    rt = runtime.start(options.device)
    images.limit_pixels(options.max_image_pixels)
    model, state, path, own_folder, _ = load(options.checkpoint)
    recipe, changed = inference.apply(rt.place(model), state.recipe, state.classes, options)
    recipe = recipes.change(recipe, amp=rt.resolve_amp(options.amp or recipe.amp))
    folder = options.output_dir or own_folder / "predictions"
    found = sources.find(options.source, folder)
    asked = list(islice(found.sources.values(), options.limit))
    if any(source.is_video for source in asked):
        video.need()
    known = None if options.annotations is None else read_annotations(options.annotations, asked)
    classes = with_ids(state.classes, options.classes, known) if known else state.classes
    wanted = Wanted(
        folder,
        classes.names,
        options.draw_threshold,
        pictures=not options.no_pictures,
        labels=options.save_txt,
        crops=options.save_crop,
    )
    names = prediction_files.names_of(asked)
    prediction_files.check(wanted, names)
    places = None if options.geojson is None else read_places(options.geojson, asked)
    tables = Tables(options.json, options.csv, options.geojson, places)

    views = options.views(recipe)
    side = views.side if views else 0
    where = f", in {views.describe()}" if views and side else ""
    print(f"checkpoint {path} (step {state.step}), amp {recipe.amp}, {len(asked)} sources{where}")
    for line in changed:
        print(f"changed: {line}")
    if found.pictures:
        print(f"{found.pictures} pictures of an earlier run left out: {folder}")
    workers = rt.loader_workers(options.workers)
    ahead = workers + options.images_per_gpu
    with processes(workers) as pool, signals_received() as signals:
        files = PredictionFiles(wanted, classes, names, tables, pool, ahead)
        size_of = known.size if known else lambda _: None
        shown = options.display_bands
        stream = frames.read(
            asked,
            pool,
            ahead,
            size_of,
            recipe.input.pixel_format,
            recipe.input.pixel_format.drawn(shown) if shown else None,
            side,
        )
        detected = prediction.detect(
            model,
            islice(stream, options.limit),
            recipe,
            rt,
            options.images_per_gpu,
            views,
        )
        has_video = any(source.is_video for source in asked)
        progress = Progress(None if has_video else len(asked), "images")
        tally = take(detected, files, known, options.draw_threshold, progress, signals)
    report(tally, progress, options, wanted)
    if signals:
        name = signal.Signals(signals[0]).name
        what = f"{name}: stopped after {progress.count} images; what was found in them is written"
        raise Stopped(what, 128 + signals[0])
    if problems := found.problems + tally.problems:
        raise DataError("\n".join(problems))


@dataclass
class Tally:
    """What came of all images."""

    detections: int = 0
    drawn: int = 0
    problems: list[str] = field(default_factory=list)  # images that could not be read, a line each


def take(
    detected: Iterator[tuple[Frame, Boxes | None]],
    files: PredictionFiles,
    known: KnownImages | None,
    draw_threshold: float,
    progress: Progress,
    signals: list[int],
) -> Tally:
    """Write the files of each image, until there is none left or a signal has come."""
    tally = Tally()
    try:
        for image_id, (frame, found) in enumerate(detected, start=1):
            if found is None:
                tally.problems.append(f"{frame.source.path}: {frame.image}")
            elif known is None:
                files.add(image_id, frame, found)
            else:
                image = known.get(frame.name)
                files.add(image.id, frame, found, files.truth(image))
            if found is not None:
                tally.detections += len(found["scores"])
                tally.drawn += int((found["scores"] >= draw_threshold).sum())
            progress.step()
            if signals:
                break
    finally:
        progress.close()
        files.close()
    return tally


def report(tally: Tally, progress: Progress, options: Options, wanted: Wanted) -> None:
    """Say what was found and where it is."""
    drawn = f", {tally.drawn} of them drawn (score {options.draw_threshold:g} or more)"
    print(f"{progress}: {tally.detections} detections{drawn if wanted.pictures else ''}")
    for what, is_there in (("pictures", wanted.pictures), ("labels", wanted.labels),
                           ("crops", wanted.crops)):  # fmt: skip
        if is_there:
            print(f"{what}: {wanted.folder if what == 'pictures' else wanted.folder / what}")
    for file in (options.json, options.csv, options.geojson):
        if file is not None:
            print(f"detections: {file}")


def check_flags(options: Options) -> None:
    """Raise UsageError for flags that cannot mean what they say."""
    shared.check_display_bands(options.display_bands)
    files = {"--annotations": options.annotations, "--json": options.json, "--csv": options.csv,
             "--geojson": options.geojson}  # fmt: skip
    used: dict[Path, str] = {Path(source).absolute(): "a source" for source in options.source}
    for flag, path in files.items():
        if path is not None and used.setdefault(path.absolute(), flag) != flag:
            raise UsageError(f"{flag}: {path}: is {used[path.absolute()]} too; give another file")


def read_places(file: Path, asked: Sequence[Source]) -> dict[str, geo_tags.Place]:
    """Where the images lie, by name. Raises UsageError unless it is in one coordinate system."""
    places: dict[str, geo_tags.Place] = {}
    for source in asked:
        try:
            place = geo_tags.read(source.path)
        except ValueError as error:
            raise UsageError(f"--geojson: {file}: {source.path}: {error}") from None
        first = next(iter(places.values()), place)
        if place.epsg != first.epsg:
            raise UsageError(
                f"--geojson: {file}: {source.path} is in EPSG:{place.epsg}, images before it in "
                f"EPSG:{first.epsg}; give those of one coordinate system"
            )
        places[source.name] = place
    return places


def read_annotations(file: Path, asked: Sequence[Source]) -> KnownImages:
    """What the file knows of the images. Raises UsageError if that is not all of them."""
    if videos := [source.path for source in asked if source.is_video]:
        raise UsageError(f"--annotations: {file}: is of images; {videos[0]} is a video")
    known = KnownImages(file)
    known.check(source.name for source in asked)
    return known


def with_ids(classes: Classes, chosen: tuple[str, ...], known: KnownImages) -> Classes:
    """The classes of the run; those that are detected with the annotation file's ids."""
    kept = classes.subset(chosen) if chosen else classes
    ids = dict(zip(classes.names, classes.category_ids, strict=True))
    ids |= dict(zip(kept.names, known.category_ids(kept), strict=True))
    return Classes(classes.names, tuple(ids.values()))


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """`frames.workers`; raises ProcessDied if one is killed."""
    try:
        with frames.workers(count) as pool:
            yield pool
    except BrokenProcessPool:
        raise ProcessDied(
            "a process that decodes and draws was killed; if memory ran out, lower --workers"
        ) from None


@contextmanager
def signals_received() -> Iterator[list[int]]:
    """Inside, the first SIGINT or SIGTERM only joins the list; a second ends the process."""
    received: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        print(f"\n{signal.Signals(number).name}: finishing the files", file=sys.stderr, flush=True)
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load(path: Path) -> detectors.Loaded:
    """A whole detector. Raises UsageError for a part of one."""
    found = detectors.load(path)
    if found.state.recipe.detector == "faster_rcnn":
        return found
    if found.state.recipe.detector == "rpn":
        raise UsageError(
            f"--checkpoint: {path}: proposes, but detects no classes; use fasterrcnn propose"
        )
    raise UsageError(
        f"--checkpoint: {path}: detects in stored proposals only; evaluate it with --proposals, or "
        "combine it with an RPN: fasterrcnn assemble"
    )
