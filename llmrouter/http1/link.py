"""The link to one client, below its requests: is it there, does it read, and how it is parted from.

Half-close: a client that ends its sending side still gets its answer. Whether it is still there at
all shows only when something is written to it, so while nothing is, an interim response
(100, RFC 9110, 15.2) is sent every second: a vanished client answers it with a reset. The same goes
for one that pipelines: while nothing of it is read, neither is its end.

Parting: what was written leaves first. A client that may still be sending is lingered with (what it
sends is read and dropped), or a reset would cost it the answer. Each way has a deadline.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from llmrouter.http1.deadlines import NEVER
from llmrouter.http1.response import ResponseWriter

if TYPE_CHECKING:
    from llmrouter.http1.server import Server

LINGER_S = 5.0
"""How long a refused body is read and dropped, so that the answer is not lost in a reset."""
LINGER_BYTES = 64 * 1024 * 1024
PROBE_EVERY_S = 1.0
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Invites a body; and probes, as the one interim response that every client skips: some take 102
for the answer."""


class Link(ResponseWriter):
    """Watches the client of a connection, and ends it."""

    __slots__ = (
        "_dropped_bytes",
        "_half_closed",
        "_loop",
        "_probe",
        "_read_paused",
        "_unsent_bytes",
        "deadline",
    )

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        # for the process
        self._loop = server.loop
        # for the connection
        self._half_closed = False
        """The client will send no more."""
        self._read_paused = False
        self._unsent_bytes = 0
        """As of the last look at a client that reads slowly."""
        self._dropped_bytes = 0
        self._probe: asyncio.TimerHandle | None = None
        self.deadline = NEVER

    # ---- asyncio calls these ------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        if self._transport is not None:
            self._unsent_bytes = self._transport.get_write_buffer_size()
        if not self._lingering:
            self.deadline = self._loop.time() + self._server.settings.idle_s
        self._set_writable(False)

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._request is not None and not self._lingering:
            self.deadline = NEVER
        self._set_writable(True)

    # ---- whether it is there, and reads ---------------------------------------------------

    def _is_being_read(self) -> bool:
        """Less is unsent than at the last look: the client is slow, but it has not stalled."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        fewer = 0 < unsent < self._unsent_bytes
        self._unsent_bytes = unsent
        return fewer

    def _pause_reading(self) -> None:
        if not self._read_paused and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()
            self._probe_from_now_on()  # its end would not be read either

    def _resume_reading(self) -> None:
        if self._read_paused and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()

    def _probe_from_now_on(self) -> None:
        if self._probe is None:
            self._probe = self._loop.call_later(PROBE_EVERY_S, self._send_probe)

    def _send_probe(self) -> None:
        self._probe = None
        if self._transport is None or not (self._half_closed or self._read_paused):
            return
        request = self._request
        unheard = self._head != b"" and not self._responded
        if request is not None and unheard and request.minor_version == 1:
            self._transport.write(CONTINUE)
        self._probe_from_now_on()

    # ---- parting --------------------------------------------------------------------------

    def _linger(self) -> None:
        """Send what is unsent, then read on a while, so that the answer is not lost in a reset."""
        transport = self._transport
        assert transport is not None
        if self._half_closed or not transport.can_write_eof():
            self._close()
            return
        self._lingering = True
        self.deadline = self._loop.time() + LINGER_S
        self.write_out()
        transport.write_eof()
        self._resume_reading()

    def _drop(self, count: int) -> None:
        """So much came from a client that is lingered with."""
        self._dropped_bytes += count
        if self._dropped_bytes > LINGER_BYTES:
            self.abort()

    def _close(self) -> None:
        """Send what is unsent, then close; the deadline bounds how long that may take."""
        self._lingering = True
        self.deadline = self._loop.time() + self._server.settings.idle_s
        self.write_out()
        if self._transport is not None:
            self._transport.close()

    def _gone(self) -> None:
        """The connection is gone, whoever ended it."""
        self._transport = None
        self.deadline = NEVER
        if self._probe is not None:
            self._probe.cancel()
        self._set_writable(False)
