"""Run by test_runtime.py on two ranks: rank 0 works for longer than a collective is waited for.

torchrun ... -m tests.engine.slow_rank_0 slow|plain
"""

import os
import sys
import time
from datetime import timedelta

from torch import distributed

from fasterrcnn.cli.exit_codes import run
from fasterrcnn.engine import runtime
from fasterrcnn.errors import DataError


def main() -> None:
    """Print what rank 0's work gave, and that its failure is every rank's."""
    rt = runtime.start("cpu")  # however long it takes until both are there
    rt._control = distributed.new_group(backend="gloo", timeout=timedelta(seconds=3))
    slow = sys.argv[1] == "slow"
    for k in range(2):
        told = f"{rt.rank} {rt.on_main(lambda k=k: work(8 - 5 * k), slow=slow)}\n"
        os.write(1, told.encode())  # at once: print writes a line in parts
    rt.on_main(fail, slow=slow)


def work(seconds: float) -> str:
    time.sleep(seconds)
    return f"after {seconds} s"


def fail() -> None:
    time.sleep(4)
    raise DataError("a fault of the data")


if __name__ == "__main__":
    run(main)
