"""Values: the ranges that hold wherever a value of that kind stands."""

from typing import Any, get_args

import msgspec
import pytest

from llmrouter.config.schema import SERVED_DIALECTS, values
from llmrouter.config.schema.values import ModelMap, Seconds, SecondsOrZero, Share, Tags, Text


@pytest.mark.parametrize(
    ("kind", "fits", "fits_not"),
    [
        (Text, ["a", "a" * 4_096], ["", "a" * 4_097, 1]),
        (Seconds, [0.001, 1, 86_400], [0, -1, 86_401, "1"]),
        (SecondsOrZero, [0, 86_400], [-0.1, 86_401]),
        (Share, [0, 0.5, 1], [-0.1, 1.1]),
        (Tags, [{}, {"region": "eu"}], [{"region": 1}, {"region": ""}, "eu"]),
        (ModelMap, [{}, {"a": "b"}], [{"a": 1}, {str(n): "x" for n in range(1_001)}]),
    ],
)
def test_a_value_fits_or_is_refused(kind: Any, fits: list[Any], fits_not: list[Any]) -> None:
    for value in fits:
        assert msgspec.convert(value, kind) == value
    for value in fits_not:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)


def test_what_is_served_is_among_the_words() -> None:
    assert set(SERVED_DIALECTS) <= set(get_args(values.DialectName))
