"""An upstream that plays a script: a real server on a free port, in the loop of the test.

Each request takes the next play; the last one serves all that come after it. A play is a sequence
of steps: bytes are sent, anything else is a step below.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, TypeAlias

from tests.support.raw import chunked


class Drip(NamedTuple):
    """Send these bytes one by one, each in a packet of its own."""

    data: bytes


class Wait(NamedTuple):
    """Go on when this event is set."""

    event: asyncio.Event


class Cut(NamedTuple):
    """Close the connection, as one does at the end."""


class Reset(NamedTuple):
    """Reset the connection."""


class Stall(NamedTuple):
    """Do nothing more, and keep the connection."""


Step: TypeAlias = bytes | Drip | Wait | Cut | Reset | Stall
Play: TypeAlias = Sequence[Step]


class Seen(NamedTuple):
    """One request as the upstream saw it."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    connection: int
    """Which connection it came over, counted from 0."""


def answer(body: bytes, *, status: int = 200, headers: bytes = b"") -> bytes:
    """A sized response; `headers` are whole lines."""
    return b"HTTP/1.1 %d Said\r\n%bcontent-length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


def stream_head(*, headers: bytes = b"content-type: text/event-stream\r\n") -> bytes:
    """The head of a chunked response."""
    return b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % headers


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def stream(*pieces: bytes) -> bytes:
    """A whole chunked response."""
    return stream_head() + chunked(pieces)


class ScriptedUpstream:
    """What the upstream plays, and what it saw."""

    def __init__(self, plays: Sequence[Play]) -> None:
        self.plays = list(plays)
        self.seen: list[Seen] = []
        self.connections = 0
        """How many were ever made."""
        self.open = 0
        """How many stand now."""
        self.resets = 0
        """How many were ended by a reset of the other side."""
        self.address = ("", 0)
        self._playing: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def stop(self) -> None:
        """End every connection."""
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._playing.add(task)
        number = self.connections
        self.connections += 1
        self.open += 1
        try:
            await self._converse(reader, writer, number)
        except ConnectionResetError:
            self.resets += 1
        except (asyncio.IncompleteReadError, BrokenPipeError, asyncio.CancelledError):
            # The other side closed, or the test is over: either ends the conversation.
            pass
        finally:
            self.open -= 1
            self._playing.discard(task)
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            self.seen.append(await _read_request(reader, number))
            play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
            for step in play:
                if not await _play(step, reader, writer):
                    return


async def _play(step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Do one step; False if the connection has ended with it."""
    match step:
        case bytes():
            if writer.is_closing():  # uvloop raises no ConnectionError then
                raise ConnectionResetError
            writer.write(step)
            await writer.drain()
        case Drip(data):
            for at in range(len(data)):
                writer.write(data[at : at + 1])
                await asyncio.sleep(0)
        case Wait(event):
            await event.wait()
        case Stall():
            await reader.read()
            return False
        case Cut():
            writer.close()
            await writer.wait_closed()
            return False
        case Reset():
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
    return True


async def _read_request(reader: asyncio.StreamReader, number: int) -> Seen:
    lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    method, target, _ = lines[0].split(b" ")
    fields = [line.split(b":", 1) for line in lines[1:]]
    headers = {name.lower(): value.strip() for name, value in fields}
    body = b""
    if (length := headers.get(b"content-length")) is not None:
        body = await reader.readexactly(int(length))
    return Seen(method, target, headers, body, number)


@contextlib.asynccontextmanager
async def scripted(
    *plays: Play, tls: ssl.SSLContext | None = None, unix_path: str | None = None
) -> AsyncIterator[ScriptedUpstream]:
    """Run an upstream that plays these."""
    upstream = ScriptedUpstream(plays)
    if unix_path is not None:
        server = await asyncio.start_unix_server(upstream.serve, unix_path)
    else:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
        upstream.address = server.sockets[0].getsockname()
    try:
        yield upstream
    finally:
        server.close()
        await upstream.stop()
