"""A trained detector to call from Python: what `predict` detects, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, overload

from fasterrcnn import recipes
from fasterrcnn.api import inputs
from fasterrcnn.api.detections import Detections
from fasterrcnn.api.fields import as_flags
from fasterrcnn.api.inputs import ImageLike
from fasterrcnn.api.mistakes import value_errors
from fasterrcnn.cli import flags, inference, shared
from fasterrcnn.cli.inference import Inference
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint, detectors, prediction, runtime
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import Detector


@dataclass(frozen=True, kw_only=True)
class Options(Inference):
    """What `load` can be told besides where the detector is."""

    device: str = shared.device()


class Predictor:
    """Detects in images. Made by `load`; not to be shared by threads."""

    def __init__(
        self, model: Detector, state: checkpoint.State, options: Options, runtime: Runtime
    ) -> None:
        self._model, self._state, self._options, self._runtime = model, state, options, runtime
        self.recipe, self.changed = self._apply(options)

    @property
    def classes(self) -> Classes:
        """Names and category ids of the classes, in the order of labels from 1."""
        return self._state.classes

    @overload
    def __call__(  # type: ignore[overload-overlap] # a str is an Iterable too
        self,
        images: ImageLike,
        score_threshold: float | None = None,
        *,
        images_per_batch: int = 2,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        images: Iterable[ImageLike],
        score_threshold: float | None = None,
        *,
        images_per_batch: int = 2,
    ) -> list[Detections]: ...

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        score_threshold: float | None = None,
        *,
        images_per_batch: int = 2,
    ) -> Detections | list[Detections]:
        """Detections in an image, or a list of them in several.

        An image is a path, a PIL image, an array uint8 ``(H, W, 3)`` (uint16 or float32 to a run on
        such values) or a tensor ``(3, H, W)``, uint8 or float in 0..1, all in RGB. Detections of a
        score above `score_threshold` are given (None: the run's threshold). Images of equal
        padded size share a batch. Raises ValueError.
        """
        if isinstance(images, inputs.KINDS):
            (found,) = self.stream([images], score_threshold, images_per_batch=images_per_batch)
            return found
        return list(self.stream(images, score_threshold, images_per_batch=images_per_batch))

    def stream(
        self,
        images: Iterable[ImageLike],
        score_threshold: float | None = None,
        *,
        images_per_batch: int = 2,
    ) -> Iterator[Detections]:
        """The same for images without end: few are in memory at a time. Raises ValueError."""
        with value_errors():
            if not isinstance(images, Iterable):
                raise UsageError(
                    f"images: {type(images).__name__}: give an image or a list of them"
                )
            if images_per_batch < 1:
                raise UsageError(f"images_per_batch: {images_per_batch}: must be 1 or more")
            options = self._options
            if score_threshold is not None:
                if not isinstance(score_threshold, Real):
                    raise UsageError(f"score_threshold: {score_threshold!r}: give a number, 0 to 1")
                # float: bounds are not checked of numpy's numbers
                options = dataclasses.replace(options, score_threshold=float(score_threshold))
            recipe, _ = self._apply(options)
        return self._stream(images, options, recipe, images_per_batch)

    def _stream(
        self,
        images: Iterable[ImageLike],
        options: Options,
        recipe: recipes.Recipe,
        images_per_batch: int,
    ) -> Iterator[Detections]:
        pixel_format = recipe.input.pixel_format
        views = options.views(recipe)
        side = views.side if views else 0
        frames = (
            inputs.read(image, number, pixel_format, side)
            for number, image in enumerate(images, start=1)
        )
        detected = prediction.detect(
            self._model, frames, recipe, self._runtime, images_per_batch, views
        )
        while True:
            with value_errors(), self._runtime.configured():
                self._apply(options)  # another stream may have changed the model since
                found = next(detected, None)
            if found is None:
                return
            assert found[1] is not None  # there is no frame without pixels
            yield Detections(**found[1], classes=self.classes)

    def _apply(self, options: Options) -> tuple[recipes.Recipe, list[str]]:
        """The model made as the options say; its recipe and what was changed, a line each."""
        recipe, changed = inference.apply(self._model, self._state.recipe, self.classes, options)
        amp = self._runtime.resolve_amp(options.amp or recipe.amp)
        return recipes.change(recipe, amp=amp), changed


def load(
    source: str | Path, *, device: str = "auto", amp: str | None = None, **choices: Any
) -> Predictor:
    """A detector to call.

    source: a run folder (its newest checkpoint), ``RUN/best``, a checkpoint, a folder written by
    ``export --format hub`` or, as ``hf:ORG/NAME``, on the Hugging Face Hub; an exported .onnx or
    .pt2 file; a file of MMDetection, Detectron2 or torchvision, or the name of a published one
    (``mmdet:...``).
    device: auto, cpu or cuda. amp: auto, fp16, bf16 or off (None: the run's). choices: fields of
    `cli.inference.Inference`, which are the flags of ``predict``: ``nms_threshold=0.6``,
    ``classes=("cat",)``, ``slice=640``. Raises ValueError.
    """
    with value_errors():
        if "limit" in choices:
            raise UsageError("limit: is for predict; give fewer images")
        given = {"device": device, "amp": amp, **choices}
        options = flags.parse(Options, as_flags(given, Options), None)
        rt = runtime.alone(options.device)
        model, state, *_ = detectors.load(source)
        if state.recipe.detector != "faster_rcnn":
            raise UsageError(f"{source}: not a whole detector, but {state.recipe.detector}")
        return Predictor(rt.place(model), state, options, rt)
