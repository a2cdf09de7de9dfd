"""Deployments to choose from, and calls that run on them in a time of their own."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.strategy import Strategy


def fleet(*weights: int) -> list[Deployment]:
    """Deployments of these weights, at the upstreams a, b, c..."""
    return [
        Deployment(
            upstream=chr(97 + at),
            weight=weight,
            condition=Condition(f"{chr(97 + at)}/m", BreakerTerms(), now_s=0.0),
        )
        for at, weight in enumerate(weights)
    ]


class Running:
    """Calls that begin, have their first token and end; a strategy places each.

    `mean_s` is how long a deployment works on a call, by upstream; the first token comes after
    `first` of that.
    """

    def __init__(
        self,
        strategy: Strategy,
        deployments: Sequence[Deployment],
        mean_s: dict[str, float],
        *,
        first: float,
        seed: int,
    ) -> None:
        self._strategy = strategy
        self._deployments = deployments
        self._mean_s = mean_s
        self._first = first
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self.placed: Counter[str] = Counter()

    def closed(self, callers: int, calls: int) -> None:
        """So many callers, each with the next call when its last one ended."""
        left = iter(range(calls - callers))
        for _ in range(callers):
            self._begin(0.0, left)
        self._run()

    def poisson(self, per_s: float, calls: int) -> None:
        """Calls that come whenever they come, `per_s` in the mean."""
        at_s = 0.0
        for _ in range(calls):
            at_s += self._chance.expovariate(per_s)
            self._at(at_s, lambda now_s: self._begin(now_s, iter(())))
        self._run()

    def _begin(self, now_s: float, left: Iterator[int]) -> None:
        deployment = self._strategy.choose(self._deployments, now_s, NO_FACTS)
        self.placed[deployment.upstream] += 1
        condition = deployment.condition
        spell = condition.enter(now_s)
        takes_s = self._chance.expovariate(1 / self._mean_s[deployment.upstream])

        def end(at_s: float) -> None:
            condition.succeeded(at_s, spell)
            condition.leave()
            if next(left, None) is not None:
                self._begin(at_s, left)

        first_s = takes_s * self._first
        self._at(now_s + first_s, lambda at_s: condition.first_token(first_s, at_s))
        self._at(now_s + takes_s, end)

    def _at(self, at_s: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), happens))

    def _run(self) -> None:
        while self._events:
            at_s, _, happens = heapq.heappop(self._events)
            happens(at_s)
