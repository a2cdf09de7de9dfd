"""USD, as whole nano-USD."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.config.money import nano_usd


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (500.0, 500_000_000_000),
        (0.1, 100_000_000),
        (0.3, 300_000_000),
        (1e-9, 1),
        (2.5, 2_500_000_000),
        (0.0, 0),
        (123.456789012, 123_456_789_012),
        (1_000_000_000.0, 10**18),
    ],
)
def test_takes_an_amount_as_it_was_written(usd: float, nano: int) -> None:
    assert nano_usd(usd) == nano


@pytest.mark.parametrize("usd", [1e-10, 0.1234567891, 1.0000000001])
def test_refuses_what_is_no_whole_nano_usd(usd: float) -> None:
    with pytest.raises(ValueError, match=rf"more than 9 decimals \(value {usd}\); round it"):
        nano_usd(usd)


@given(nano=st.integers(1, 10**15))
def test_every_amount_that_a_float_can_tell_apart_is_exact(nano: int) -> None:
    assert nano_usd(float(Fraction(nano, 10**9))) == nano
