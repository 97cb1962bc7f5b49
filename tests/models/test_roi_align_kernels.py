"""The Triton kernel of RoIAlign: in Triton's interpreter, compiled without a GPU, and on one."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from fasterrcnn.models import kernels, roi_align
from fasterrcnn.recipes import RoIHeads
from tests.models import kernel_code

INTERPRETED = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import ops
from fasterrcnn.models import kernels, roi_align, roi_align_kernels
from fasterrcnn.recipes import RoIHeads

STRIDES, SIDES = (4, 8, 16, 32), (48, 64)  # px
kernels.tried = lambda name, device: roi_align_kernels  # on a CPU too
kernels.load = kernels.tried
torch.manual_seed(0)

def levels(dtype, kind, channels=5):
    shapes = [(3, channels, SIDES[0] // s + 2, SIDES[1] // s + 1) for s in STRIDES]
    found = [torch.randn(shape).to(dtype)[1:, :, 2:, 1:] for shape in shapes]  # at an offset
    last = {"memory_format": torch.channels_last}
    return [f if kind == "strided" else f.contiguous(**last)[kind == "offset":] for f in found]

def some_rois(images, count):
    # Of all levels; without area, outside of the image, larger than it, inside out, at its corner.
    corner = torch.rand(images, count, 2) * 64 - 8
    rois = torch.cat([corner, corner + torch.exp(torch.rand(images, count, 2) * 4.5)], dim=-1)
    special = torch.tensor([
        [-200, -300, 300, 200], [-100, -100, 150, 160], [-20, -20, 90, 100], [0, 0, 0, 0],
        [-90, -90, -60, -70], [30, 30, 20, 24], [64, 48, 64, 48],
    ])[: max(count - 1, 0)]
    rois[:, 1 : 1 + len(special)] = special
    return torch.cat([rois, rois], dim=-1)[..., 2:6].roll(2, dims=-1)  # strided

def stock(features, rois, level, config):
    # torchvision's operator, one level at a time
    pooled = []
    for feature, stride in zip(features, STRIDES):
        sampling = config.pool_size, 1 / stride, config.sampling_ratio, config.aligned
        pooled.append(ops.roi_align(feature, [*rois], *sampling))
    return torch.stack(pooled)[level.flatten(), torch.arange(level.numel())]

def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape and found.isfinite().all()
    assert (found - expected).norm() <= tolerance * expected.norm() + 1e-30

def check(count, samples, aligned, dtype, kind):
    mine = [f.requires_grad_() for f in levels(dtype, kind)]
    theirs = [f.detach().float().requires_grad_() for f in mine]
    rois = some_rois(len(mine[0]), count)
    config = RoIHeads(pool_size=2, sampling_ratio=samples, aligned=aligned)
    found = roi_align.pyramid_roi_align(mine, rois, STRIDES, config)
    assert found.dtype == torch.float32
    gradient = torch.randn_like(found)
    gradients = torch.autograd.grad(found, mine, gradient)
    level = roi_align.level_of(rois, STRIDES)
    assert count < 4 or len(level.unique()) == 4
    for reference in (stock(theirs, rois, level, config),
                      roi_align.by_torch(theirs, rois, level, STRIDES, config)):
        close(found, reference)
        for a, b in zip(gradients, torch.autograd.grad(reference, theirs, gradient)):
            assert a.dtype == dtype
            close(a.float(), b.to(dtype).float(), 1e-5 if dtype == torch.float32 else 1e-4)
    return rois.shape[:2].numel()

def check_what_is_not_finite():
    config, feature = RoIHeads(pool_size=2), torch.randn(1, 4, 8, 8)
    rois = torch.tensor([[2.0, 2, 30, 30], [2, 2, 30, 30], [2, 2, 30, 30], [2, 2, 9, 9]])[None]
    rois[0, 1, 2], rois[0, 2, 1] = float("nan"), float("-inf")
    feature[0, :, 6, 6] = float("nan")
    for samples in (2, 0):
        config = RoIHeads(pool_size=2, sampling_ratio=samples)
        found = roi_align.pyramid_roi_align([feature], rois, (4,), config)
        expected = ops.roi_align(feature, [rois[0, ::3]], 2, 0.25, samples)
        assert expected[0].isnan().any() and not expected[1].isnan().any()
        torch.testing.assert_close(found[::3], expected, equal_nan=True)
        assert (found[1:3] == 0).all()

def check_precision():
    features, rois = levels(torch.bfloat16, "offset", channels=300), some_rois(1, 3)
    config, level = RoIHeads(pool_size=2), roi_align.level_of(rois, STRIDES)
    exact = roi_align.by_torch(features, rois, level, STRIDES, config)
    with torch.autocast("cpu", torch.bfloat16):
        found = roi_align.pyramid_roi_align(features, rois, STRIDES, config)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16())

def check_program():
    # What the compiler is told of the operators, and a compiled program
    features, rois = [f.requires_grad_() for f in levels(torch.float32, "offset")], some_rois(1, 2)
    level = roi_align.level_of(rois, STRIDES)
    place, sizes = (rois, level, [*STRIDES]), [12, 16, 6, 8, 3, 4, 1, 2]
    for operator, given in (
        (roi_align.by_kernel, (features, *place, 2, 2, False, torch.bfloat16)),
        (roi_align.gradients_by_kernel, (torch.randn(2, 5, 2, 2), sizes, *place, 2, False)),
    ):
        torch.library.opcheck(operator, given)
        with FakeTensorMode(allow_non_fake_inputs=True):
            told = operator(*given)
        for a, b in zip(*([*x] if isinstance(x, list) else [x] for x in (told, operator(*given)))):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
    plain = roi_align.pyramid_roi_align
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    outs = [f(features, rois, STRIDES, RoIHeads(pool_size=2)) for f in (compiled, plain)]
    close(*outs)
    for a, b in zip(*(torch.autograd.grad(out, features, torch.ones_like(out)) for out in outs)):
        close(a, b)

half, bf16, float32 = torch.float16, torch.bfloat16, torch.float32
if sys.argv[1] == "few":
    cases = check(4, 2, False, half, "offset") + check(0, 2, False, float32, "whole")
    cases += check(1, 0, True, float32, "strided")
else:
    assert roi_align_kernels.agrees(torch.device("cpu"))
    check_what_is_not_finite()
    check_precision()
    check_program()
    cases = check(63, 2, False, half, "offset") + check(64, 0, True, float32, "whole")
    cases += check(65, 2, True, bf16, "strided")
    for samples in (0, 1, 2, 3):
        for aligned in (False, True):
            cases += check(8, samples, aligned, float32, "strided")
            cases += check(8, samples, aligned, half, "offset")
print(cases, "rois are equal")
"""


