"""Write the synthetic data set: ``python -m fasterrcnn.make_shapes --output-dir DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fasterrcnn import cli
from fasterrcnn.data import shapes
from fasterrcnn.recipes import setting


@dataclass(frozen=True)
class Options:
    """How much of it, and where."""

    output_dir: Path = setting(cli.PROJECT / "datasets" / "shapes", "folder of the data set")
    train: int = setting(1000, "training images")
    val: int = setting(200, "validation images")


def main(argv: list[str] | None = None) -> None:
    """The command; the same images every time."""
    options = cli.parse_options(Options, argv, "Write the synthetic data set in COCO layout.")
    shapes.write(options.output_dir, train=options.train, val=options.val)
    print(f"{options.output_dir}: {options.train} training and {options.val} validation images")


if __name__ == "__main__":
    cli.run(main)
