import pytest

from llmrouter.daemon.demo.turns import Turns, blinks


def test_every_nth_call_is_spared() -> None:
    turns = Turns()

    assert [turns.flaps(3) for _ in range(6)] == [True, True, False] * 2
    assert not turns.flaps(1)


@pytest.mark.parametrize("percent", [1, 5, 33, 50, 99, 100])
def test_of_each_hundred_calls_just_so_many_are_struck(percent: int) -> None:
    turns = Turns()
    struck = [turns.stalls(percent) for _ in range(300)]

    assert [sum(struck[start : start + 100]) for start in (0, 100, 200)] == [percent] * 3


@pytest.mark.parametrize("percent", [5, 20, 33])
def test_what_is_struck_is_spread_evenly(percent: int) -> None:
    turns = Turns()
    struck = [turns.fails(percent) for _ in range(400)]
    window = 100 // percent

    counts = {sum(struck[start : start + window]) for start in range(300)}
    assert counts <= {0, 1, 2}
    assert struck.index(True) <= window


def test_stalls_and_failures_are_counted_apart() -> None:
    turns = Turns()

    assert [(turns.stalls(50), turns.fails(50)) for _ in range(4)] == [
        (False, False),
        (True, True),
        (False, False),
        (True, True),
    ]


@pytest.mark.parametrize(
    ("now_s", "struck"),
    [(0, True), (1.9, True), (2, False), (3.99, False), (4, True), (1_760_000_002.5, False)],
)
def test_the_clock_strikes_and_spares_by_turns(now_s: float, struck: bool) -> None:
    assert blinks(2.0, now_s) is struck
