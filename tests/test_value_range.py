"""What a recipe may say of the range of values."""

import pytest

from fasterrcnn import recipes, value_range
from fasterrcnn.errors import UsageError


def test_limits_and_text_are_inverse():
    for limits in ((0.0, 65535.0), (-1000.5, 400.25), (51200.125, 52200.0), (1e-6, 2e-6)):
        assert value_range.limits(value_range.as_text(*limits)) == limits
    assert [value_range.limits(name) for name in value_range.NAMES] == [None] * 4


@pytest.mark.parametrize("text", ["ful", "1", "1,2,3", "2,1", "3,3", "nan,1", "0,inf", ""])
def test_others_are_refused_in_one_line(text: str):
    recipe = recipes.change(recipes.get("fasterrcnn_r10_fpn_shapes"), input=dict(value_range=text))
    with pytest.raises(UsageError, match=f"^--input.value-range: {text}: .*(LOW|finite).*$"):
        recipes.check(recipe)
