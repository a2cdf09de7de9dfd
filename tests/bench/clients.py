"""Clients that take little time themselves: each makes one call after another on one connection."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import cast

PATIENCE_S = 60.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_CHUNK_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Made:
    """What came of some calls."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.whole = 0
        """Answers that had what stands at the end of one."""
        self.events = 0

    @property
    def calls(self) -> int:
        """How many were answered."""
        return self.statuses.total()


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._message = b""
        self._stop_at = 0.0
        self._made = Made()
        # for the answer that comes
        self._pieces: list[bytes] = []
        self._left: int | None = None
        """Bytes that are still to come; None where its end tells that, or its head has not come."""
        self._chunked = False

    async def call(self, message: bytes, stop_at: float, made: Made) -> None:
        """Send `message` again and again, the last time before `stop_at`, but once at least."""
        self._message, self._stop_at, self._made = message, stop_at, made
        self._done = self._loop.create_future()
        self._send()
        await self._done

    def close(self) -> None:
        """End the connection."""
        self._done = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if self._left is not None:
            self._left -= len(data)
        elif not self._chunked:
            self._read_head()
        if self._left == 0 or (self._chunked and self._ends_with(_LAST_CHUNK)):
            self._answered()

    def _send(self) -> None:
        self._pieces, self._left, self._chunked = [], None, False
        assert self._transport is not None
        self._transport.write(self._message)

    def _read_head(self) -> None:
        came = b"".join(self._pieces)
        head, end, body = came.partition(_HEAD_END)
        if not end:
            return
        length = _LENGTH.search(head)
        self._chunked = length is None
        if length is not None:
            self._left = int(length[1]) - len(body)

    def _ends_with(self, tail: bytes) -> bool:
        last = self._pieces[-1]
        if len(last) < len(tail):
            last = b"".join(self._pieces[-len(tail) :])
        return last.endswith(tail)

    def _answered(self) -> None:
        came = b"".join(self._pieces)
        made = self._made
        made.statuses[int(came.split(b" ", 2)[1])] += 1
        if self._chunked:
            made.events += _CHUNK_BORDER.sub(b"", came).count(b"\n\n")
            made.whole += b"data: [DONE]\n\n" in came
        else:
            made.whole += b'"usage"' in came and came.endswith(b"}")
        if self._loop.time() < self._stop_at:
            self._send()
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


@contextlib.asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[Client]]:
    """So many connections to a port of this machine, while the `async with` lasts."""
    loop = asyncio.get_running_loop()
    connected: list[Client] = []
    with contextlib.ExitStack() as closing:
        for _ in range(count):
            _, client = await loop.create_connection(Client, "127.0.0.1", port)
            closing.callback(client.close)
            connected.append(client)
        yield connected


async def load(
    callers: Sequence[Client], message: bytes, *, seconds: float, apart_s: float = 0.0
) -> Made:
    """Have all call for so long, or once if that is 0; they begin within `apart_s`, one by one."""
    made = Made()
    loop = asyncio.get_running_loop()
    stop_at = loop.time() + seconds

    async def begin(number: int, client: Client) -> None:
        await asyncio.sleep(apart_s * number / len(callers))
        await client.call(message, stop_at, made)

    async with asyncio.timeout(seconds + PATIENCE_S), asyncio.TaskGroup() as group:
        for number, client in enumerate(callers):
            group.create_task(begin(number, client))
    return made
