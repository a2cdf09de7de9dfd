"""The whole answers of one turn of the loop leave together, at its end.

Each write wakes up whoever reads it, which costs as much as many a refusal. Of answers that leave
one by one, as they are made, each wakes a reader that has gone to sleep since the one before; of
those that leave in a row nearly all find readers awake. (Measured: a refused call costs 27 us
instead of 45, a served one 58 instead of 65.) Where answers come one in a turn each leaves at once:
it would gain nothing, and wait 40 us for the rest of its own call's work.
"""

import asyncio
from typing import Final, Protocol

SHARED_BYTES_MAX: Final = 65_536
"""A longer answer is written at once: it would only wait in memory."""


class Writer(Protocol):
    """Who holds an answer back."""

    def write_out(self) -> None:
        """Write it now, if it is still held back."""


class Outbox:
    """Those of one loop who hold something back."""

    __slots__ = ("_crowded", "_loop", "_made", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._made = 0
        """Answers of this turn."""
        self._crowded = False
        """There was more than one in the turn before that had any."""
        self._writers: list[Writer] = []

    def __repr__(self) -> str:
        return f"<Outbox writers={len(self._writers)}>"

    def holds_back(self, writer: Writer) -> bool:
        """Have it write at the end of this turn; False: it seems to be alone, and may write now."""
        if not self._made:
            self._loop.call_soon(self._write)
        self._made += 1
        if self._made == 1 and not self._crowded:
            return False
        self._writers.append(writer)
        return True

    def _write(self) -> None:
        self._crowded = self._made > 1
        self._made = 0
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_out()
