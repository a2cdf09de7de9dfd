"""Load from the test's own loop: many connections that each make one call after another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from tests.support.daemon import Daemon

PATIENCE_S = 60.0
READ_BYTES = 65_536


def request(key: str, call: dict[str, object], path: str = "/v1/chat/completions") -> bytes:
    """One call as it goes over the wire."""
    body = msgspec.json.encode(call)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Line:
    """One connection to the daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, daemon: Daemon) -> "Line":
        """Connect."""
        return cls(*await asyncio.open_connection(daemon.host, daemon.port))

    async def call(self, message: bytes) -> tuple[int, bytes]:
        """Send a request; its status and its whole body, the framing taken off.

        Raises ConnectionError or IncompleteReadError if the connection ends before the answer.
        """
        self._writer.write(message)
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            if b"transfer-encoding: chunked" in head:
                return status, b"".join([piece async for piece in self._chunks()])
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return status, await self._reader.readexactly(length)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (size := int(await self._reader.readuntil(b"\r\n"), 16)) > 0:
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    async def close(self) -> None:
        """Close it, whatever state it is in."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def texts(stream: bytes) -> list[str]:
    """The deltas of a streamed chat, in order; asserts that it ended as one must."""
    events = [event for event in stream.split(b"\n\n") if event]
    assert events[-1] == b"data: [DONE]", events[-1]
    found: list[str] = []
    for event in events[:-1]:
        for choice in msgspec.json.decode(event.removeprefix(b"data: "))["choices"]:
            found += [text] if (text := choice["delta"].get("content")) else []
    return found
