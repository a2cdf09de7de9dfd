import msgspec
import pytest

from llmrouter.routing.cheapest import Cheapest
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS, Facts
from tests.support.fleet import fleet


class Prices:
    """Costs by upstream and name; counts how often it is asked."""

    def __init__(self, costs: dict[tuple[str, str], int]) -> None:
        self._costs = costs
        self.asked = 0

    def __call__(self, deployment: Deployment, asked: str) -> int | None:
        self.asked += 1
        return self._costs.get((deployment.upstream, asked))


def facts(asked: str) -> Facts:
    return msgspec.structs.replace(NO_FACTS, asked=asked)


@pytest.mark.parametrize(
    ("asked", "found"), [("small", "b"), ("large", "c"), ("priced at a alone", "a"), ("new", "a")]
)
def test_the_lowest_known_price_for_what_was_asked_serves(asked: str, found: str) -> None:
    prices = Prices(
        {
            ("a", "small"): 30,
            ("b", "small"): 10,
            ("a", "large"): 400,
            ("b", "large"): 300,
            ("c", "large"): 200,
            ("a", "priced at a alone"): 10**15,
        }
    )
    assert Cheapest(prices).choose(fleet(1, 1, 1), 0.0, facts(asked)).upstream == found


def test_a_free_one_is_cheaper_than_any_other() -> None:
    prices = Prices({("a", "m"): 1, ("b", "m"): 0})
    assert Cheapest(prices).choose(fleet(1, 1), 0.0, facts("m")).upstream == "b"


def test_the_next_cheapest_serves_while_one_is_out() -> None:
    strategy = Cheapest(Prices({("a", "m"): 1, ("b", "m"): 3, ("c", "m"): 2}))
    deployments = fleet(1, 1, 1)
    assert strategy.choose(deployments, 0.0, facts("m")).upstream == "a"
    assert strategy.choose(deployments[1:], 0.0, facts("m")).upstream == "c"


def test_among_equals_the_one_with_the_fewest_calls_serves() -> None:
    one, other, dear = deployments = fleet(1, 1, 1)
    strategy = Cheapest(Prices({("a", "m"): 1, ("b", "m"): 1, ("c", "m"): 2}))
    one.condition.enter(0.0)
    assert strategy.choose(deployments, 0.0, facts("m")) is other
    other.condition.enter(0.0)
    other.condition.enter(0.0)
    assert strategy.choose(deployments, 0.0, facts("m")) is one
    assert dear.condition.inflight == 0


def test_asks_for_a_price_once_but_remembers_no_more_than_so_many_names() -> None:
    prices, deployments = Prices({}), fleet(1, 1)
    strategy = Cheapest(prices)
    for _ in range(10):
        strategy.choose(deployments, 0.0, facts("m"))
    assert prices.asked == 2

    for number in range(1024):
        strategy.choose(deployments, 0.0, facts(f"made up {number}"))
    strategy.choose(deployments, 0.0, facts("m"))
    assert prices.asked == 2 + 2 * 1024 + 2
