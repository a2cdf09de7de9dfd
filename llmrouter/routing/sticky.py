"""Sticky: the calls that belong together go to one deployment, so that its prompt cache is warm.

Weighted rendezvous hashing: of what they share and the name of each deployment a lot is drawn, and
the deployment with the best one serves them. So all workers agree without a word, today and after a
restart; and when a deployment goes, only its own calls move, to where each drew its second best.

Lots are fair, but conversations are not alike: a deployment with more than its share of the latest
calls, by weight and with some room, passes calls on to the next in line until it is back within it.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import exp, log
from typing import ClassVar

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts, StickyBy

_SHARE_MAX = 1.2
"""Of the latest calls, times what its weight says."""
_ROOM = 8.0
"""Calls beyond that, so that few calls do not bounce: a lone agent's stay where they are."""
_TAU_S = 30.0
"""A call counts for 1/e after this long."""
_GROWN_MAX = 1e100
"""See `_Recent`; far from where numbers end, and 2 hours of `_TAU_S` away."""
_LOTS = 1 << 64


class Sticky:
    """Keeps a conversation, a key's or a user's calls together."""

    wants_facts: ClassVar[bool] = True

    def __init__(self, deployments: Sequence[Deployment], by: StickyBy) -> None:
        self._by = by
        self._factors = {
            id(deployment): _number(deployment.condition.name.encode()) | 1
            for deployment in deployments
        }
        self._recent = _Recent()

    def __copy__(self) -> "Sticky":
        other = Sticky((), self._by)
        other._factors = self._factors
        other._recent = self._recent.copy()
        return other

    def choose(self, usable: Sequence[Deployment], now_s: float, facts: Facts) -> Deployment:
        if len(usable) == 1:
            return usable[0]
        shared, factors = _number(self._shared(facts)), self._factors
        lots = [_lot(shared, factors[id(one)], one.weight) for one in usable]
        best = usable[lots.index(max(lots))]
        recent = self._recent
        recent.advance(now_s)
        if not recent.has_room(best, usable):
            for _, place in sorted(zip(lots, range(len(usable)), strict=True), reverse=True):
                best = usable[place]
                if recent.has_room(best, usable):
                    break
        recent.count(best)
        return best

    def _shared(self, facts: Facts) -> bytes:
        """What the calls have in common that stay together; a key's calls, failing all else."""
        if self._by is StickyBy.CONVERSATION and facts.conversation:
            return facts.conversation
        if self._by is StickyBy.USER and facts.user:
            return facts.user.encode()
        return facts.key_id.encode()


def _number(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def _lot(shared: int, factor: int, weight: int) -> float:
    """The highest wins: each deployment as often as its weight says (Schindelhauer, Schomaker).

    The product with an odd number of its own is as good as another hash, at a quarter of its cost.
    """
    return log((shared * factor % _LOTS + 1) / _LOTS) / weight


class _Recent:
    """Calls per deployment, each counting less as time goes by.

    Instead of all that was counted shrinking, what is counted grows: a call now is worth `_worth`
    times one at `_from_s`. Shares are the same, and a count is one addition.
    """

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._from_s = 0.0
        self._worth = 1.0

    def copy(self) -> "_Recent":
        """The same counts, which go on apart."""
        other = _Recent()
        other._counts = dict(self._counts)
        other._from_s, other._worth = self._from_s, self._worth
        return other

    def advance(self, now_s: float) -> None:
        """The time is `now_s`."""
        elapsed_s = now_s - self._from_s
        if elapsed_s > _TAU_S * log(_GROWN_MAX):
            left = exp(-elapsed_s / _TAU_S)
            self._counts = {which: count * left for which, count in self._counts.items()}
            self._from_s, elapsed_s = now_s, 0.0
        self._worth = exp(elapsed_s / _TAU_S)

    def has_room(self, deployment: Deployment, usable: Sequence[Deployment]) -> bool:
        """Whether one more call leaves it within its share of those to all that are usable."""
        counts = self._counts
        weights, total = 0, self._worth
        for one in usable:
            weights += one.weight
            total += counts.get(id(one), 0.0)
        most = _SHARE_MAX * total * deployment.weight / weights + _ROOM * self._worth
        return counts.get(id(deployment), 0.0) + self._worth <= most

    def count(self, deployment: Deployment) -> None:
        """A call goes to it."""
        self._counts[id(deployment)] = self._counts.get(id(deployment), 0.0) + self._worth
