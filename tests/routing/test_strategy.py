import random

import pytest

from llmrouter.routing.facts import NO_FACTS, Facts
from llmrouter.routing.strategy import STRATEGIES, Ordered, Strategy, StrategyTerms, in_order
from tests.support.fleet import fleet

TERMS = StrategyTerms(cost=lambda deployment, asked: None, random=random.Random(1).random)


def made(name: str, *weights: int) -> Strategy:
    return STRATEGIES[name](fleet(*weights), TERMS)


def test_every_strategy_of_the_configuration_is_there() -> None:
    assert set(STRATEGIES) == {
        "weighted",
        "ordered",
        "least-inflight",
        "fastest",
        "cheapest",
        "sticky",
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_serves_a_route_of_one(name: str) -> None:
    only = fleet(3)
    strategy = STRATEGIES[name](only, TERMS)
    assert all(strategy.choose(only, float(now_s), NO_FACTS) is only[0] for now_s in range(4))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_chooses_among_those_that_are_usable(name: str) -> None:
    deployments, chance = fleet(3, 1, 2, 1), random.Random(2)
    strategy = STRATEGIES[name](deployments, TERMS)
    for now_s in range(500):
        usable = [one for one in deployments if chance.random() < 0.5] or deployments
        assert strategy.choose(usable, float(now_s), NO_FACTS) in usable


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_stand_over_no_deployment_at_all(name: str) -> None:
    """A route of which required tags leave nothing."""
    assert isinstance(made(name).wants_facts, bool)


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_those_that_look_at_the_call_ask_for_its_facts(name: str) -> None:
    assert made(name, 1, 1).wants_facts is (name in {"cheapest", "sticky"})


def test_ordered_is_the_first_that_is_usable() -> None:
    deployments = fleet(1, 100, 1)
    strategy = Ordered(deployments)
    assert strategy.choose(deployments, 0.0, NO_FACTS) is deployments[0]
    assert strategy.choose(deployments[1:], 0.0, NO_FACTS) is deployments[1]


# ---- asked what it would do ---------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_order_has_each_usable_deployment_once(name: str) -> None:
    deployments = fleet(3, 1, 2)
    strategy = STRATEGIES[name](deployments, TERMS)

    found = in_order(strategy, deployments[1:], 0.0, NO_FACTS)

    assert sorted(one.upstream for one in found) == ["b", "c"]
    assert in_order(strategy, [], 0.0, NO_FACTS) == []


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "least-inflight"])
def test_the_order_begins_with_the_next_choice_and_does_not_change_it(name: str) -> None:
    """Whatever is usable meanwhile; what is drawn by lot is drawn anew each time."""
    deployments, chance = fleet(5, 1, 3, 2), random.Random(3)
    asked, unasked = (STRATEGIES[name](deployments, TERMS) for _ in range(2))
    for now_s in range(300):
        usable = [one for one in deployments if chance.random() < 0.7] or deployments
        facts = Facts("m", f"key-{chance.randrange(9)}", None, b"")
        first = in_order(asked, usable, float(now_s), facts)[0]
        chosen = asked.choose(usable, float(now_s), facts)
        assert chosen is first
        assert chosen is unasked.choose(usable, float(now_s), facts)
