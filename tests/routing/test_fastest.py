import pytest

from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.fastest import Fastest
from tests.support.fleet import Running, fleet

CALLS = 20_000


@pytest.mark.parametrize("ordinary_s", [0.02, 1.0])
@pytest.mark.parametrize("callers", [3, 10, 50])
def test_sends_a_deployment_that_is_five_times_slower_under_a_tenth(
    callers: int, ordinary_s: float
) -> None:
    mean_s = {"a": ordinary_s, "b": ordinary_s, "c": 5 * ordinary_s}
    running = Running(Fastest(), fleet(1, 1, 1), mean_s, first=0.3, seed=callers)
    running.closed(callers, CALLS)

    assert running.placed.total() == CALLS
    assert 0 < running.placed["c"] < 0.1 * CALLS


@pytest.mark.parametrize("busy", [0.5, 2.0, 10.0])
def test_does_so_too_when_calls_come_whenever_they_come(busy: float) -> None:
    """`busy` calls would run at once on an ordinary deployment alone."""
    mean_s = {"a": 0.3, "b": 0.3, "c": 1.5}
    running = Running(Fastest(), fleet(1, 1, 1), mean_s, first=0.3, seed=3)
    running.poisson(busy / 0.3, CALLS)

    assert running.placed["c"] < 0.1 * CALLS


def test_uses_all_that_are_as_fast() -> None:
    running = Running(Fastest(), fleet(1, 1, 1), dict.fromkeys("abc", 0.1), first=0.3, seed=4)
    running.closed(30, CALLS)

    assert min(running.placed.values()) > 0.2 * CALLS


def test_one_that_is_not_known_gets_one_call_and_no_more_until_that_is_answered() -> None:
    known, new = deployments = fleet(1, 1)
    known.condition.first_token(0.1, 0.0)

    assert Fastest().choose(deployments, 0.0, NO_FACTS) is new
    new.condition.enter(0.0)
    assert Fastest().choose(deployments, 0.0, NO_FACTS) is known


def test_while_none_is_known_the_least_busy_serves() -> None:
    one, other = deployments = fleet(1, 1)
    one.condition.enter(0.0)
    one.condition.enter(0.0)
    other.condition.enter(0.0)
    assert Fastest().choose(deployments, 0.0, NO_FACTS) is other


def test_one_that_was_slow_is_tried_again_some_day() -> None:
    slow, fast = deployments = fleet(1, 1)
    slow.condition.first_token(0.5, 0.0)

    for now_s, found in ((1.0, fast), (60.0, fast), (110.0, slow)):
        fast.condition.first_token(0.1, now_s)
        assert Fastest().choose(deployments, now_s, NO_FACTS) is found
