import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.latency import Latency


def test_nothing_is_known_at_first() -> None:
    assert Latency().now(100.0) == 0.0


def test_the_first_answer_counts_whole() -> None:
    latency = Latency()
    latency.saw(0.3, 1000.0)

    assert latency.now(1000.0) == pytest.approx(0.3)


def test_rises_to_a_peak_at_once_and_comes_down_with_time_alone() -> None:
    latency = Latency()
    latency.saw(0.1, 1000.0)
    latency.saw(5.0, 1000.1)
    assert latency.now(1000.1) == pytest.approx(5.0)

    for _ in range(1000):  # however many answers come meanwhile
        latency.saw(0.1, 1000.1)
    assert latency.now(1000.1) == pytest.approx(5.0)

    for second in range(60):
        latency.saw(0.1, 1001.0 + second)
    assert latency.now(1060.0) == pytest.approx(0.1, rel=0.2)


def test_falls_while_nothing_is_seen() -> None:
    latency = Latency()
    latency.saw(5.0, 1000.0)

    assert latency.now(1060.0) == pytest.approx(5.0 / 2.71828, rel=1e-3)
    assert latency.now(1600.0) < 0.001


@given(st.lists(st.tuples(st.floats(0.001, 60.0), st.floats(0.0, 100.0)), min_size=1))
def test_is_never_below_the_latest_nor_above_the_highest(seen: list[tuple[float, float]]) -> None:
    latency, now_s = Latency(), 0.0
    for first_token_s, gap_s in seen:
        now_s += gap_s
        latency.saw(first_token_s, now_s)

        assert latency.now(now_s) >= first_token_s * 0.999
        assert latency.now(now_s) <= max(each for each, _ in seen) * 1.001


def test_repr_shows_the_height() -> None:
    latency = Latency()
    latency.saw(0.25, 3.0)
    assert repr(latency) == "<Latency 0.250 s at 3.0>"
