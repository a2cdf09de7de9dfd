"""One timer for all connections of a loop: each has a deadline, and a sweep finds those past it.

Moving a deadline is an attribute write, so arming it anew for every event of a stream costs next to
nothing; the price is that a deadline fires up to one sweep late. The timer stops while nothing is
watched. Invariant: nothing here awaits.
"""

import asyncio
from typing import Final, Protocol

NEVER: Final = float("inf")


class Watched(Protocol):
    """Something with a deadline on the loop's clock, in seconds."""

    deadline: float

    def expired(self, now: float) -> None:
        """The deadline has passed; called at every sweep until it is moved or forgotten."""


class Deadlines:
    """Everything of one kind that may time out on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every_s: float) -> None:
        self._loop = loop
        self._every_s = every_s
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, item: Watched) -> None:
        """Sweep over `item` from now on."""
        self._watched.add(item)
        self._start()

    def forget(self, item: Watched) -> None:
        """Stop sweeping over `item`; harmless if it was not watched."""
        self._watched.discard(item)

    def close(self) -> None:
        """Stop the timer and forget everything."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for item in [item for item in self._watched if item.deadline <= now]:
            if item in self._watched:  # another one's end may have been its own
                item.expired(now)
        if self._watched:
            self._start()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._every_s, self._sweep)
