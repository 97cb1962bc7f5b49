"""Compare stored proposals of the same images, such as those of an RPN and of selective search.

The comparison of the Faster R-CNN paper: recall and AR against the number of proposals, seconds per
image, and with --fast-rcnn the AP of a detector on each.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from fasterrcnn.cli import flags, shared
from fasterrcnn.data import formats, image_check, images, proposals
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import voc
from fasterrcnn.metrics.proposals import recall
from fasterrcnn.models.build import FastRCNN
from fasterrcnn.settings import setting

COUNTS = (10, 30, 100, 300, 1000, 2000)
_IOUS = {"recall at IoU 0.5": 0, "recall at IoU 0.7": 4}  # which of the ten


@dataclass(frozen=True)
class Options:
    """The proposals to compare, and the data they are of."""

    files: tuple[Path, ...] = setting(help="files of stored proposals", positional=True)
    data_path: Path = shared.data_path(MISSING, "")
    dataset: str = shared.dataset()
    split: str = setting("val", "split that the proposals are of")
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    fast_rcnn: Path | None = setting(None, "run of a Fast R-CNN whose AP on each file is measured")
    top_n: int | None = setting(
        None, "proposals per image it uses (default: its recipe's rpn.post-nms-top-n-test)", least=1
    )
    workers: int | None = shared.workers()
    device: str = shared.device()
    plot: Path | None = setting(
        None, "plot recall against the number of proposals to this .png, .pdf or .svg"
    )
    json: Path | None = setting(None, "write all numbers (0 to 1) to this file")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    if options.plot is not None and options.plot.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--plot: {options.plot}: must end in .png, .pdf or .svg")
    trained = None if options.fast_rcnn is None else load(options.fast_rcnn, options.top_n)
    images.limit_pixels(options.max_image_pixels)
    problems = Problems(skip=options.bad_data == "skip")
    data = formats.read(options.data_path, options.split, options.dataset, (), problems)
    if trained is not None:
        data = image_check.check(data, problems, options.check_images)
    for line in problems.summary():
        print(line)
    results = {str(path): compare(proposals.read(path), data) for path in options.files}
    if trained is not None:
        add_detections(*trained, options, results)
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot is not None:
        plot(results, options.plot)
        print(f"plot: {options.plot}")


def load(path: Path, top_n: int | None) -> tuple[FastRCNN, checkpoint.State]:
    """The detector of --fast-rcnn. Raises UsageError for one that takes no proposals."""
    model, state, found = checkpoint.load_detector(path)
    if not isinstance(model, FastRCNN):
        raise UsageError(f"--fast-rcnn: {found}: a run of --detector {state.recipe.detector}")
    model.use_top_n(top_n)
    return model, state


def compare(stored: proposals.StoredProposals, data: Annotations) -> dict[str, Any]:
    """Recall and AR by number of proposals, and the time they took."""
    values = recall(data, stored.rows(data), COUNTS)
    return {
        "made_by": stored.about.get("made_by"),
        "seconds_per_image": stored.about.get("seconds_per_image"),
        "counts": list(COUNTS),
        **{name: values[:, i].tolist() for name, i in _IOUS.items()},
        "AR": values.mean(axis=1).tolist(),
    }


def add_detections(
    model: FastRCNN, state: checkpoint.State, options: Options, results: dict[str, dict[str, Any]]
) -> None:
    """What the detector gets from each of the files: AP and AP50, on PASCAL VOC its own mAP too."""
    rt = runtime.start(options.device)
    source = evaluation.Source(options.data_path, options.dataset, options.split)
    problems = Problems(skip=options.bad_data == "skip")  # those that main has printed
    data = evaluation.read_split(
        source,
        state.classes,
        problems,
        options.check_images,
        config=state.recipe.input,
    )
    model = rt.place(model)
    for path, found in results.items():
        measured, _ = evaluation.evaluate(
            model,
            data,
            state.recipe,
            rt,
            images_per_gpu=2,
            workers=rt.loader_workers(options.workers),
            stored=proposals.read(Path(path)),
        )
        found["Fast R-CNN"] = {n: measured[n] for n in ("AP", "AP50", *voc.NAMES) if n in measured}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Percent by number of proposals; a block per file."""
    lines = []
    for path, found in results.items():
        seconds = found["seconds_per_image"]
        time = f", {seconds:.3f} s an image" if seconds else ""
        lines.append(f"{path}: {found['made_by']}{time}")
        lines.append(f"  {'proposals':18}" + "".join(f"{count:8}" for count in found["counts"]))
        for name in (*_IOUS, "AR"):
            lines.append(f"  {name:18}" + "".join(f"{100 * value:8.1f}" for value in found[name]))
        if "Fast R-CNN" in found:
            values = (f"{n} {100 * v:.1f}" for n, v in found["Fast R-CNN"].items())
            lines.append(f"  Fast R-CNN: {'  '.join(values)}")
    return "\n".join(lines)


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Three curves per file against the number of proposals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharey=True)
    for axis, name in zip(axes, (*_IOUS, "AR"), strict=True):
        for found in results.values():
            axis.semilogx(found["counts"], found[name], marker="o", label=found["made_by"])
        axis.set(title=name, xlabel="proposals per image", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
