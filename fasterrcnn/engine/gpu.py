"""What is asked of a GPU besides computing: whether it is there, its memory, its collectives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def why_none() -> str | None:
    """Why torch finds no GPU; None if it finds one."""
    if torch.cuda.device_count():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without GPUs; install one that is not"
    return "see whether nvidia-smi lists one, and what CUDA_VISIBLE_DEVICES says"


def memory_gb(device: torch.device) -> float:
    """Memory of a GPU in GiB; a CPU's is not looked at."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    return math.inf


def free_memory(device: torch.device) -> None:
    """Give back the memory that a GPU's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def waits_forbidden(device: torch.device) -> Iterator[None]:
    """Inside, an operator that waits for a GPU raises RuntimeError."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def collectives_work(device: torch.device) -> bool:
    """Does a sum over a world of one process work? Called where there is no process group."""
    is_gpu = device.type == "cuda"
    distributed.init_process_group(
        "nccl" if is_gpu else "gloo",
        store=distributed.HashStore(),  # type: ignore[attr-defined] # not in its stubs
        rank=0,
        world_size=1,
        device_id=device if is_gpu else None,
    )
    try:
        values = torch.arange(8.0, device=device)
        distributed.all_reduce(values)
        return values.tolist() == [*map(float, range(8))]
    finally:
        distributed.destroy_process_group()
