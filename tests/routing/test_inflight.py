import random

import pytest

from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.inflight import LeastInflight
from tests.support.fleet import Running, fleet

CALLS = 20_000


def strategy(seed: int = 1) -> LeastInflight:
    return LeastInflight(random.Random(seed).random)


@pytest.mark.parametrize("ordinary_s", [0.02, 1.0])
@pytest.mark.parametrize("callers", [3, 10, 50])
def test_sends_a_deployment_that_is_five_times_slower_under_a_tenth(
    callers: int, ordinary_s: float
) -> None:
    deployments = fleet(1, 1, 1)
    mean_s = {"a": ordinary_s, "b": ordinary_s, "c": 5 * ordinary_s}
    running = Running(strategy(), deployments, mean_s, first=0.3, seed=callers)
    running.closed(callers, CALLS)

    assert running.placed.total() == CALLS
    assert running.placed["c"] < 0.1 * CALLS
    assert min(running.placed["a"], running.placed["b"]) > 0.4 * CALLS


@pytest.mark.parametrize("busy", [0.5, 2.0, 10.0])
def test_does_so_too_when_calls_come_whenever_they_come(busy: float) -> None:
    """`busy` calls would run at once on an ordinary deployment alone."""
    deployments = fleet(1, 1, 1)
    mean_s = {"a": 0.3, "b": 0.3, "c": 1.5}
    running = Running(strategy(), deployments, mean_s, first=0.3, seed=3)
    running.poisson(busy / 0.3, CALLS)

    assert running.placed["c"] < 0.1 * CALLS


def test_spreads_evenly_over_deployments_alike() -> None:
    running = Running(strategy(), fleet(1, 1, 1), dict.fromkeys("abc", 0.1), first=0.3, seed=4)
    running.closed(30, CALLS)

    assert all(count == pytest.approx(CALLS / 3, rel=0.05) for count in running.placed.values())


def test_counts_what_runs_per_weight() -> None:
    heavy, light = deployments = fleet(3, 1)
    for expected in (heavy, heavy, None, light, light):  # none where both carry as much
        found = strategy().choose(deployments, 0.0, NO_FACTS)
        assert expected in (found, None)
        heavy.condition.enter(0.0)


def test_of_two_as_busy_the_faster_serves() -> None:
    one, other = deployments = fleet(1, 1)
    one.condition.first_token(0.15, 0.0)
    other.condition.first_token(0.1, 0.0)
    assert strategy().choose(deployments, 0.0, NO_FACTS) is other


def test_a_slow_one_serves_when_the_fast_one_is_three_times_as_busy() -> None:
    slow, fast = deployments = fleet(1, 1)
    slow.condition.first_token(0.5, 0.0)
    fast.condition.first_token(0.1, 0.0)
    for _ in range(2):
        assert strategy().choose(deployments, 0.0, NO_FACTS) is fast
        fast.condition.enter(0.0)
    fast.condition.enter(0.0)
    assert strategy().choose(deployments, 0.0, NO_FACTS) is slow


def test_draws_every_pair() -> None:
    deployments, chance = fleet(1, 1, 1, 1), strategy(7)
    deployments[0].condition.enter(0.0)
    drawn = {chance.choose(deployments, 0.0, NO_FACTS).upstream for _ in range(200)}
    assert drawn == {"b", "c", "d"}
