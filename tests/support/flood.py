"""A flood of calls from a process of its own, so that it takes no time from who measures.

    python -m tests.support.flood HOST PORT SECONDS < a request as it goes over the wire

The request is sent again and again on a few connections, as fast as answers come, and always many
before the first is answered. How many answers had which status is printed as JSON.
"""

import asyncio
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
DRAIN_S = 10.0


class Source(asyncio.Protocol):
    """One connection of a flood."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._transport: asyncio.Transport
        self._tail = b""
        self._under_way = 0
        self._open = True
        """Each answer is followed by a request."""
        self._answered = asyncio.Event()
        self.statuses: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._send(AT_ONCE)

    def _send(self, count: int) -> None:
        self._under_way += count
        self._transport.write(self._message * count)

    def data_received(self, data: bytes) -> None:
        """Count answers; what may be the first part of a status line is looked at again."""
        data = self._tail + data
        found = STATUS.findall(data)
        self._tail = data[-(STATUS_BYTES - 1) :]
        self.statuses.update(status.decode() for status in found)
        self._under_way -= len(found)
        if self._open:
            self._send(len(found))
        elif not self._under_way:
            self._answered.set()

    async def end(self) -> None:
        """Send no more, and close when all was answered."""
        self._open = False
        async with asyncio.timeout(DRAIN_S):
            await self._answered.wait()
        self._transport.close()


async def _flood(host: str, port: int, seconds: float, message: bytes) -> Counter[str]:
    loop = asyncio.get_running_loop()
    sources = [
        (await loop.create_connection(lambda: Source(message), host, port))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(seconds)
    for source in sources:
        await source.end()
    return sum((source.statuses for source in sources), Counter())


def main() -> None:
    """Flood, then say what came back."""
    host, port, seconds = sys.argv[1:]
    statuses = uvloop.run(_flood(host, int(port), float(seconds), sys.stdin.buffer.read()))
    print(msgspec.json.encode(statuses).decode())  # noqa: T201


if __name__ == "__main__":
    main()
