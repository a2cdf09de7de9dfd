"""Strategies: which of a route's deployments serves the next call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from llmrouter.routing.deployment import Deployment


class Strategy(Protocol):
    """Chooses among the deployments of one route."""

    def choose(self) -> Deployment:
        """The deployment for the next call."""


class Ordered:
    """Always the first: the others are there for when it cannot be used."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self._first = deployments[0]

    def choose(self) -> Deployment:
        return self._first


class Weighted:
    """Smooth weighted round robin, as nginx does it: shares are exact over one round.

    At each choice every deployment gains its weight, the richest is chosen and pays the sum of all
    weights; so with weights 3 and 1 the order is a a b a, never a a a b.
    """

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self._deployments = tuple(deployments)
        self._sum = sum(deployment.weight for deployment in deployments)
        self._gained = [0] * len(deployments)

    def choose(self) -> Deployment:
        if len(self._deployments) == 1:
            return self._deployments[0]
        gained = self._gained
        for index, deployment in enumerate(self._deployments):
            gained[index] += deployment.weight
        richest = gained.index(max(gained))
        gained[richest] -= self._sum
        return self._deployments[richest]


STRATEGIES: Mapping[str, Callable[[Sequence[Deployment]], Strategy]] = {
    "weighted": Weighted,
    "ordered": Ordered,
}
"""By the name that router.toml knows them by."""

_: tuple[type[Strategy], ...] = (Ordered, Weighted)
