import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.weighted import Weighted
from tests.support.fleet import fleet

weights = st.lists(st.integers(1, 20), min_size=1, max_size=6)
CALLS = 20_000


def chosen(strategy: Weighted, usable: Sequence[Deployment], count: int) -> str:
    return "".join(strategy.choose(usable, 0.0, NO_FACTS).upstream for _ in range(count))


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
def test_mixes_smoothly(weights: tuple[int, ...], order: str) -> None:
    """FR-002: as nginx does it, never all of one and then all of the other."""
    deployments = fleet(*weights)
    assert chosen(Weighted(deployments), deployments, len(order)) == order


@given(weights, st.integers(0, 100), st.integers(1, 3))
def test_shares_are_exact_over_any_rounds(weights: list[int], skipped: int, rounds: int) -> None:
    """FR-002: wherever counting begins."""
    deployments = fleet(*weights)
    strategy = Weighted(deployments)
    chosen(strategy, deployments, skipped)

    counts = Counter(chosen(strategy, deployments, rounds * sum(weights)))

    assert counts == {chr(97 + at): rounds * weight for at, weight in enumerate(weights)}


@given(weights)
def test_nobody_waits_for_twice_its_fair_gap(weights: list[int]) -> None:
    """With weight w of W it is due every W / w choices; whole numbers do not allow that exactly."""
    total, deployments = sum(weights), fleet(*weights)
    order = chosen(Weighted(deployments), deployments, 3 * total)

    for at, weight in enumerate(weights):
        turns = [-1, *(place for place, name in enumerate(order) if name == chr(97 + at))]
        assert all((later - earlier) * weight < 2 * total for earlier, later in pairwise(turns))


def test_two_routes_do_not_share_their_turns() -> None:
    both = fleet(1, 1)
    first, second = Weighted(both), Weighted(both)

    assert chosen(first, both, 1) == chosen(second, both, 1) == "a"


def test_shares_are_within_one_percent_while_one_is_out_and_when_it_is_back() -> None:
    deployments = fleet(6, 3, 1)
    strategy = Weighted(deployments)

    assert shares(chosen(strategy, deployments, CALLS)) == near(a=0.6, b=0.3, c=0.1)
    assert shares(chosen(strategy, deployments[1:], CALLS)) == near(b=0.75, c=0.25)
    back = chosen(strategy, deployments, CALLS)
    assert shares(back) == near(a=0.6, b=0.3, c=0.1)
    assert not back.startswith("aaa")  # no burst


def test_shares_are_within_one_percent_of_what_one_that_flaps_leaves() -> None:
    deployments, chance = fleet(6, 3, 1), random.Random(5)
    strategy, order = Weighted(deployments), ""
    out = ""
    for _ in range(CALLS // 10):
        is_out = chance.random() < 0.5
        ten = chosen(strategy, deployments[1:] if is_out else deployments, 10)
        order, out = (order, out + ten) if is_out else (order + ten, out)

    assert shares(order) == near(a=0.6, b=0.3, c=0.1)
    assert shares(out) == near(b=0.75, c=0.25)


@given(weights, st.randoms(use_true_random=False))
def test_nothing_is_owed_however_those_that_are_usable_change(
    weights: list[int], chance: random.Random
) -> None:
    """What one gets while all are usable stays within a round of its share."""
    deployments = fleet(*weights)
    strategy = Weighted(deployments)
    for _ in range(50):
        some = [one for one in deployments if chance.random() < 0.6] or deployments
        strategy.choose(some, 0.0, NO_FACTS)

    counts = Counter(chosen(strategy, deployments, 3 * sum(weights)))
    for at, weight in enumerate(weights):
        assert abs(counts[chr(97 + at)] - 3 * weight) <= sum(weights)


def shares(order: str) -> dict[str, float]:
    return {name: count / len(order) for name, count in Counter(order).items()}


def near(**expected: float) -> object:
    return pytest.approx(expected, abs=0.01)
