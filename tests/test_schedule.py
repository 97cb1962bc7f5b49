"""Learning rates at the documented steps, and when things are due."""

import pytest

from fasterrcnn import recipes, schedule

ONE_X = recipes.fasterrcnn_r50_fpn_1x().schedule
PER_EPOCH = 7330  # COCO train2017 without empty images, 16 a step


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.02 * 0.001),
        (250, 0.02 * (0.001 + 0.999 * 0.5)),
        (500, 0.02),
        (8 * PER_EPOCH - 1, 0.02),
        (8 * PER_EPOCH, 0.002),
        (11 * PER_EPOCH - 1, 0.002),
        (11 * PER_EPOCH, 0.0002),
        (12 * PER_EPOCH, 0.0002),
    ],
)
def test_1x_learning_rate(step: int, lr: float):
    assert schedule.lr_at(step, ONE_X, PER_EPOCH) == pytest.approx(lr)


def test_warm_up_is_the_one_of_torch():
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=500)
    for step in range(510):
        expected = optimizer.param_groups[0]["lr"]
        assert schedule.lr_at(step, ONE_X, PER_EPOCH) == pytest.approx(expected)
        optimizer.step()
        warm_up.step()


def test_total_and_milestones():
    assert schedule.total_steps(ONE_X, PER_EPOCH) == 12 * PER_EPOCH
    assert schedule.milestone_steps(ONE_X, PER_EPOCH) == (8 * PER_EPOCH, 11 * PER_EPOCH)
    assert schedule.total_steps(ONE_X, 1) == 12


def test_due():
    assert [n for n in range(1, 11) if schedule.due(n, 4, 10)] == [4, 8, 10]
    assert [n for n in range(1, 11) if schedule.due(n, 0, 10)] == [10]


def test_describe_names_every_drop_and_a_warm_up_that_never_ends():
    text = schedule.describe(ONE_X, 100, 1200)
    assert "0.002 from step 800, 0.0002 from step 1100" in text
    assert "note" not in text
    assert "ends before warm-up" in schedule.describe(ONE_X, 1, 12)
