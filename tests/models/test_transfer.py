"""Copies to a device that the host does not wait for."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn.models.transfer import to_device


def test_on_the_cpu_it_is_the_tensor_itself():
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
def test_values_arrive():
    tensor = torch.arange(1000)
    assert to_device(tensor, torch.device("cuda")).cpu().equal(tensor)
