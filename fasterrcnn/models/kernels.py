"""Triton kernels are used on a device where they run and agree with torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch

MODULES = {
    "NMS": "nms_kernels",
    "matching": "matching_kernels",
    "RoIAlign": "roi_align_kernels",
    "bias and ReLU": "bias_relu_kernels",
}
_UNORDERED = ("roi_align_kernels",)  # whose sums are in no fixed order


def load(name: str, device: torch.device) -> ModuleType | str:
    """The module of kernels `name` if it is to be used on `device`, else why not.

    It is not if its ``agrees(device)`` is false, nor where torch is to be deterministic and it is
    not. The first call compiles the kernels and synchronizes.
    """
    if name in _UNORDERED and device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return "it adds in no fixed order, and algorithms are to be deterministic"
    return tried(name, device)


@torch.compiler.assume_constant_result
def usable(name: str, device: torch.device) -> bool:
    """Whether `load` finds the module; in compiled programs, when they are compiled. Not asked of
    a device on which nothing is computed."""
    return device.type != "meta" and not isinstance(load(name, device), str)


@cache
def tried(name: str, device: torch.device) -> ModuleType | str:
    """The module of kernels `name` if its ``agrees(device)`` is true, else why it is not used."""
    if device.type == "cpu":
        return "no GPU"
    try:
        module = import_module(f"fasterrcnn.models.{name}")
        if module.agrees(device):
            return module
    except Exception as error:  # no Triton, no C compiler, unknown GPU: each raises other errors
        reason = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {reason}"
    return "it gives other results than torch"


def describe(device: torch.device) -> str:
    """What is computed by Triton kernels on `device`, and what is not and why, for the log."""
    found = {subject: load(name, device) for subject, name in MODULES.items()}
    used = [subject for subject, module in found.items() if not isinstance(module, str)]
    refused = [f"{subject} ({why})" for subject, why in found.items() if isinstance(why, str)]
    lines = [f"by Triton kernels: {', '.join(used)}"] if used else []
    lines += [f"by torch's operators: {', '.join(refused)}"] if refused else []
    return "; ".join(lines)
