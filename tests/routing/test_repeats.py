import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.repeats import FLOOR, Repeats

per_mille = st.integers(1, 1000)
history = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)


@given(per_mille, history)
def test_repeats_never_pass_the_floor_and_their_share_of_first_attempts(
    share: int, turns: list[tuple[int, int]]
) -> None:
    """The attempt budget is a hard number, whenever the repeats are asked for."""
    repeats, firsts, taken = Repeats(share / 1000), 0, 0
    for calls, wanted in turns:
        for _ in range(calls):
            repeats.first()
        firsts += calls
        taken += sum(repeats.take() for _ in range(wanted))
        assert taken * 1000 <= FLOOR * 1000 + share * firsts


@given(per_mille, st.integers(0, 300))
def test_all_that_is_earned_can_be_used_as_far_as_it_is_kept(share: int, firsts: int) -> None:
    repeats = Repeats(share / 1000)
    for _ in range(firsts):
        repeats.first()

    earned, kept = FLOOR * 1000 + share * firsts, max(FLOOR, share)
    assert sum(repeats.take() for _ in range(400)) >= min(earned // 1000 - 1, kept)


def test_without_a_share_nothing_is_repeated() -> None:
    repeats = Repeats(0.0)
    repeats.first()
    assert not repeats.take()


def test_a_few_repeats_need_not_be_earned() -> None:
    repeats = Repeats(0.2)
    assert [repeats.take() for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2


@pytest.mark.parametrize(("share", "kept"), [(0.001, FLOOR), (0.2, 200), (1.0, 1000)])
def test_a_long_calm_does_not_pay_for_a_storm(share: float, kept: int) -> None:
    repeats = Repeats(share)
    for _ in range(30_000):
        repeats.first()

    assert sum(repeats.take() for _ in range(2000)) == kept


def test_repr_shows_what_is_left() -> None:
    repeats = Repeats(0.2)
    repeats.first()
    assert repr(repeats) == "<Repeats left=10.20>"


def test_what_is_left_is_told_in_whole_repeats() -> None:
    repeats = Repeats(0.3)
    assert repeats.left == FLOOR
    repeats.first()
    assert (repeats.take(), repeats.left) == (True, FLOOR - 1)
    assert Repeats(0.0).left == 0


def test_what_was_taken_and_not_used_can_be_put_back() -> None:
    repeats = Repeats(0.5)
    assert all(repeats.take() for _ in range(FLOOR))
    assert not repeats.take()
    repeats.put_back()
    assert repeats.left == 1
    assert [repeats.take(), repeats.take()] == [True, False]
