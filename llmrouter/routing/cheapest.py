"""Cheapest: the deployment whose price for a typical call is lowest; unknown prices come last."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts

CostOf = Callable[[Deployment, str], int | None]
"""Nano-USD, for a deployment and a name that was asked for."""
_ASKED_MAX = 1024
"""Names whose costs are remembered: a pattern lets callers make up any number."""


class Cheapest:
    """Sends a call where it costs least; among equals, where fewest run."""

    wants_facts: ClassVar[bool] = True

    def __init__(self, cost: CostOf) -> None:
        self._cost = cost
        self._costs: dict[str, dict[int, float]] = {}
        """By the name asked for, and by deployment."""

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        if len(usable) == 1:
            return usable[0]
        costs = self._costs_of(facts.asked)
        found, least = usable[0], (math.inf, math.inf)
        for deployment in usable:
            known = costs.get(id(deployment))
            cost = self._learn(costs, deployment, facts.asked) if known is None else known
            if (cost, deployment.condition.inflight) < least:
                found, least = deployment, (cost, deployment.condition.inflight)
        return found

    def _costs_of(self, asked: str) -> dict[int, float]:
        costs = self._costs.get(asked)
        if costs is None:
            if len(self._costs) >= _ASKED_MAX:
                self._costs.clear()
            costs = self._costs[asked] = {}
        return costs

    def _learn(self, costs: dict[int, float], deployment: Deployment, asked: str) -> float:
        cost = self._cost(deployment, asked)
        costs[id(deployment)] = found = math.inf if cost is None else float(cost)
        return found
