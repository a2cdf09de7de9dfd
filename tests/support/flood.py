"""A flood of calls from a process of its own, so that it takes no time from who measures.

    python -m tests.support.flood HOST PORT SECONDS [PER_S] < a request as it goes over the wire

The request is sent again and again on a few connections: so many times a second, or as fast as
answers come, and then always many before the first is answered. How many answers had which status
is printed as JSON.
"""

import asyncio
import functools
import itertools
import re
import sys
from collections import Counter
from typing import cast

import msgspec
import uvloop

CONNECTIONS = 8
AT_ONCE = 16
"""Requests on their way on one connection; the server takes up to 128."""
STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)")
"""Of an answer; who pipelines is sent an interim 100 now and then, which is none."""
STATUS_BYTES = len(b"HTTP/1.1 429")
TURN_S = 0.001
"""How often what is due is sent, where it is said how many a second."""
DRAIN_S = 10.0


class Source(asyncio.Protocol):
    """One connection of a flood."""

    def __init__(self, message: bytes, *, goes_on: bool) -> None:
        self._message = message
        self._goes_on = goes_on
        """Each answer is followed by a request."""
        self._transport: asyncio.Transport
        self._tail = b""
        self._under_way = 0
        self._answered = asyncio.Event()
        self.statuses: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        if self._goes_on:
            self.send(AT_ONCE)

    def send(self, count: int) -> None:
        """Send so many more."""
        self._under_way += count
        self._transport.write(self._message * count)

    def data_received(self, data: bytes) -> None:
        """Count answers; what may be the first part of a status line is looked at again."""
        data = self._tail + data
        found = STATUS.findall(data)
        self._tail = data[-(STATUS_BYTES - 1) :]
        self.statuses.update(status.decode() for status in found)
        self._under_way -= len(found)
        if self._goes_on:
            self.send(len(found))
        elif not self._under_way:
            self._answered.set()

    async def end(self) -> None:
        """Send no more, and close when all was answered."""
        self._goes_on = False
        async with asyncio.timeout(DRAIN_S):
            while self._under_way:
                self._answered.clear()
                await self._answered.wait()
        self._transport.close()


async def _pace(sources: list[Source], per_s: float, seconds: float) -> None:
    """Send what is due, one after the other in turn; what comes too late is sent all the same."""
    loop = asyncio.get_running_loop()
    start_s, sent = loop.time(), 0
    turns = itertools.cycle(sources)
    while (passed_s := loop.time() - start_s) < seconds:
        for _ in range(int(passed_s * per_s) - sent):
            next(turns).send(1)
            sent += 1
        await asyncio.sleep(TURN_S)


async def _flood(
    host: str, port: int, seconds: float, message: bytes, per_s: float | None
) -> Counter[str]:
    loop = asyncio.get_running_loop()
    connects = functools.partial(Source, message, goes_on=per_s is None)
    sources = [(await loop.create_connection(connects, host, port))[1] for _ in range(CONNECTIONS)]
    if per_s is None:
        await asyncio.sleep(seconds)
    else:
        await _pace(sources, per_s, seconds)
    for source in sources:
        await source.end()
    return sum((source.statuses for source in sources), Counter())


def main() -> None:
    """Flood, then say what came back."""
    host, port, seconds, *more = sys.argv[1:]
    per_s = float(more[0]) if more else None
    message = sys.stdin.buffer.read()
    statuses = uvloop.run(_flood(host, int(port), float(seconds), message, per_s))
    print(msgspec.json.encode(statuses).decode())  # noqa: T201


if __name__ == "__main__":
    main()
