"""Write the synthetic data set of the demo, in COCO layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fasterrcnn.cli import flags, shared
from fasterrcnn.data import shapes
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """How many images, and where."""

    output_dir: Path = setting(shared.PROJECT / "datasets" / "shapes", "folder of the data set")
    train: int = setting(1000, "training images", least=1)
    val: int = setting(200, "validation images", least=1)


def main(argv: list[str] | None = None) -> None:
    """Run the command; the images are the same every time."""
    options = flags.parse(Options, argv, __doc__)
    shapes.write(options.output_dir, train=options.train, val=options.val)
    print(f"{options.output_dir}: {options.train} training and {options.val} validation images")
