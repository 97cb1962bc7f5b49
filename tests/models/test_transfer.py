"""Copies to a device, for which the host does not wait, and back, for which it waits once."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fasterrcnn.models import transfer
from fasterrcnn.models.boxes import Detections
from fasterrcnn.models.transfer import to_device, to_host


def test_on_the_cpu_it_is_the_tensor_itself():
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
def test_values_arrive():
    tensor = torch.arange(1000)
    assert to_device(tensor, torch.device("cuda")).cpu().equal(tensor)


def detections(device: str = "cpu") -> Detections:
    """Of 3 images, with the largest label there can be in float32."""
    boxes = torch.rand(3, 5, 4, device=device) * 1e4
    labels = torch.arange(2**24 - 15, 2**24, device=device).view(3, 5)
    return Detections(boxes, torch.rand(3, 5, device=device), labels, labels % 3 > 0)


def test_detections_arrive_as_they_were():
    found = detections()
    arrived = transfer._unpacked(transfer._packed(found))
    assert [part.dtype for part in arrived] == [part.dtype for part in found]
    assert all(a.equal(b) for a, b in zip(arrived, found, strict=True))
    assert to_host(found) is found


class Copies(TorchDispatchMode):
    """Counts copies to the CPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_copy = func is torch.ops.aten._to_copy.default
        self.count += is_copy and out.device.type == "cpu" and args[0].device.type != "cpu"
        return out


def test_detections_of_a_batch_are_one_copy():
    with FakeTensorMode():
        found = detections("cuda")
        with Copies() as copies:
            arrived = to_host(found)
    assert copies.count == 1
    assert {part.device.type for part in arrived} == {"cpu"}


@pytest.mark.gpu
def test_detections_arrive_from_a_gpu():
    found = detections("cuda")
    assert all(a.equal(b.cpu()) for a, b in zip(to_host(found), found, strict=True))
