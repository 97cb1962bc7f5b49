"""When the detections of a file count as the detector's."""

from types import SimpleNamespace

import torch

from fasterrcnn import recipes
from fasterrcnn.export import parity

IMAGES = [torch.zeros(3, 200, 300, dtype=torch.uint8)]


class Fixed:
    """It detects 100 boxes, and with oneDNN switched off other ones in `unsteady` places."""

    def __init__(self, moved: int = 0, unsteady: int = 0):
        self.transform = SimpleNamespace(config=recipes.Input())
        self.moved, self.unsteady, self.calls = moved, unsteady, 0

    def __call__(self, batch):
        self.calls += 1
        moved = self.moved if torch.backends.mkldnn.enabled else self.unsteady
        x = 20.0 * torch.arange(100.0)
        x[:moved] += 5
        boxes = torch.stack([x, torch.zeros(100), x + 10, torch.full((100,), 10.0)], dim=1)
        found = {"boxes": boxes, "scores": torch.ones(100), "labels": torch.ones(100).long()}
        return [found] * len(batch)


def agreements(moved: int, unsteady: int):
    ours = Fixed(unsteady=unsteady)
    found = parity.compare(ours, Fixed(moved), IMAGES)
    assert torch.backends.mkldnn.enabled
    return ours, found


def test_the_detector_is_only_computed_again_where_something_differs():
    ours, found = agreements(moved=0, unsteady=5)
    assert ours.calls == len(found) == 3
    assert all(agreement.holds and agreement.rounding is None for agreement in found)


def test_twice_as_many_may_differ_as_rounding_changes_at_any_size():
    _, found = agreements(moved=4, unsteady=2)  # each is a detection of either side
    assert [(a.different, a.rounding, a.holds) for a in found] == [(8, 4, True)] * 3
    _, found = agreements(moved=5, unsteady=2)
    assert [(a.different, a.rounding, a.holds) for a in found] == [(10, 4, False)] * 3
    _, found = agreements(moved=1, unsteady=0)
    assert [(a.different, a.rounding, a.holds) for a in found] == [(2, 0, False)] * 3
    assert str(found[0]).split()[-1] == "0"


def test_rounding_is_that_of_the_size_where_it_is_most():
    class AtOneSize(Fixed):
        def __call__(self, batch):
            full = self.transform.config.min_size == recipes.Input().min_size
            self.unsteady = 2 if full else 0
            return super().__call__(batch)

    found = parity.compare(AtOneSize(), Fixed(4), IMAGES)
    assert [(a.different, a.rounding, a.holds) for a in found] == [
        (8, 4, True), (8, 0, True), (8, 0, True),
    ]  # fmt: skip
