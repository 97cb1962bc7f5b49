"""Seeds must never move: every run in the world depends on them."""

import torch

from fasterrcnn import seeds


def test_values_are_pinned():
    assert seeds.key(0, "step", 12, 3) == 3251404814120641155
    assert seeds.key(1, "order", 0, "images/ü.jpg") == 483477531483893819


def test_every_part_counts_and_torch_takes_it():
    keys = {
        seeds.key(s, p, a, b) for s in (0, 1) for p in ("x", "y") for a in range(9) for b in "ab"
    }
    assert len(keys) == 2 * 2 * 9 * 2
    torch.manual_seed(max(keys))


def test_the_first_copy_of_an_image_has_the_seeds_it_had_before_there_were_copies():
    assert seeds.for_copy("flip", 0) == "flip"
    purposes = {seeds.for_copy(p, copy) for p in ("flip", "order") for copy in range(30)}
    assert len(purposes) == 60
    assert seeds.key(0, seeds.for_copy("order", 1), 0, "images/ü.jpg") == 8848064089369649402


def test_fraction_is_uniform():
    values = torch.tensor([seeds.fraction(0, "flip", 0, i) for i in range(20000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    assert abs((values < 0.1).float().mean() - 0.1) < 0.01
