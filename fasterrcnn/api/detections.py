"""The detections in one image, and their form for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fasterrcnn.api.mistakes import value_errors
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import UsageError


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections in an image, by descending score; tensors are on the CPU."""

    boxes: Tensor  # float32 (D, 4): x1 y1 x2 y2 in px of the image as displayed
    scores: Tensor  # float32 (D,), 0..1
    labels: Tensor  # int64 (D,) in 1..K
    classes: Classes  # the K classes of the detector

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The name of each detection's class."""
        return [self.classes.names[label - 1] for label in self.labels.tolist()]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The detections in COCO's result format, with the data set's own category ids.

        ``bbox`` is x, y, width, height in px.
        """
        rows = zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": self.classes.category_ids[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), label, score in rows
        ]

    def to_supervision(self) -> Any:
        """The detections as ``supervision.Detections``.

        ``class_id`` counts from 0, as supervision does; ``data["class_name"]`` holds names. Raises
        ValueError where supervision is not installed.
        """
        with value_errors():
            supervision = _supervision()
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy() - 1,
            data={"class_name": np.array(self.names, dtype=str)},
        )


def _supervision() -> Any:
    """The module. Raises UsageError."""
    try:
        import supervision
    except ImportError:
        raise UsageError(
            "to_supervision: supervision is not installed; python -m pip install supervision"
        ) from None
    return supervision
