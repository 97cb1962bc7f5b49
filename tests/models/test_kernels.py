"""Which Triton kernels are used, and what is said of those that are not."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn.models import kernels

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def _tried_anew():
    tried = kernels.tried
    tried.cache_clear()
    yield
    tried.cache_clear()


@pytest.mark.parametrize("name", kernels.MODULES.values())
def test_a_cpu_has_none(name: str):
    assert kernels.load(name, CPU) == "no GPU"


@pytest.mark.parametrize("name", kernels.MODULES.values())
def test_what_a_kernel_raises_is_said(name: str):
    """A device without values stands for whatever may go wrong on a GPU."""
    reason = kernels.load(name, META)
    assert isinstance(reason, str)
    assert len(reason) > 20 and ": " in reason and "\n" not in reason
    assert f"NMS ({kernels.load('nms_kernels', META)})" in kernels.describe(META)


def test_kernels_that_disagree_are_not_used(monkeypatch):
    pytest.importorskip("triton", reason="this torch has no Triton")
    from fasterrcnn.models import (
        bias_relu_kernels,
        matching_kernels,
        nms_kernels,
        roi_align_kernels,
    )

    monkeypatch.setattr(nms_kernels, "agrees", lambda device: False)
    for module in (bias_relu_kernels, matching_kernels, roi_align_kernels):
        monkeypatch.setattr(module, "agrees", lambda device: True)
    torch.use_deterministic_algorithms(False)
    assert kernels.load("matching_kernels", META) is matching_kernels
    assert kernels.describe(META) == (
        "by Triton kernels: matching, RoIAlign, bias and ReLU; by torch's operators: "
        "NMS (it gives other results than torch)"
    )


def test_deterministic_algorithms_do_without_a_kernel_that_adds_in_any_order(monkeypatch):
    pytest.importorskip("triton", reason="this torch has no Triton")
    from fasterrcnn.models import roi_align_kernels

    monkeypatch.setattr(roi_align_kernels, "agrees", lambda device: True)
    for deterministic in (False, True, False):
        torch.use_deterministic_algorithms(deterministic)
        used = kernels.load("roi_align_kernels", META) is roi_align_kernels
        assert used != deterministic
    torch.use_deterministic_algorithms(True)
    assert "RoIAlign (it adds in no fixed order" in kernels.describe(META)


def test_where_nothing_is_computed_no_kernel_is_tried(monkeypatch):
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(kernels, "tried", lambda name, device: pytest.fail("tried"))
    assert not kernels.usable("roi_align_kernels", META)


@pytest.mark.gpu
@pytest.mark.parametrize("name", kernels.MODULES.values())
def test_a_gpu_has_all(name: str):
    torch.use_deterministic_algorithms(False)
    assert not isinstance(kernels.load(name, torch.device("cuda", 0)), str)
