"""Learning rates at the documented steps, and when things are due."""

import dataclasses

import pytest
import torch

from fasterrcnn import recipes, schedule
from fasterrcnn.errors import UsageError

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


COSINE = dataclasses.replace(ONE_X, lr_scheduler="cosine", milestones=())


def test_cosine_is_torchs_times_the_warm_up():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    total = schedule.total_steps(COSINE, 100)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    found = [schedule.lr_at(step, COSINE, 100) for step in range(total)]
    assert found[500:] == pytest.approx(rates[500:])
    assert found[0] == pytest.approx(0.02 * 0.001)
    assert found[250] == pytest.approx(rates[250] * (0.001 + 0.999 * 0.5))
    assert schedule.lr_at(total, COSINE, 100) == schedule.lr_at(2 * total, COSINE, 100) == 0


def test_the_cosine_and_its_end_are_described():
    text = schedule.describe(COSINE, 100, 1200)
    assert text.endswith("learning rate 0.02 after 500 warm-up steps, cosine to 0 at step 1200")
    assert "nothing is learned from step 1200 on; --epochs" in schedule.describe(COSINE, 100, 1500)
    assert "note" not in schedule.describe(COSINE, 100, 900)


def test_the_cosine_has_no_milestones():
    base = recipes.fasterrcnn_r50_fpn_1x()
    recipe = recipes.with_lr_scheduler(base, "cosine")
    recipes.check(recipe)
    assert recipe.schedule == COSINE
    assert recipes.with_epochs(recipe, 24).schedule.milestones == ()
    with pytest.raises(UsageError, match=r"--schedule.milestones: only --lr-scheduler multistep"):
        recipes.check(recipes.change(recipe, schedule=dict(milestones=(8.0,))))
    assert recipes.with_lr_scheduler(base, "multistep") == base


def test_the_schedule_goes_on_where_batches_changed():
    """After 4 epochs of 100 steps, epochs have 50: the same rates at the same epochs."""
    origin = schedule.Origin(400, 4.0)
    assert schedule.total_steps(ONE_X, 50, origin) == 400 + 8 * 50
    assert schedule.milestone_steps(ONE_X, 50, origin) == (400 + 4 * 50, 400 + 7 * 50)
    for epoch in (7, 8, 9.5, 11, 12):
        before = schedule.lr_at(round(epoch * 100), ONE_X, 100)
        assert schedule.lr_at(400 + round((epoch - 4) * 50), ONE_X, 50, origin) == before
    assert schedule.lr_at(700, COSINE, 50, schedule.Origin(600, 3.0)) < COSINE.lr
