"""The model card of a detector: README.md of its folder on the Hugging Face Hub.

Front matter as https://huggingface.co/docs/hub/model-cards describes it. It states what was
measured and what the user said, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from fasterrcnn.recipes import Recipe

_TEXT = """\
# {name}

Faster R-CNN with backbone {backbone}, of the package fasterrcnn.
It detects {count}: {classes}.

    from fasterrcnn import load

    detector = load("hf:ORG/NAME")  # this repository, or a folder with its files
    found = detector("image.jpg", score_threshold=0.5)
    print(found.boxes, found.scores, found.names)

Boxes are x1 y1 x2 y2 in pixels of the image. Labels count from 1 in the order of `id2label`.

## Training

{training}

`config.json` holds the whole recipe. `preprocessor_config.json` says for other programs how images
are resized and normalized.

## Results

{results}
"""


def render(
    name: str,
    recipe: Recipe,
    classes: Sequence[str],
    step: int,
    results: Mapping[str, Any] | None,
    said: Mapping[str, Any],
) -> str:
    """The card as markdown.

    results: a line of evaluations.jsonl, or None if the checkpoint was not evaluated. said: more of
    the front matter, which only the user knows: license, datasets, base_model.
    """
    matter = {"library_name": "fasterrcnn", "pipeline_tag": "object-detection", **said}
    matter |= {"tags": ["object-detection", "faster-rcnn"]}
    measured = _measured(results)
    if results is not None and measured:
        matter["model-index"] = [{"name": name, "results": [_index(results, measured)]}]
    text = _TEXT.format(
        name=name,
        backbone=recipe.backbone.name,
        count="1 class" if len(classes) == 1 else f"{len(classes)} classes",
        classes=", ".join(classes),
        training=_training(recipe, step),
        results=_table(results, measured) if results and measured else "Not measured.",
    )
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text}"


def _measured(results: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics of an evaluation that have a value, 0..1, by name."""
    found = (results or {}).items()
    return {k: v for k, v in found if k.startswith(("AP", "AR_", "mAP_")) and v is not None}


def _data(results: Mapping[str, Any]) -> str:
    """The name of the data set's folder; where it lies is nobody's business."""
    return PurePath(results["data_path"]).name


def _index(results: Mapping[str, Any], measured: dict[str, float]) -> dict[str, Any]:
    """A result of the model-index."""
    data = _data(results)
    return {
        "task": {"type": "object-detection"},
        "dataset": {"type": data, "name": data, "split": results["split"]},
        "metrics": [
            {"type": metric, "name": metric, "value": value} for metric, value in measured.items()
        ],
    }


def _training(recipe: Recipe, step: int) -> str:
    if not step:
        return f"Imported from `{recipe.weights}`; not trained with fasterrcnn."
    return (
        f"{step} steps of {recipe.schedule.images_per_step} images by the recipe `{recipe.name}`, "
        f"from the initial weights `{recipe.weights}`."
    )


def _table(results: Mapping[str, Any], measured: dict[str, float]) -> str:
    rows = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in measured.items())
    return (
        f"Measured by `fasterrcnn evaluate` on split `{results['split']}` of `{_data(results)}`, "
        f"{results['images']} images (0 to 1):\n\n| metric | value |\n| --- | --- |\n{rows}"
    )
