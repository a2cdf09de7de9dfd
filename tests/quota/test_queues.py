"""The queues: who waits where, in the order of arrival, and what they need together."""

from hypothesis import given
from hypothesis import strategies as st

from llmrouter.quota.messages import Ask, Take
from llmrouter.quota.queues import Pending, Queues

NOW = 1_000
BUCKETS = ["a", "b", "c"]


def pending(number: int, **least: int) -> Pending:
    asks = tuple(Ask(bucket, amount, amount) for bucket, amount in least.items())
    return Pending("boot", Take(number, asks), number, NOW)


def test_who_came_first_is_first_wherever_they_enter() -> None:
    queues = Queues()
    first, second, third = pending(1, a=1), pending(2, a=1, b=1), pending(3, a=1)
    queues.enter(second, ["b"])
    queues.enter(third, ["a"])
    assert queues.first("a") is third
    queues.enter(second, ["a"])
    assert queues.first("a") is second
    queues.enter(first, ["a"])
    assert queues.first("a") is first
    queues.leave(first, ["a"])
    assert queues.first("a") is second


def test_only_who_came_before_is_in_front() -> None:
    queues = Queues()
    early, late = pending(1, a=1), pending(2, a=1)
    assert not queues.is_behind(late, "a")
    queues.enter(early, ["a"])
    assert queues.is_behind(late, "a")
    assert not queues.is_behind(early, "a")


def test_knows_what_all_of_them_need() -> None:
    queues = Queues()
    one, two = pending(1, a=5, b=1), pending(2, a=7)
    queues.enter(one, ["a", "b"])
    queues.enter(two, ["a"])
    assert [queues.needed(bucket) for bucket in BUCKETS] == [12, 1, 0]
    queues.leave(one, one.queues)
    assert [queues.needed(bucket) for bucket in BUCKETS] == [7, 0, 0]
    assert one.queues == []


def test_shows_where_somebody_waits() -> None:
    queues = Queues()
    one = pending(7, a=5, b=1)
    queues.enter(one, ["a"])
    assert (repr(queues), queues.buckets()) == ("<Queues {'a': 1}>", ["a"])
    assert repr(one) == "<Pending boot/7 at=['a'] awaited=set()>"


_STEPS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(BUCKETS)), max_size=60)


@given(_STEPS)
def test_any_coming_and_going_leaves_queues_in_order(steps: list[tuple[int, str]]) -> None:
    queues = Queues()
    every = [pending(number, a=number, b=1, c=2) for number in range(10)]
    for number, bucket in steps:
        one = every[number]
        if bucket in one.queues:
            queues.leave(one, [bucket])
        else:
            queues.enter(one, [bucket])
        for name in BUCKETS:
            standing = [each for each in every if name in each.queues]
            assert queues.first(name) is (standing[0] if standing else None)
            assert queues.needed(name) == sum(each.least(name) for each in standing)
            assert (name in queues) == bool(standing)
