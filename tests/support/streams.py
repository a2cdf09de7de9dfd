"""Clients that leave in the middle, and an upstream that outlives the daemon before it."""

import asyncio
import contextlib
import http.client
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, cast

import msgspec

from tests.support.daemon import Daemon, Settings

PATIENCE_S = 60.0
_ABORTING = struct.pack("ii", 1, 0)
PRICES: dict[str, dict[str, float]] = {
    "demo": {"input": 2.5, "cached_input": 1.25, "output": 10.0},
    "demo-*": {"input": 0.333333, "output": 1.777777},
}
"""USD per million tokens; odd ones, so that every call is rounded."""
NEVER_OPEN = {"failures": 1_000, "error_rate": 1}
"""A breaker that leaves every call its attempts, however many fail."""


class Upstream:
    """The demo as a process of its own, on a TCP port that the system chose."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    def settings(self, **more: Any) -> Settings:
        """What serves it, with prices."""
        url = f"http://127.0.0.1:{self.port}/v1"
        models = {
            "demo": {"deployments": [{"upstream": "far", "model": "demo"}]},
            "demo-*": {"deployments": [{"upstream": "far"}]},
        }
        return {
            # Left at once where its client leaves: what stalls would hold its place for seconds.
            "upstreams": {"far": {"url": url, "drain_after_disconnect": {"seconds": 0}}},
            "models": {name: {**model, "price": PRICES[name]} for name, model in models.items()},
            **more,
        }

    def counters(self) -> dict[str, Any]:
        """What it has counted."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/demo/counters")
            return cast("dict[str, Any]", msgspec.json.decode(connection.getresponse().read()))


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    """Run the demo until the `with` ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as listener:
        port = listener.getsockname()[1]
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "llmrouter.daemon.demo", str(fd)],
            stdin=subprocess.PIPE,
            pass_fds=[fd],
            start_new_session=True,
        )
    with process:
        try:
            yield Upstream(process, port)
        finally:
            process.kill()


class Stream:
    """One streamed call, read event by event, which may be left at any of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = b""
        self.status = 0
        self.request_id = ""
        self.events = 0
        """Whole events that have come, the end marker among them."""

    @classmethod
    async def send(cls, daemon: Daemon, message: bytes) -> "Stream":
        """Connect and send the request; nothing is read yet."""
        reader, writer = await asyncio.open_connection(daemon.host, daemon.port)
        writer.write(message)
        return cls(reader, writer)

    async def begin(self) -> int:
        """Read the head: the status."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        found = head.lower().partition(b"x-request-id: ")[2]
        self.request_id = found.partition(b"\r\n")[0].decode()
        return self.status

    async def read(self, events: int) -> int:
        """Read until so many events have come, or the end; how many have."""
        async with asyncio.timeout(PATIENCE_S):
            while self.events < events:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                piece = (await self._reader.readexactly(size + 2))[:-2]
                if not size:
                    break
                self.events += (self._unread + piece).count(b"\n\n")
                self._unread = piece[-1:] if not piece.endswith(b"\n\n") else b""
        return self.events

    def leave(self, *, reset: bool) -> None:
        """Close as an ordinary client does, or with a reset as one that was killed."""
        if self._writer.is_closing():
            return
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def begun(daemon: Daemon, messages: Iterable[bytes]) -> AsyncIterator[list[Stream]]:
    """Streams that have begun, one for each message; who is left in the end leaves."""
    streams = [await Stream.send(daemon, message) for message in messages]
    try:
        for stream in streams:
            status = await stream.begin()
            assert status == 200, f"a stream was refused with {status}"
        yield streams
    finally:
        for stream in streams:
            stream.leave(reset=True)
