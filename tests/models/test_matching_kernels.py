"""The Triton kernels of matching: in Triton's interpreter, compiled without a GPU, and on one."""

from __future__ import annotations

import sys

import pytest
import torch

from fasterrcnn.models import matching
from tests.models import kernel_code

INTERPRETED = """
import sys
import torch
from fasterrcnn.models import matching, matching_kernels

def boxes(images, count, grid):
    corner, side = torch.rand(images, count, 2) * 90, 1 + torch.rand(images, count, 2) * 60
    if grid:  # ties
        corner, side = (corner / grid).round() * grid, (side / grid).ceil() * grid
    return torch.cat([corner, corner + side], dim=-1)

cases = 0
torch.manual_seed(0)
assert matching_kernels.agrees(torch.device("cpu"))
all_gts, *counts = sys.argv[1:]
for count in map(int, counts):
    for gts in map(int, all_gts.split(",")):
        for grid in (0.0, 8.0, 16.0):
            gt = boxes(4, gts, grid)
            valid = torch.arange(gts) < torch.tensor([gts, 1, 0, 5])[:, None]
            gt[~valid] = 0
            gt[3, 0] = torch.tensor([500.0, 500.0, 600.0, 600.0])  # overlaps nothing
            gt[3, 1:3] = gt[3, 3:4]  # three of the same
            each = boxes(4, count, grid)
            each[1, ::3] = float("nan")
            wide = torch.zeros(5, 6, count + 2)  # strided, at an offset
            wide[1:, 1:5, 1 : count + 1] = each.transpose(1, 2)
            strided = wide[1:, 1:5, 1 : count + 1].transpose(1, 2)
            usable = torch.rand(4, count) < 0.8
            usable[2] = False
            for inputs in (
                (gt, valid, each.nan_to_num(3.0), None, 0.0),
                (gt, valid, strided.nan_to_num(3.0), usable, 0.3),
                (gt, valid, boxes(1, count, grid), usable, 0.0),
                (gt, valid, each, usable, None),
            ):
                found, plain = matching_kernels.best(*inputs), matching.best(*inputs)
                known = plain[0] == plain[0]  # torch says of an IoU that it is NaN, kernels that
                assert found[0][known].equal(plain[0][known])  # there is none: neither matches
                assert (found[0][~known] < 0).all()
                assert found[1][known].equal(plain[1][known])
                assert found[2].equal(plain[2])
                cases += len(gt)
print(cases, "images are equal")
"""


@pytest.mark.parametrize(
    ("sizes", "images"),
    [
        (("8", "1", "65"), 96),
        pytest.param(
            ("8,24", "63", "64", "511", "512", "513", "2049"), 576, marks=pytest.mark.slow
        ),
    ],
)
def test_in_the_interpreter_matches_are_torchs(shell, sizes: tuple[str, ...], images: int):
    pytest.importorskip("triton", reason="this torch has no Triton")
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, *sizes]
    done = shell(command, TRITON_INTERPRET="1")
    assert done.out == f"{images} images are equal\n", done.err


INPUTS = dict(
    gt="*fp32", valid="*i8", boxes="*fp32", usable="*i8", stride="i32", gts="i32", count="i32"
)
BEST = INPUTS | dict(
    iou="*fp32", index="*i64", highest="*fp32",
    GTS="constexpr", BLOCK="constexpr", RANKED="constexpr",
)  # fmt: skip
RANK = INPUTS | dict(
    highest="*fp32", rank="*i64", min_iou="fp32", GTS="constexpr", BLOCK="constexpr"
)


@pytest.mark.parametrize("capability", [80, 90])
def test_compiled_for_a_gpu_they_round_as_torch_and_nothing_spills(capability: int):
    blocks = {"GTS": 128, "BLOCK": 512}
    for name, signature, constants in (
        ("_best", BEST, blocks | {"RANKED": True}),
        ("_rank", RANK, blocks),
    ):
        code = kernel_code.compile_kernel(
            "matching_kernels", name, signature, constants, 4, capability, enable_fp_fusion=False
        )
        assert "div.rn.f32" in code.ptx
        assert "div.full.f32" not in code.ptx
        assert "fma.rn.f32" not in code.ptx
        assert code.spilled == 0


@pytest.mark.gpu
def test_on_the_gpu_matches_are_torchs():
    torch.manual_seed(0)
    corner = torch.rand(4, 100_000, 2) * 700
    candidates = torch.cat([corner, corner + 4 + torch.rand(4, 100_000, 2) * 300], dim=-1).cuda()
    gt_valid = torch.arange(40, device="cuda") < torch.tensor([40, 7, 0, 1], device="cuda")[:, None]
    inputs = candidates[:, :40] + 3, gt_valid, candidates, None, 0.0
    for found, plain in zip(matching.best_on_device(*inputs), matching.best(*inputs), strict=True):
        assert found.equal(plain)
