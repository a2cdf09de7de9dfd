"""Strategies: which of a route's deployments serves the next attempt.

A strategy is given those that are usable, in the route's order and never none. It belongs to one
route, and keeps what it must remember between choices.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import msgspec

from llmrouter.routing.cheapest import Cheapest, CostOf
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS, Facts, StickyBy
from llmrouter.routing.fastest import Fastest
from llmrouter.routing.inflight import LeastInflight
from llmrouter.routing.sticky import Sticky
from llmrouter.routing.weighted import Weighted

__all__ = [
    "NO_FACTS",
    "STRATEGIES",
    "Facts",
    "Ordered",
    "StickyBy",
    "Strategy",
    "StrategyTerms",
    "Weighted",
    "in_order",
]


class Strategy(Protocol):
    """Chooses among the deployments of one route."""

    wants_facts: ClassVar[bool]
    """Whether it looks at the call; if not, it may be given `NO_FACTS`."""

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        """The deployment for the next attempt; `now_s` is monotonic."""


def in_order(
    strategy: Strategy, usable: Sequence[Deployment], now_s: float, facts: Facts
) -> list[Deployment]:
    """The order in which it would choose, each once, if each failed; it is asked on a copy.

    So nobody's next choice is another for it, but where it is by lot: that is drawn anew each time.
    """
    rehearsed, left = copy.copy(strategy), list(usable)
    chosen = []
    while left:
        deployment = rehearsed.choose(left, now_s, facts)
        chosen.append(deployment)
        left = [one for one in left if one is not deployment]
    return chosen


class StrategyTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What strategies need besides the deployments."""

    cost: CostOf
    """Of a typical call to a deployment that asked for a name; None if its price is not known."""
    random: Callable[[], float]
    """From 0 up to, but not, 1."""
    sticky_by: StickyBy = StickyBy.CONVERSATION


class Ordered:
    """Always the first: the others are there for when it cannot be used."""

    wants_facts: ClassVar[bool] = False

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        """The order is that in which they are given to be chosen from."""

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        return usable[0]


STRATEGIES: Mapping[str, Callable[[Sequence[Deployment], StrategyTerms], Strategy]] = {
    "weighted": lambda deployments, _: Weighted(deployments),
    "ordered": lambda deployments, _: Ordered(deployments),
    "least-inflight": lambda _, terms: LeastInflight(terms.random),
    "fastest": lambda _, __: Fastest(),
    "cheapest": lambda _, terms: Cheapest(terms.cost),
    "sticky": lambda deployments, terms: Sticky(deployments, terms.sticky_by),
}
"""By the name that router.toml knows them by."""
