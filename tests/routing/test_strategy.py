from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.strategy import STRATEGIES, Ordered, Strategy, Weighted

weights = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def deployments(*weights: int) -> list[Deployment]:
    return [Deployment(upstream=chr(97 + at), weight=weight) for at, weight in enumerate(weights)]


def chosen(strategy: Strategy, count: int) -> str:
    return "".join(strategy.choose().upstream for _ in range(count))


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((1,), "aaaa"),
        ((7,), "aaaa"),
        ((1, 1), "abab"),
        ((3, 1), "aabaaaba"),
        ((5, 1, 1), "aabacaa" * 2),
        ((2, 2), "abab"),
        ((1, 2, 3), "cbacbc"),
    ],
)
def test_weighted_mixes_smoothly(weights: tuple[int, ...], order: str) -> None:
    """FR-002: as nginx does it, never all of one and then all of the other."""
    assert chosen(Weighted(deployments(*weights)), len(order)) == order


@given(weights, st.integers(0, 100), st.integers(1, 3))
def test_shares_are_exact_over_any_rounds(weights: list[int], skipped: int, rounds: int) -> None:
    """FR-002: wherever counting begins."""
    strategy = Weighted(deployments(*weights))
    chosen(strategy, skipped)

    counts = Counter(chosen(strategy, rounds * sum(weights)))

    assert counts == {chr(97 + at): rounds * weight for at, weight in enumerate(weights)}


@given(weights)
def test_nobody_waits_for_twice_its_fair_gap(weights: list[int]) -> None:
    """With weight w of W it is due every W / w choices; whole numbers do not allow that exactly."""
    total = sum(weights)
    order = chosen(Weighted(deployments(*weights)), 3 * total)

    for at, weight in enumerate(weights):
        turns = [-1, *(place for place, name in enumerate(order) if name == chr(97 + at))]
        assert all((later - earlier) * weight < 2 * total for earlier, later in pairwise(turns))


def test_two_routes_do_not_share_their_turns() -> None:
    both = deployments(1, 1)
    first, second = Weighted(both), Weighted(both)

    assert chosen(first, 1) == chosen(second, 1) == "a"


def test_ordered_is_always_the_first() -> None:
    assert chosen(Ordered(deployments(1, 100)), 5) == "aaaaa"


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_serves_a_route_of_one(name: str) -> None:
    assert chosen(STRATEGIES[name](deployments(3)), 4) == "aaaa"
