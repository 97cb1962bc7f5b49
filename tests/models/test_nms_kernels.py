"""The Triton kernels of NMS: in Triton's interpreter, compiled without a GPU, and on one."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from fasterrcnn.models.nms import nms_lists
from tests.models import kernel_code

INTERPRETED = """
import sys
import torch
from fasterrcnn.models import nms_kernels
from fasterrcnn.models.nms import one_list_at_a_time

def check(*case):
    global cases
    cases += len(case[0])
    assert nms_kernels.nms_lists(*case).equal(one_list_at_a_time(*case)), case[0].shape

cases = 0
for seed, count in enumerate(map(int, sys.argv[1:])):
    torch.manual_seed(seed)
    lists = 8 if count < 2000 else 1
    corner = torch.rand(lists, count, 2) * 60
    box = torch.cat([corner, corner + 5 + torch.rand(lists, count, 2) * 30], dim=-1)
    box[-1] = (box[-1] / 10).round() * 10  # ties
    if lists > 1:
        box[2] = torch.tensor([3.0, 3.0, 9.0, 9.0])  # all the same
        box[3] *= 1e4
        box[4, ::3] = float("nan")
        box[5, ::5, 2] = float("inf")
        box[6, :, 2] = box[6, :, 0]  # empty
    group, valid = torch.randint(0, 3, (lists, count)), torch.rand(lists, count) < 0.8
    check(box, group, valid, 0.5)
    check(box, group, valid & (torch.arange(count) < count // 3), 0.5)  # blocks without any
    if count < 2000:
        check(box, group * 0, valid, 0.7)
        check(box, torch.randint(0, 90, (lists, count)), valid, 0.3)
        wide = torch.zeros(lists + 1, 6, count + 2)  # strided, at an offset
        wide[1:, 1:5, 1 : count + 1] = box.transpose(1, 2)
        strided = wide[1:, 1:5, 1 : count + 1].transpose(1, 2)
        check(strided, group.t().contiguous().t(), valid, 0.5)
x = torch.arange(100) * 3.0  # every box suppresses the next only
chain = torch.stack([x, 0 * x, x + 10, 0 * x + 10], dim=1)[None]
case = chain, torch.zeros(1, 100, dtype=torch.long), torch.ones(1, 100, dtype=bool), 0.5
assert nms_kernels.nms_lists(*case)[0].equal(torch.arange(100) % 2 == 0)
print(cases, "lists are equal")
"""


@pytest.mark.parametrize(
    ("sizes", "lists"),
    [
        ((0, 1, 100), 120),
        pytest.param((63, 64, 127, 190, 191, 192, 193, 2049), 282, marks=pytest.mark.slow),
    ],
)
def test_in_the_interpreter_lists_are_as_torchvisions(shell, sizes: tuple[int, ...], lists: int):
    pytest.importorskip("triton", reason="this torch has no Triton")
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, *map(str, sizes)]
    done = shell(command, TRITON_INTERPRET="1")
    assert done.out == f"{lists} lists are equal\n", done.err


OVERLAPS = dict(
    boxes="*fp32",
    group="*i64",
    valid="*i8",
    words="*i64",
    count="i32",
    blocks="i32",
    threshold="fp32",
)
SWEEP = dict(words="*i64", valid="*i8", keep="*i8", count="i32", blocks="i32", WORDS="constexpr")


@pytest.mark.parametrize("capability", [80, 90])
def test_compiled_for_a_gpu_nothing_spills_and_division_is_exact(capability: int):
    compiled = kernel_code.compile_kernel("nms_kernels", "_overlaps", OVERLAPS, {}, 8, capability)
    assert "div.rn.f32" in compiled.ptx
    assert "div.full.f32" not in compiled.ptx
    assert compiled.spilled == 0


@pytest.mark.parametrize("boxes", [1000, 2048, 4096, 16384, 32768])
def test_one_warp_sweeps_up_to_2048_boxes_and_nothing_spills(boxes: int):
    words = max(boxes // 64, 16)
    warps = 1 if boxes <= 2048 else min(words // 32, 16)
    compiled = kernel_code.compile_kernel(
        "nms_kernels", "_sweep", SWEEP, {"WORDS": words}, warps, 90
    )
    assert compiled.spilled == 0
    if warps == 1:
        assert compiled.ptx.count("bar.sync") <= 1
    nms_kernels = pytest.importorskip("fasterrcnn.models.nms_kernels")
    assert nms_kernels.sweep_warps(words) == warps


def test_offsets_into_the_words_have_64_bits():
    """Of 20 images with 80,000 boxes there are 2e9 words: products of 32 bits would overflow."""
    for name, signature, constants, warps in (
        ("_overlaps", OVERLAPS, {}, 8),
        ("_sweep", SWEEP, {"WORDS": 32}, 1),
    ):
        code = kernel_code.compile_kernel("nms_kernels", name, signature, constants, warps, 90)
        products = re.findall(r"arith\.muli .*", code.ttir)
        narrow = [p for p in products if re.search("%(count|blocks)", p) and p.endswith("i32")]
        assert narrow == []


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 64, 1000, 2000])
def test_the_triton_kernels_on_the_gpu(count: int):
    torch.manual_seed(0)
    corner = torch.rand(10, count, 2) * 800
    box = torch.cat([corner, corner + 5 + torch.rand(10, count, 2) * 300], dim=-1)
    group, valid = torch.randint(0, 3, (10, count)), torch.rand(10, count) < 0.9
    on_gpu = nms_lists(box.cuda(), group.cuda(), valid.cuda(), 0.7)
    assert (on_gpu.cpu() != nms_lists(box, group, valid, 0.7)).sum() <= count // 500  # near ties
