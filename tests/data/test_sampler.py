"""The order of the data: pinned values, complete epochs, any number of ranks, any start."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data.sampler import MicroBatch, Plan, check_ranks, order
from fasterrcnn.errors import UsageError
from fasterrcnn.schedule import START, Origin

GOLDEN = Path(__file__).with_name("golden_order.json")


def plan(
    n: int = 50,
    images_per_gpu: int = 2,
    micro_batches: int = 4,
    seed: int = 0,
    repeats=None,
    origin: Origin = START,
) -> Plan:
    ids = [str(100 + 7 * i) for i in range(n)]
    bucket = [(i * i) % 3 for i in range(n)]
    return Plan(
        ids,
        bucket,
        seed=seed,
        images_per_gpu=images_per_gpu,
        micro_batches_per_step=micro_batches,
        repeats=repeats,
        origin=origin,
    )


def images(batches: list) -> list[list[int]]:
    """The images of micro-batches of `Plan.epoch`."""
    return [[entry.image for entry in batch] for batch in batches]


def test_golden_order():
    """No refactoring may move these: every run that is resumed depends on them."""
    golden = json.loads(GOLDEN.read_text())
    ids = golden["ids"]
    for epoch, expected in enumerate(golden["order"]):
        assert [ids[i] for i in order(golden["seed"], epoch, ids)] == expected
    made = Plan(ids, golden["bucket"], seed=golden["seed"], images_per_gpu=2,
                micro_batches_per_step=2)  # fmt: skip
    for epoch, expected in enumerate(golden["plan"]):
        assert images(made.epoch(epoch)) == expected
    repeated = Plan(ids, golden["bucket"], seed=golden["seed"], images_per_gpu=2,
                    micro_batches_per_step=2, repeats=np.array(golden["repeats"]))  # fmt: skip
    for epoch, expected in enumerate(golden["repeated"]):
        assert [[[*entry] for entry in batch] for batch in repeated.epoch(epoch)] == expected


def test_order_depends_on_seed_epoch_and_id_only():
    ids = [str(i) for i in range(200)]
    base = order(0, 0, ids)
    assert sorted(base) == list(range(200))
    assert order(0, 1, ids) != base
    assert order(1, 0, ids) != base
    without = order(0, 0, ids[:100] + ids[101:])  # one image less shifts nothing else
    assert [ids[i] for i in base if i != 100] == [(ids[:100] + ids[101:])[i] for i in without]


@pytest.mark.parametrize("n", [1, 3, 8, 50, 51])
@pytest.mark.parametrize("images_per_gpu", [1, 2, 5])
@pytest.mark.parametrize("micro_batches", [1, 3, 8])
def test_every_image_in_every_epoch_and_constant_steps(n, images_per_gpu, micro_batches):
    made = plan(n, images_per_gpu, micro_batches)
    for epoch in range(3):
        batches = images(made.epoch(epoch))
        assert len(batches) == made.steps_per_epoch * micro_batches
        assert {i for batch in batches for i in batch} == set(range(n))
        for batch in batches:
            assert len(batch) == images_per_gpu
            assert len({int(made.bucket[i]) for i in batch}) == 1  # one static shape


def test_fill_comes_from_the_start_of_the_epochs_order():
    made = Plan(list("abcde"), [0] * 5, seed=0, images_per_gpu=2, micro_batches_per_step=2)
    first = order(0, 0, made.ids)
    assert images(made.epoch(0))[2] == [first[4], first[0]]
    assert made.epoch(0)[3] == made.epoch(0)[0]


# Repeated images


FACTORS = np.maximum(1, np.random.default_rng(0).exponential(1.5, 50))


def entries(made: Plan, epoch: int) -> list:
    """All entries of an epoch once, in order: the first of every one, without fill-ups."""
    return list(dict.fromkeys(entry for batch in made.epoch(epoch) for entry in batch))


def test_nothing_to_repeat_is_the_order_without():
    assert plan(repeats=np.ones(50)).epoch(3) == plan().epoch(3)
    assert {entry.copy for batch in plan().epoch(3) for entry in batch} == {0}


def test_an_epoch_of_repeats_has_as_many_copies_of_every_bucket_as_any_other():
    made = plan(repeats=FACTORS)
    sizes = []
    for epoch in range(20):
        found = entries(made, epoch)
        counts = Counter(entry.image for entry in found)
        assert set(counts) == set(range(50))
        for i, count in counts.items():  # copies are numbered from 0
            assert {entry.copy for entry in found if entry.image == i} == set(range(count))
        sizes.append(Counter(int(made.bucket[entry.image]) for entry in found))
        assert len(made.epoch(epoch)) == made.steps_per_epoch * 4
        for batch in made.epoch(epoch):
            assert len({int(made.bucket[entry.image]) for entry in batch}) == 1
    assert sizes == [sizes[0]] * 20
    for bucket, size in sizes[0].items():
        assert abs(size - FACTORS[made.bucket == bucket].sum()) <= 0.5


def test_an_image_occurs_as_often_as_its_factor_says():
    made = plan(repeats=FACTORS)
    scaled = np.ones(50)
    for bucket in {*made.bucket.tolist()}:
        extra = FACTORS[made.bucket == bucket] - 1
        scaled[made.bucket == bucket] += extra * np.floor(extra.sum() + 0.5) / extra.sum()
    epochs = [Counter(entry.image for entry in entries(made, epoch)) for epoch in range(400)]
    for i, factor in enumerate(scaled):
        counts = {epoch[i] for epoch in epochs}
        assert counts == {int(np.floor(factor)), int(np.ceil(factor))}
        assert np.mean([epoch[i] for epoch in epochs]) == pytest.approx(factor, abs=0.1)


def test_first_copies_keep_the_order_and_others_are_spread():
    made = plan(n=300, repeats=np.full(300, 3.0))
    found = entries(made, 0)
    for bucket in range(3):
        own = [entry for entry in found if made.bucket[entry.image] == bucket]
        first = [entry.image for entry in own if entry.copy == 0]
        assert first == [i for i in order(0, 0, made.ids) if made.bucket[i] == bucket]
        adjacent = sum(a.image == b.image for a, b in itertools.pairwise(own))
        assert adjacent <= 8  # of 300 to 600; 2 are expected of a shuffle


def test_fills_keep_the_copy_of_the_entry_they_repeat():
    made = Plan(["a", "b"], [0, 0], seed=0, images_per_gpu=4, micro_batches_per_step=2,
                repeats=np.array([2.0, 3.0]))  # fmt: skip
    first, second = made.epoch(0)
    assert len({*first}) == 4  # five entries: all differ
    assert second[1:] == first[:3]
    assert {*first, *second} == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}


def test_micro_batches_say_which_copies_they_hold():
    made = plan(repeats=FACTORS)
    found = [
        [*zip(batch.images, batch.copies, strict=True)]
        for batch in made.micro_batches(0, made.steps_per_epoch, 0, 1)
    ]
    assert found == [[*map(tuple, batch)] for batch in made.epoch(0)]
    last = made.steps_per_epoch + 3
    assert list(made.micro_batches(last - 2, last, 0, 1)) == [
        batch for batch in made.micro_batches(0, last, 0, 1) if batch.step >= last - 2
    ]


# Ranks and steps


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_samples_of_a_step_do_not_depend_on_ranks(ranks: int):
    made = plan()
    parts = [list(made.micro_batches(0, 20, rank, ranks)) for rank in range(ranks)]
    together = sorted(batch for part in parts for batch in part)
    assert together == list(made.micro_batches(0, 20, 0, 1))
    assert {b.index % ranks for b in parts[-1]} == {ranks - 1}


@pytest.mark.parametrize(
    ("ranks", "counts"), [(3, [3, 3, 2]), (4, [2] * 4), (5, [2, 2, 2, 1, 1]), (8, [1] * 8)]
)
def test_a_step_is_dealt_out_so_that_no_rank_has_two_more_than_another(ranks, counts):
    made = plan(micro_batches=8)
    parts = [list(made.micro_batches(0, 6, rank, ranks)) for rank in range(ranks)]
    assert [len(part) for part in parts] == [6 * count for count in counts]
    assert [len(made.share(rank, ranks)) for rank in range(ranks)] == counts


def test_starting_anywhere_is_the_same_as_having_come_there():
    made = plan()
    whole = list(made.micro_batches(0, 30, 1, 2))
    for start in (1, made.steps_per_epoch, made.steps_per_epoch + 3):
        assert list(made.micro_batches(start, 30, 1, 2)) == whole[start * 2 :]


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "images_per_gpu", "works"),
    [
        (9, 8, 2, "NGPU=1 to 8, or --images-per-gpu 1"),
        (3, 2, 8, "NGPU=1 to 2, or --images-per-gpu 1 or 2 or 4"),
        (17, 8, 2, "NGPU=1 to 8"),
        (2, 1, 1, "NGPU=1"),
    ],
)
def test_more_ranks_than_micro_batches_are_told_what_works(
    ranks: int, micro_batches: int, images_per_gpu: int, works: str
):
    with pytest.raises(UsageError) as error:
        check_ranks(ranks, micro_batches, images_per_gpu)
    assert str(error.value).endswith(f"; use {works}")


def test_up_to_as_many_ranks_as_micro_batches_are_fine():
    for ranks in range(1, 9):
        check_ranks(ranks, 8, 2)


def test_a_micro_batch_is_a_value():
    assert MicroBatch(1, 2, 0, (3, 4)) == MicroBatch(1, 2, 0, (3, 4))


def test_an_epoch_begins_where_batches_changed():
    """It has the number that follows those begun before, and all its images."""
    changed, never = plan(origin=Origin(100, 2.5)), plan()
    steps = changed.steps_per_epoch
    later = list(changed.micro_batches(100, 100 + 2 * steps, 0, 1))
    assert [batch.epoch for batch in later] == [3] * 4 * steps + [4] * 4 * steps
    assert {i for batch in later[: 4 * steps] for i in batch.images} == set(range(50))
    whole = list(never.micro_batches(3 * steps, 5 * steps, 0, 1))
    assert [batch.images for batch in later] == [batch.images for batch in whole]
    assert changed.epoch_at(100 + steps) == 3.5 and never.epoch_at(steps) == 1
