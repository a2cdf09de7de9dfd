"""Fastest: the deployment that should begin its answer first.

That is, the least product of its latency and the attempts it would have at once; so a fast one is
not run over before its answers show that it has slowed down. One whose latency is not known gets a
single call to learn it, and no more until that is answered.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts


class Fastest:
    """Sends a call where its first token should come soonest."""

    wants_facts: ClassVar[bool] = False

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        if len(usable) == 1:
            return usable[0]
        found, least = usable[0], (math.inf, math.inf)
        for deployment in usable:
            wait = _wait(deployment, now_s)
            if wait < least:
                found, least = deployment, wait
        return found


def _wait(deployment: Deployment, now_s: float) -> tuple[float, float]:
    """How long a first token should take, in no unit; and what decides between two alike."""
    condition = deployment.condition
    inflight = condition.inflight
    latency_s = condition.latency.now(now_s)
    if latency_s:
        return latency_s * (inflight + 1), inflight
    return (math.inf if inflight else 0.0), inflight
