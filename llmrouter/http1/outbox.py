"""Of the whole answers of one turn of the loop the first leaves at once, the others at its end.

Each write wakes up whoever reads it, which costs as much as many a refusal. Of answers that leave
one by one, as they are made, each wakes a reader that has gone to sleep since the one before; of
those that leave in a row nearly all find readers awake. (Measured: a refused call costs 27 us
instead of 45, a served one 58 instead of 65.) Where little goes on each is the first, and does not
wait for the rest of its own call's work, which would be 40 us.
"""

import asyncio
from typing import Protocol

SHARED_BYTES_MAX = 65_536
"""A longer answer is written at once: it would only wait in memory."""


class Writer(Protocol):
    """Who holds an answer back."""

    def write_out(self) -> None:
        """Write it now, if it is still held back."""


class Outbox:
    """Those of one loop who hold something back."""

    __slots__ = ("_in_turn", "_loop", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._in_turn = False
        """Some answer was made in this turn."""
        self._writers: list[Writer] = []

    def __repr__(self) -> str:
        return f"<Outbox writers={len(self._writers)}>"

    def holds_back(self, writer: Writer) -> bool:
        """Have it write at the end of this turn; False: it is the first, and may write now."""
        if self._in_turn:
            self._writers.append(writer)
            return True
        self._in_turn = True
        self._loop.call_soon(self._write)
        return False

    def _write(self) -> None:
        self._in_turn = False
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_out()
