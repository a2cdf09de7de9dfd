"""Least-inflight: of two deployments drawn by lot, the one with less to carry.

The power of two choices: nearly as even as asking all, and many workers that each see only their
own calls do not all run to the same deployment. Attempts that run are counted per weight, with the
one to be placed. Numbers alone would send a slow deployment as many at a time as a fast one, and at
low load every call that finds the fast ones at work; so what a deployment carries counts threefold
beside one that begins its answers at least twice as soon.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts

_SLOW = 2.0
"""Times the other's latency; less may be chance."""
_HANDICAP = 3.0


class LeastInflight:
    """Sends a call where few run."""

    wants_facts: ClassVar[bool] = False

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        count = len(usable)
        if count == 1:
            return usable[0]
        one = int(self._random() * count)
        step = 1 + int(self._random() * (count - 1))
        return _lighter(usable[one], usable[(one + step) % count], now_s)


def _lighter(one: Deployment, other: Deployment, now_s: float) -> Deployment:
    ours, theirs = one.condition, other.condition
    our_latency, their_latency = ours.latency.now(now_s), theirs.latency.now(now_s)
    our_load = (ours.inflight + 1) / one.weight
    their_load = (theirs.inflight + 1) / other.weight
    if our_latency and their_latency:
        if our_latency >= _SLOW * their_latency:
            our_load *= _HANDICAP
        elif their_latency >= _SLOW * our_latency:
            their_load *= _HANDICAP
    return one if (our_load, our_latency) <= (their_load, their_latency) else other
