"""How long a deployment takes to its first token: a moving average that remembers peaks.

The peak EWMA of Finagle: one late answer raises it at once to what that answer took, and the ones
after it bring it down only with time. It falls while nothing is seen, too, so that a deployment
which was slow once and is left alone since is tried again some day; but more slowly, for each such
trial is a call that waits.
"""

import math
from typing import Final

_SEEN_TAU_S: Final = 10.0
"""In this time all but 1/e of the way to the present answers is gone..."""
_UNSEEN_TAU_S: Final = 60.0
"""... and without any, all but 1/e of the height."""


class Latency:
    """Seconds to the first token, as far as they count now."""

    __slots__ = ("_height_s", "_seen_at_s")

    def __init__(self) -> None:
        self._height_s = 0.0
        self._seen_at_s = 0.0

    def __repr__(self) -> str:
        return f"<Latency {self._height_s:.3f} s at {self._seen_at_s:.1f}>"

    def now(self, now_s: float) -> float:
        """Seconds; 0.0 while nothing is known."""
        if self._height_s == 0.0:
            return 0.0
        return self._height_s * math.exp((self._seen_at_s - now_s) / _UNSEEN_TAU_S)

    def saw(self, first_token_s: float, now_s: float) -> None:
        """An answer's first token came `first_token_s` after it was asked for."""
        kept = math.exp((self._seen_at_s - now_s) / _SEEN_TAU_S)
        fallen_s = kept * self._height_s + (1 - kept) * first_token_s
        self._height_s = max(first_token_s, fallen_s)
        self._seen_at_s = now_s
