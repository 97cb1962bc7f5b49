"""A training step on a fake GPU: what is counted, in which precision it is, and its backward pass.

Fake tensors refuse operators on tensors of two devices, as a GPU does.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fasterrcnn import recipes
from fasterrcnn.engine import counting, fake_gpu, trials
from fasterrcnn.engine.step import train_step
from fasterrcnn.models import kernels

STOCK = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), amp="fp16")
SMALL = recipes.change(recipes.get("rpn_r10_fpn_shapes"), amp="fp16")
slow = pytest.mark.slow
PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "convolution_backward")


class Products(TorchDispatchMode):
    """Collects the dtypes of all convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in PRODUCTS:
            of_name = self.found.setdefault(name, set())
            of_name |= {t.dtype for t in args if isinstance(t, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "amp"), [
    ("fasterrcnn_r50_fpn_1x", "fp16"),
    pytest.param("fasterrcnn_r10_fpn_shapes", "bf16", marks=slow),
    pytest.param("cascade_rcnn_r50_fpn_1x", "fp16", marks=slow),
    pytest.param("fasterrcnn_r50_fpn_1x_mmdetection", "fp16", marks=slow),
    pytest.param("fasterrcnn_vgg16_voc", "bf16", marks=slow),
    pytest.param("rpn_r50_fpn_1x_mmdetection", "fp16", marks=slow),
])  # fmt: skip
def test_products_are_in_half_precision_and_losses_in_float32(name: str, amp: str):
    recipe = recipes.change(recipes.get(name), amp=amp)
    with fake_gpu.fake_training(recipe, 7) as (training, rt):
        batch = trials.make_batch(2, (96, 128), 3)
        with_gradient: list[bool] = []
        training.optimizer.register_step_pre_hook(
            lambda optimizer, *_: with_gradient.extend(
                p.grad is not None for group in optimizer.param_groups for p in group["params"]
            )
        )
        with Products() as products:
            (scalars,), norm = train_step(training, [batch], recipe, 0.01, rt, micro_batches=1)
        assert {*scalars.values(), norm} and {v.device for v in scalars.values()} == {rt.device}
        losses = {name: v.dtype for name, v in scalars.items() if name.startswith("loss")}
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}[recipe.amp]
    assert len(losses) >= 2 and {*losses.values()} == {torch.float32}
    assert len(with_gradient) > 10 and all(with_gradient)
    assert {"convolution", "addmm", "mm", "convolution_backward"} <= {*products.found}
    assert products.found == {name: {half} for name in products.found}


class Squared(torch.autograd.Function):
    """A function with a backward pass in Python."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


def small_loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Shared parameters, several outputs of which one is not used, broadcasting, two dtypes."""
    x = torch.linspace(-1, 1, 24).view(4, 6)
    hidden = functional.linear(x.double(), weight.double(), bias.double()).float().relu() + bias
    first, _, third = hidden.split(2, dim=1)
    again = Squared.apply(functional.linear(hidden, weight))
    return (first * third.exp()).sum() + (again * bias).mean() + weight.norm()


def test_the_backward_pass_is_that_of_the_engine():
    torch.manual_seed(0)
    leaves = [torch.randn(6, 6, requires_grad=True), torch.randn(6, requires_grad=True)]
    small_loss(*leaves).backward()
    wanted = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    called = []
    with fake_gpu._backward_without_engine(called.append):
        small_loss(*leaves).backward()
    assert all(leaf.grad.equal(grad) for leaf, grad in zip(leaves, wanted, strict=True))
    assert called[-1] is None and len(called) > 10


def test_what_a_node_has_saved_is_freed_after_it():
    """Otherwise the peak of live bytes would be that of a graph that is kept."""
    counter = counting._Counter()
    with fake_gpu.fake_training(SMALL, 7, counter.enter_part_of) as (_, rt), counter:
        x = torch.zeros(1000, device=rt.device, requires_grad=True)
        before = counter.live
        y = x
        for _ in range(10):
            y = y.exp()
        assert counter.live == counter.peak == before + 10 * 4000
        loss = y.sum()
        loss.backward()
        del y
        assert counter.live == before + 4000 + 4  # the gradient; the loss, whose graph is there
        assert counter.peak <= before + 13 * 4000 + 8


def test_operators_and_bytes_of_simple_tensors():
    counter = counting._Counter()
    with fake_gpu.fake_training(SMALL, 7) as (_, rt), counter:
        assert not isinstance(kernels.load("nms_kernels", rt.device), str)  # as on a real GPU
        a = torch.empty(8, 4, device=rt.device)
        counter.start()
        b = a.view(-1)[:4].expand(5, 4)  # views
        c = a @ b.t()
        c.add_(1.0)
        torch.empty(3, device=rt.device)
        torch.zeros(3)  # on the host
    total = counting.total(counter.costs)
    assert total == counting.Cost(2, read=128 + 16 + 160, written=160 + 160, flops=2 * 8 * 4 * 5)


def test_a_training_step_does_not_cost_more_than_it_did():
    """Lower these bounds when a change lowers the counts; 16 images of 640 x 480 px."""
    costs, peak = counting.count_step(STOCK, 91, 16, (480, 640), 32)
    assert {*costs} == {*counting.PARTS}
    assert min(cost.operators for cost in costs.values()) > 0
    total = counting.total(costs)
    assert total.operators <= 848
    assert total.read + total.written <= 80.8e9
    assert 12.5e12 < total.flops <= 12.54e12
    assert peak <= 5.92 * 2**30  # 0.09 of it the scales of folded norms
