"""One clock for all processes of a node: Unix time that an operator cannot make stand still.

It runs on the monotonic clock, which all processes of a machine share, from where the wall clock
stood at the start; where the wall clock is ahead of that (it was corrected, or the machine slept),
that is followed, there and back. So limits do not stop while a clock that was set back catches up.

It remembers nothing, so that processes which look at different moments never disagree: what one has
spent would else lie in the past of another, and have drained. Buckets bear a step back.
"""

import time
from typing import Final

_NS_PER_MS: Final = 1_000_000


class SteadyClock:
    """Unix time in milliseconds."""

    __slots__ = ("_offset_ns", "offset_ms")

    def __init__(self, offset_ms: int | None = None) -> None:
        if offset_ms is None:
            offset_ms = time.time_ns() // _NS_PER_MS - time.monotonic_ns() // _NS_PER_MS
        self.offset_ms = offset_ms
        """From the monotonic clock to Unix time; what another process needs for the same clock."""
        self._offset_ns = offset_ms * _NS_PER_MS

    def __repr__(self) -> str:
        return f"<SteadyClock {self.now_ms()}>"

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        steady_ns = time.monotonic_ns() + self._offset_ns
        wall_ns = time.time_ns()
        return (wall_ns if wall_ns > steady_ns else steady_ns) // _NS_PER_MS
