"""Compiles a Triton kernel for a GPU that need not be there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from importlib import import_module
from typing import Any, NamedTuple

import pytest


class Code(NamedTuple):
    """What the compiler made."""

    ttir: str  # with the widths of integers
    ptx: str
    spilled: int  # bytes of registers that do not fit


def compile_kernel(
    module: str,
    name: str,
    signature: dict[str, str],
    constants: dict[str, int],
    warps: int,
    capability: int,
    *,
    divisible: Collection[str] = (),
    **options: Any,
) -> Code:
    """The code of `fasterrcnn.models.MODULE.NAME` for a compute capability (80, 90); skips the test
    where there is no Triton. `divisible`: the arguments that are multiples of 16."""
    triton = pytest.importorskip("triton", reason="this torch has no Triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(f"fasterrcnn.models.{module}"), name)
    places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    facts = {(kernel.arg_names.index(key),): [["tt.divisibility", 16]] for key in divisible}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=facts)
    made: Any = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, **options}
    )
    return Code(made.asm["ttir"], made.asm["ptx"], _spilled(made.asm["ptx"], capability))


def _spilled(ptx: str, capability: int) -> int:
    from triton.backends.nvidia.compiler import get_ptxas

    target = f"sm_{capability}" + ("a" if capability >= 90 else "")
    done = subprocess.run(
        [get_ptxas(capability).path, "-v", f"--gpu-name={target}", "-", "-o", "/dev/null"],
        input=ptx, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))
