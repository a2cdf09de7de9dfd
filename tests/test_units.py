import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.units import MS_PER_S, duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("30m", 1_800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
        (" 5m ", 300),
        ("007d", 604_800),
        ("999999999s", 999_999_999),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "90", "d", "0d", "000s", "-1d", "+1d", "1.5h", "1e3s", "1_000s", "0x1s"),
        *("1D", "1M", "1y", "1 d", "1d2h", "1min", "1d\n2h", "1000000000s", "\u0663d", "\uff11d"),
    ],
)
def test_whatever_else_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number and a unit"):
        duration_s(text)


@given(st.integers(1, 999_999_999), st.sampled_from("smhdw"))
def test_longer_numbers_and_units_are_longer(number: int, unit: str) -> None:
    assert duration_s(f"{number}{unit}") == number * duration_s(f"1{unit}")


def test_a_second_has_a_thousand_milliseconds() -> None:
    assert MS_PER_S * duration_s("1s") == 1_000
