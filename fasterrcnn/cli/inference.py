"""Choices at inference, which several commands have: what they are and how they change a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fasterrcnn import recipes
from fasterrcnn.cli import shared
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import UsageError
from fasterrcnn.export.detector import ExportedDetector
from fasterrcnn.models import views as views_module
from fasterrcnn.models.build import Detector, FasterRCNN, FastRCNN
from fasterrcnn.models.views import Views
from fasterrcnn.recipes import Recipe
from fasterrcnn.settings import check_fields, setting
from fasterrcnn.tile_grid import SMALLEST

# What an exported file fixes.
_IN_FILE = ("nms_threshold", "soft_nms", "detections_per_image", "classes", "amp")
_OF_PREPARATION = ("min_size", "max_size")
_OF_BOX_HEAD = ("score_threshold", "nms_threshold", "soft_nms", "detections_per_image", "classes")
_OF_VIEWS = ("slice", "slice_overlap", "tta")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Choices at inference; what is not given is as the run was trained."""

    score_threshold: float | None = setting(
        None, "detections below this score are left out (default: the run's)", least=0, most=1
    )
    nms_threshold: float | None = setting(
        None, "IoU threshold of NMS (default: the run's)", least=0, most=1
    )
    soft_nms: str | None = setting(
        None,
        "soft-NMS in place of NMS, linear or gaussian: boxes that overlap a better one lose score "
        "instead of being left out; best with a low --score-threshold (default: the run's)",
        choices=("none", "linear", "gaussian"),
    )
    detections_per_image: int | None = setting(
        None, "maximum number of detections per image (default: the run's)", least=1
    )
    min_size: int | None = setting(
        None, "short side that images are resized to (px) (default: the run's)", least=1
    )
    max_size: int | None = setting(
        None, "limit of the long side of resized images (px) (default: the run's)", least=1
    )
    classes: tuple[str, ...] = setting((), "class names to detect; empty: all")
    slice: int | None = setting(
        None,
        "detect also in square tiles of this side (px of the image), for small objects; none: only "
        "in the whole image (default: as the run was trained: in its tiles alone, or the whole)",
        words={"none": 0, "0": 0},
        least=SMALLEST,
    )
    slice_overlap: float | None = setting(
        None,
        "part of a tile that it shares with the next (default: the run's, or 0.2)",
        least=0,
        most=0.9,
    )
    tta: tuple[str, ...] = setting(
        (), "detect also in the mirrored image, and at these scales: flip,0.75,1.25"
    )
    limit: int | None = setting(None, "only the first N images", least=1)
    amp: str | None = shared.amp()

    def views(self, recipe: Recipe) -> Views | None:
        """What of an image is looked at, besides its whole or in place of it; None: the whole
        alone. `recipe`: the run's. Raises UsageError."""
        views = (views_module.of_recipe(recipe) if self.slice is None else None) or Views(
            self.slice or None
        )
        if self.slice_overlap is not None:
            views = replace(views, overlap=self.slice_overlap)
        scales = tuple(dict.fromkeys(_scale(word) for word in self.tta if word != "flip"))
        views = replace(views, flip="flip" in self.tta, scales=scales)
        return views if views.slice or self.tta else None


def apply(
    model: Detector, recipe: Recipe, classes: Classes, options: Inference
) -> tuple[Recipe, list[str]]:
    """Change the model, on its device, as the options say; the changed recipe, and what was
    changed, a line each. `classes` are those of the run. Raises UsageError.
    """
    check_fields(options)
    changed = recipes.change(recipe, input=_input(options), roi_heads=_box_head(options))
    if changed.input.min_size > changed.input.max_size:
        raise UsageError(
            f"--min-size: {changed.input.min_size}: larger than --max-size {changed.input.max_size}"
        )
    lines = recipes.difference(recipe, changed)
    model.transform.config = model.transform.training_sizes = changed.input
    if isinstance(model, ExportedDetector):
        _apply_to_exported(model, recipe, options)
    elif isinstance(model, (FasterRCNN, FastRCNN)):
        heads = model.roi_heads
        heads.config, heads.score_thresh = changed.roi_heads, changed.roi_heads.score_thresh
        heads.wanted = None
        if options.classes:
            kept = classes.subset(options.classes).names
            wanted = [name in kept for name in classes.names]
            heads.wanted = torch.tensor(wanted, device=next(model.parameters()).device)
            lines.append(f"classes: {', '.join(kept)} of {len(classes.names)}")
    elif given := [name for name in _OF_BOX_HEAD if getattr(options, name) not in (None, ())]:
        flag = given[0].replace("_", "-")
        raise UsageError(f"--{flag}: this run proposes, but detects no classes; leave it out")
    _check_views(model, options, recipe.data.tile)
    views = options.views(recipe)
    if views is not None and changed.roi_heads.soft_nms != "none":
        raise UsageError("--soft-nms: does not go with tiles and --tta, which merge by NMS")
    if views != views_module.of_recipe(recipe):
        lines.append(
            "detected in whole images only, unlike in training"
            if views is None
            else f"{'also ' if views.whole else ''}detected in: {views.describe()}"
        )
    if options.limit is not None:
        lines.append(f"limit: the first {options.limit} images")
    return changed, lines


def _apply_to_exported(model: ExportedDetector, recipe: Recipe, options: Inference) -> None:
    """Raise UsageError for what is fixed inside the file."""
    for name in _IN_FILE + (_OF_PREPARATION if model.prepares else ()):
        if getattr(options, name) not in (None, ()):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: is fixed inside an exported file; use the run it is of")
    if options.score_threshold is None:
        model.score_thresh = model.lowest  # an earlier call may have raised it
        return
    if recipe.detector == "rpn":
        raise UsageError("--score-threshold: this file proposes, but detects no classes")
    if options.score_threshold < model.lowest:
        raise UsageError(
            f"--score-threshold: {options.score_threshold}: the file leaves out detections below "
            f"{model.lowest}; give no less, or use the run it is of"
        )
    model.score_thresh = options.score_threshold


def _check_views(model: Detector, options: Inference, tile: int) -> None:
    """Raise UsageError for tiles and the like that cannot be, or are not for this detector, which
    was trained on tiles of the side `tile` (0: whole images)."""
    given = [name for name in _OF_VIEWS if getattr(options, name) not in (None, ())]
    if given and not isinstance(model, FasterRCNN):
        flag, of_file = given[0].replace("_", "-"), isinstance(model, ExportedDetector)
        why = "an exported file has one network" if of_file else "this run is a part of one"
        raise UsageError(f"--{flag}: is for the whole detector of a run; {why}; leave it out")
    if options.slice_overlap is not None and not (options.slice or tile):
        raise UsageError("--slice-overlap: is of tiles; give --slice too")


def _scale(word: str) -> float:
    """A scale of --tta. Raises UsageError."""
    try:
        scale = float(word)
    except ValueError:
        scale = 0.0
    if not 0.1 <= scale <= 10 or scale == 1:
        raise UsageError(f"--tta: {word}: must be flip, or a scale from 0.1 to 10 other than 1")
    return scale


def _input(options: Inference) -> dict[str, int]:
    given = {"min_size": options.min_size, "max_size": options.max_size}
    return {name: value for name, value in given.items() if value is not None}


def _box_head(options: Inference) -> dict[str, float | str]:
    given = {
        "score_thresh": options.score_threshold,
        "nms_thresh": options.nms_threshold,
        "soft_nms": options.soft_nms,
        "detections_per_img": options.detections_per_image,
    }
    return {name: value for name, value in given.items() if value is not None}