@pytest.mark.parametrize(
    ("which", "count"), [("few", 6), pytest.param("many", 513, marks=pytest.mark.slow)]
)
def test_in_the_interpreter_it_pools_as_torchvision(shell, which: str, count: int):
    """Values and gradients, against torchvision's operator per level and against torch's way."""
    pytest.importorskip("triton", reason="this torch has no Triton")
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, which]
    done = shell(command, TRITON_INTERPRET="1")
    assert done.out == f"{count} rois are equal\n", done.err


SIGNATURE = (
    {f"{name}{i}": "i32" for name in "hw" for i in range(4)}
    | {f"s{i}": "fp32" for i in range(4)}
    | dict(rois="*fp32", levels="*i64", rois_per_image="i32", channels="i32")
    | dict.fromkeys(("LEVELS", "BINS", "SAMPLES", "ALIGNED", "BACKWARD", "BLOCK"), "constexpr")
)


@pytest.mark.parametrize(
    ("capability", "samples"),
    [
        (90, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((80, 2), (90, 0), (80, 0))),
    ],
)
def test_compiled_for_a_gpu_nothing_spills(capability: int, samples: int):
    """One warp, without barriers, reads and writes 16 bytes per thread; offsets have 64 bits."""
    for backward, features in ((False, "*fp16"), (True, "*fp32")):
        pointers = {f"f{i}": features for i in range(4)} | {"pooled": "*fp16"}
        code = kernel_code.compile_kernel(
            "roi_align_kernels",
            "_align",
            SIGNATURE | pointers,
            dict(LEVELS=4, BINS=7, SAMPLES=samples, ALIGNED=False, BACKWARD=backward, BLOCK=256),
            1,
            capability,
            divisible=[*pointers, "rois", "levels", "channels"],
            enable_fp_fusion=False,
        )
        assert code.spilled == 0
        assert "bar.sync" not in code.ptx
        assert "ld.global.v4.b32" in code.ptx
        if backward:
            vector = ".v4" if capability >= 90 else ""
            assert f"global.gpu.relaxed.add{vector}.f32" in code.ptx
        else:
            assert "st.global.v4.b32" in code.ptx
        narrow = [p for p in re.findall(r"arith\.muli .*", code.ttir) if " i32" in p]
        assert [p for p in narrow if "%channel" not in p] == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("samples", "aligned"), [(2, False), (0, True)])
def test_on_the_gpu_it_pools_as_torch(samples: int, aligned: bool, dtype: torch.dtype):
    torch.manual_seed(0)
    strides, config = (4, 8, 16, 32), RoIHeads(sampling_ratio=samples, aligned=aligned)
    features = [torch.randn(2, 256, 320 // s, 448 // s).to(dtype).cuda() for s in strides]
    features = [f.to(memory_format=torch.channels_last).requires_grad_() for f in features]
    exact = [f.detach().float().requires_grad_() for f in features]
    corner = torch.rand(2, 300, 2) * 300 - 20
    rois = torch.cat([corner, corner + torch.exp(torch.rand(2, 300, 2) * 6)], dim=-1).cuda()
    assert kernels.usable("roi_align_kernels", rois.device)
    found = roi_align.pyramid_roi_align(features, rois, strides, config)
    level = roi_align.level_of(rois, strides)
    expected = roi_align.by_torch(exact, rois, level, strides, config)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, features, gradient),
        torch.autograd.grad(expected, exact, gradient),
        strict=True,
    ):
        assert (a.float() - b).norm() <= (1e-5 if dtype == torch.float32 else 1e-2) * b.norm()
