import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.hedging import HedgeDelay


def test_a_fixed_delay_is_what_it_is() -> None:
    delay = HedgeDelay(0.75)
    for _ in range(100):
        delay.observed(0.01)
    assert delay.delay_s() == 0.75


def test_says_nothing_before_twenty_answers_were_seen() -> None:
    delay = HedgeDelay("p95")
    for _ in range(19):
        delay.observed(0.1)
    assert delay.delay_s() is None
    delay.observed(0.1)
    assert delay.delay_s() == pytest.approx(0.1)


def test_learns_the_95th_percentile_of_the_latest_256() -> None:
    delay = HedgeDelay("p95")
    for number in range(1000):
        delay.observed(9.0 if number < 500 else (1.0 + number % 100 / 100))
    assert delay.delay_s() == pytest.approx(1.95, abs=0.02)


def test_looks_at_it_again_after_sixteen_answers() -> None:
    delay, found = HedgeDelay("p95"), list[float | None]()
    for number in range(36):
        delay.observed(0.1 if number < 20 else 0.3)
        found.append(delay.delay_s())
    assert found == [None] * 19 + [0.1] * 16 + [0.3]


def test_one_that_was_cut_off_counts_among_the_late_ones() -> None:
    delay = HedgeDelay("p95")
    for number in range(256):
        (delay.late if number % 10 == 0 else delay.observed)(0.3 if number % 10 == 0 else 0.1)
    assert delay.delay_s() == pytest.approx(0.3)


def test_many_late_ones_do_not_push_it_out_for_ever() -> None:
    """Every second answer stalls; each loser is given a little more than the delay."""
    delay = HedgeDelay("p95")
    for number in range(5000):
        if number % 5 == 0:
            delay.late((delay.delay_s() or 0.1) + 0.1)
        else:
            delay.observed(0.1)
    assert delay.delay_s() == pytest.approx(0.4)


@given(st.lists(st.floats(0.001, 60.0), min_size=20, max_size=400))
def test_is_never_more_than_four_medians_nor_the_longest(seen: list[float]) -> None:
    delay = HedgeDelay("p95")
    for first_s in seen:
        delay.observed(first_s)

    found = delay.delay_s()
    assert found is not None
    assert min(seen) <= found <= max(seen) or found <= 4 * max(seen)


@pytest.mark.parametrize("seed", range(5))
def test_stalls_of_one_upstream_in_twenty_are_overtaken_at_under_seven_percent_more(
    seed: int,
) -> None:
    """One of two upstreams takes 5 s for 5 % of its first tokens; all others are about 50 ms."""
    chance, delay = random.Random(seed), HedgeDelay("p95")
    firsts, hedged, calls = list[float](), 0, 20_000

    def takes_s(upstream: int) -> float:
        if upstream == 0 and chance.random() < 0.05:
            return 5.0
        return chance.uniform(0.04, 0.06)

    for call in range(calls):
        first_s, after_s = takes_s(call % 2), delay.delay_s()
        if after_s is None or first_s <= after_s:
            delay.observed(first_s)
            firsts.append(first_s)
            continue
        hedged += 1
        second_s = after_s + takes_s(1 - call % 2)
        (delay.observed if first_s <= second_s else delay.late)(min(first_s, second_s))
        firsts.append(min(first_s, second_s))

    firsts.sort()
    assert 0.02 * calls < hedged < 0.07 * calls
    assert firsts[int(0.99 * calls)] < 1.0


def test_repr_shows_the_delay() -> None:
    assert repr(HedgeDelay("p95")) == "<HedgeDelay None of=0>"
