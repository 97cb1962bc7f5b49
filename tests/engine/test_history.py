"""Which changes a run may make, and where its epochs are counted from then on."""

from __future__ import annotations

import json
from types import SimpleNamespace

from fasterrcnn import recipes
from fasterrcnn.engine import history
from fasterrcnn.schedule import START, Origin

FIRST = recipes.get("fasterrcnn_r50_fpn_1x")


def lower(lr: float) -> recipes.Recipe:
    return recipes.change(FIRST, schedule=dict(lr=lr))


def go_on(saved, recipe, resume=False, epoch=2.5):
    return history.go_on(saved, recipe, lambda _: epoch, resume=resume)


def state(recipe=FIRST, step=100, changes=()):
    """As a checkpoint reads it."""
    return SimpleNamespace(recipe=recipe, step=step, history=json.loads(json.dumps([*changes])))


def test_every_former_recipe_stands_for_the_present_one():
    _, once, line = go_on(state(), lower(0.01), resume=True)
    assert line == "changed from step 100 on: schedule.lr: 0.02 -> 0.01"
    _, twice, _ = go_on(state(lower(0.01), 200, once), lower(0.001), resume=True)
    assert [(c["step"], c["was"]) for c in twice] == [
        (100, {"schedule.lr": 0.02}),
        (200, {"schedule.lr": 0.01}),
    ]
    saved = state(lower(0.001), 300, twice)
    for former in (FIRST, lower(0.01), lower(0.001)):
        assert go_on(saved, former)[:2] == (lower(0.001), saved.history)
    assert go_on(saved, lower(0.5))[0] == lower(0.5)  # refused later
    back, thrice, _ = go_on(saved, FIRST, resume=True)
    assert back == FIRST and len(thrice) == 3, "with --resume it is a change"


def test_an_epoch_begins_where_batches_change():
    _, changes, _ = go_on(state(), lower(0.01), resume=True)
    assert history.origin(changes) == START
    smaller = recipes.change(FIRST, schedule=dict(images_per_gpu=1))
    _, changes, _ = go_on(state(), smaller, resume=True)
    assert history.origin(changes) == Origin(100, 2.5)
    _, changes, _ = go_on(state(smaller, 150, changes), lower(0.01), resume=True, epoch=3.0)
    assert history.origin(changes) == Origin(150, 3.0)


def test_lists_of_json_are_the_tuples_of_a_recipe():
    later = recipes.change(FIRST, schedule=dict(milestones=(9.0, 10.0)))
    _, changes, _ = go_on(state(), later, resume=True)
    assert go_on(state(later, 120, changes), FIRST)[0] == later


def test_a_field_of_the_network_stays():
    other = recipes.change(lower(0.01), seed=3)
    assert history.fixed(FIRST, other) == ["seed: 0 -> 3"]
    assert go_on(state(), other, resume=True) == (other, [], None)
