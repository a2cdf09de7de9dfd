"""Weighted: smooth weighted round robin, as nginx does it; shares are exact over one round.

At each choice every deployment gains its weight, the richest is chosen and pays what all gained;
so with weights 3 and 1 the order is a a b a, never a a a b. Only those that are usable gain, and
one of them pays it all: what the others gained before they were out stays as it is, less than one
round's worth. So the shares of those that are left keep their proportion, and one that returns is
owed nothing for the time it was away.
"""

from collections.abc import Sequence
from operator import add
from typing import ClassVar

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts


class Weighted:
    """Spreads calls in proportion to weights."""

    wants_facts: ClassVar[bool] = False

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self._weights = [deployment.weight for deployment in deployments]
        self._sum = sum(self._weights)
        self._gained = [0] * len(deployments)
        self._places = {id(deployment): place for place, deployment in enumerate(deployments)}

    def __copy__(self) -> "Weighted":
        other = Weighted(())
        other._weights, other._sum, other._places = self._weights, self._sum, self._places
        other._gained = list(self._gained)
        return other

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        if len(usable) == 1:
            return usable[0]
        if len(usable) < len(self._gained):
            return self._choose_of_some(usable)
        gained = list(map(add, self._gained, self._weights))
        richest = gained.index(max(gained))
        gained[richest] -= self._sum
        self._gained = gained
        return usable[richest]

    def _choose_of_some(self, usable: Sequence[Deployment]) -> Deployment:
        gained, weights = self._gained, self._weights
        places = [self._places[id(deployment)] for deployment in usable]
        for place in places:
            gained[place] += weights[place]
        richest = max(places, key=gained.__getitem__)
        gained[richest] -= sum(weights[place] for place in places)
        return usable[places.index(richest)]
