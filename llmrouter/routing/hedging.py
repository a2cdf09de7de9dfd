"""When a first token is late enough for a second attempt: after a fixed time, or after the p95.

The p95 is learned from the latest first attempts. One that lost to its second attempt was cut off,
and what it would have taken is not known; it counts with the time it was given, which is more than
the delay then was, so it stays among the late ones. Were many late, each second attempt would so
push the delay out a little further: hence it is never more than a few medians.
"""

import math
from collections import deque
from typing import Literal

_KEPT = 256
"""First attempts the percentile is of."""
_KEPT_MIN = 20
"""With fewer than these there is nothing to say of one in twenty."""
_EVERY = 16
"""Observations between two looks at the percentile: sorting for each would cost more than it is
worth."""
_SHARE = 0.95
_MEDIANS_MAX = 4.0


class HedgeDelay:
    """How long a route's first attempts may be without a token before a second is made."""

    __slots__ = ("_delay_s", "_learns", "_taken", "_unseen")

    def __init__(self, after: float | Literal["p95"]) -> None:
        """`after` is in seconds, or says that the delay is to be learned."""
        self._learns = after == "p95"
        self._delay_s = None if isinstance(after, str) else after
        self._taken: deque[float] = deque(maxlen=_KEPT)
        self._unseen = _EVERY - _KEPT_MIN
        """Observations since the percentile was looked at; at first, none is due before all of
        `_KEPT_MIN`."""

    def __repr__(self) -> str:
        return f"<HedgeDelay {self._delay_s} of={len(self._taken)}>"

    def delay_s(self) -> float | None:
        """Seconds; None while too little is known."""
        return self._delay_s

    def observed(self, first_s: float) -> None:
        """A first attempt had its first token after `first_s`."""
        if not self._learns:
            return
        self._taken.append(first_s)
        self._unseen += 1
        if self._unseen >= _EVERY:
            self._unseen = 0
            self._delay_s = _late_from(sorted(self._taken))

    def late(self, elapsed_s: float) -> None:
        """A first attempt was cut off after `elapsed_s`, without a token: its second was first."""
        self.observed(elapsed_s)


def _late_from(ordered: list[float]) -> float:
    median = ordered[len(ordered) // 2]
    return min(ordered[math.ceil(_SHARE * len(ordered)) - 1], _MEDIANS_MAX * median)
