"""Sends pieces at a pace, and no faster than they are read: timers of the loop, not a task each.

Invariant: nothing is produced while the client does not read, and nothing but the end wakes the
task that waits for it.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

BATCH = 64
"""Pieces that leave in one write where no pace is asked for; then the loop gets its turn."""


class Connection(Protocol):
    """Where pieces go."""

    def send(self, data: bytes) -> None:
        """Pass them on; never waits."""

    def on_writable(self, listener: Callable[[bool], None] | None) -> None:
        """Tell `listener` when the client stops (False) or resumes (True) taking bytes."""


class Delivery:
    """Everything of one answer that comes in pieces; calls `at_end` right behind the last."""

    __slots__ = (
        "_at_end",
        "_batch",
        "_connection",
        "_due_s",
        "_ended",
        "_gap_s",
        "_loop",
        "_pieces",
        "_timer",
        "_writable",
    )

    def __init__(
        self,
        connection: Connection,
        pieces: Iterator[bytes],
        at_end: Callable[[], None],
        *,
        gap_s: float,
        batch: int = BATCH,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._connection = connection
        self._pieces = pieces
        self._at_end = at_end
        self._gap_s = gap_s
        self._batch = 1 if gap_s else batch
        self._due_s = loop.time()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.Handle | None = None
        self._writable = True

    async def run(self) -> None:
        """Send everything; may be cancelled at any moment."""
        self._connection.on_writable(self._readable_or_not)
        try:
            if self._writable:
                self._turn()
            await self._ended
        finally:
            self._connection.on_writable(None)
            self._stop()

    def _turn(self) -> None:
        self._timer = None
        pieces = list(islice(self._pieces, self._batch))
        if pieces:
            self._connection.send(b"".join(pieces))
        if len(pieces) < self._batch:
            self._end()
        elif self._writable:
            self._arm()

    def _end(self) -> None:
        if not self._ended.done():  # else the task is cancelled, and has not woken yet
            self._at_end()
            self._ended.set_result(None)

    def _arm(self) -> None:
        if not self._gap_s:
            self._timer = self._loop.call_soon(self._turn)
            return
        # From when it was due, not from now: a busy loop does not stretch the pace.
        self._due_s = max(self._due_s + self._gap_s, self._loop.time())
        self._timer = self._loop.call_at(self._due_s, self._turn)

    def _readable_or_not(self, writable: bool) -> None:
        self._writable = writable
        if not writable:
            self._stop()
        elif self._timer is None and not self._ended.done():
            self._arm()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
