"""NMS of many lists against torchvision's, one list and group at a time."""

from __future__ import annotations

import sys

import pytest
import torch
from torchvision.ops import nms

from fasterrcnn.models.nms import kernels, nms_lists


def expected(box, group, valid, threshold):
    keep = torch.zeros_like(valid)
    for m in range(len(box)):
        for g in group[m].unique():
            rows = torch.nonzero(valid[m] & (group[m] == g)).squeeze(1)
            scores = torch.linspace(1, 0, len(rows))
            keep[m, rows[nms(box[m, rows], scores, threshold)]] = True
    return keep


def chain(count: int) -> torch.Tensor:
    """Every box suppresses the next only: every second one survives."""
    x = torch.arange(count) * 3.0
    return torch.stack([x, torch.zeros(count), x + 10, torch.full((count,), 10.0)], dim=1)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_random_lists(threshold: float):
    torch.manual_seed(0)
    corner = torch.rand(6, 300, 2) * 60
    box = torch.cat([corner, corner + 5 + torch.rand(6, 300, 2) * 30], dim=-1)
    box[1] = (box[1] / 10).round() * 10  # ties
    box[2] = box[2, :1]  # all the same
    group = torch.randint(0, 4, (6, 300))
    valid = torch.rand(6, 300) < 0.8
    valid[3] = False
    keep = nms_lists(box, group, valid, threshold)
    assert keep.equal(expected(box, group, valid, threshold))
    assert keep[2].sum() == 4
    assert not keep[3].any()


def test_a_long_chain():
    keep = nms_lists(
        chain(200)[None], torch.zeros(1, 200, dtype=torch.long), torch.ones(1, 200, dtype=bool), 0.5
    )
    assert keep[0].equal(torch.arange(200) % 2 == 0)


def test_an_empty_list():
    empty = torch.zeros(2, 0, 4)
    keep = nms_lists(empty, torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=bool), 0.5)
    assert keep.shape == (2, 0)


def test_the_operator_is_registered_correctly():
    box, group = chain(20)[None], torch.zeros(1, 20, dtype=torch.long)
    torch.library.opcheck(nms_lists, (box, group, torch.ones(1, 20, dtype=bool), 0.5))


KERNELS = """
import torch
from fasterrcnn.models import nms_kernels
from fasterrcnn.models.nms import one_list_at_a_time

torch.manual_seed(0)
for count in (0, 1, 64, 65, 200):
    corner = torch.rand(4, count, 2) * 60
    box = torch.cat([corner, corner + 5 + torch.rand(4, count, 2) * 30], dim=-1)
    box[1] = (box[1] / 10).round() * 10
    box[2] = torch.tensor([3.0, 3.0, 9.0, 9.0])
    group, valid = torch.randint(0, 3, (4, count)), torch.rand(4, count) < 0.8
    for case in ((box, group, valid, 0.5), (box, group * 0, valid, 0.7)):
        assert nms_kernels.nms_lists(*case).equal(one_list_at_a_time(*case)), count
x = torch.arange(150) * 3.0
chain = torch.stack([x, 0 * x, x + 10, 0 * x + 10], dim=1)[None]
case = chain, torch.zeros(1, 150, dtype=torch.long), torch.ones(1, 150, dtype=bool), 0.5
assert nms_kernels.nms_lists(*case)[0].equal(torch.arange(150) % 2 == 0)
print("equal")
"""


def test_the_triton_kernels_in_tritons_interpreter(shell):
    """Their arithmetic without a GPU."""
    pytest.importorskip("triton", reason="this torch has no Triton")
    done = shell([sys.executable, "-W", "ignore", "-c", KERNELS], TRITON_INTERPRET="1")
    assert done.out == "equal\n", done.err


def test_a_cpu_has_no_kernels():
    assert kernels(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 64, 1000, 2000])
def test_the_triton_kernels_on_the_gpu(count: int):
    torch.manual_seed(0)
    assert kernels(torch.device("cuda", 0)) is not None
    corner = torch.rand(10, count, 2) * 800
    box = torch.cat([corner, corner + 5 + torch.rand(10, count, 2) * 300], dim=-1)
    group, valid = torch.randint(0, 3, (10, count)), torch.rand(10, count) < 0.9
    on_gpu = nms_lists(box.cuda(), group.cuda(), valid.cuda(), 0.7)
    assert (on_gpu.cpu() != nms_lists(box, group, valid, 0.7)).sum() <= count // 500  # near ties
