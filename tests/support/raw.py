"""A client of bare sockets: it sends what it is told, and says how a connection really ended."""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from tests.support.waiting import PATIENCE_S

READ_BYTES = 65_536


class Ending(enum.Enum):
    """How the peer ended a connection."""

    CLOSED = "closed"
    RESET = "reset"


class Response(NamedTuple):
    """One response as it came over the wire."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool = True
    """False if the connection ended before the response did."""


class RawClient:
    """One connection of our own to a server under test."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._unread = b""
        self.ending: Ending | None = None

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, so that the server reads them one after the other."""
        async with asyncio.timeout(PATIENCE_S):
            for piece in pieces:
                await self._loop.sock_sendall(self._socket, piece)
                await asyncio.sleep(0)

    async def drip(self, data: bytes) -> None:
        """Send one byte at a time."""
        await self.send(*(data[at : at + 1] for at in range(len(data))))

    def send_nowait(self, data: bytes) -> int:
        """Send what the kernel takes without waiting; returns how much that was."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def shutdown(self) -> None:
        """Say that we will send no more; we still read."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close our end as an ordinary client does."""
        self._socket.close()

    def reset(self) -> None:
        """Drop the connection with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def read(self) -> bytes:
        """Whatever comes next; b"" at the end, whose kind is in `ending`."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        async with asyncio.timeout(PATIENCE_S):
            try:
                data = await self._loop.sock_recv(self._socket, READ_BYTES)
            except ConnectionResetError:
                self.ending = Ending.RESET
                return b""
        if not data:
            self.ending = Ending.CLOSED
        return data

    async def read_all(self) -> bytes:
        """Everything until the connection ends."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`; what comes after it stays unread."""
        data = b""
        while mark not in data:
            more = await self.read()
            assert more, f"the connection was {self.ending} before {mark!r}; it sent {data!r}"
            data += more
        end = data.index(mark) + len(mark)
        self._unread = data[end:]
        return data[:end]

    async def read_exactly(self, count: int) -> bytes:
        """`count` bytes; fewer only if the connection ends before."""
        data = b""
        while len(data) < count and (more := await self.read()):
            data += more
        self._unread = data[count:]
        return data[:count]

    async def response(self, *, to: bytes = b"GET") -> Response:
        """The next final response; interim ones are read over."""
        while True:
            status, headers = await self._head()
            if status >= 200:
                break
        if to == b"HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            body, whole = await self._chunks()
            return Response(status, headers, body, whole)
        if (length := headers.get(b"content-length")) is not None:
            body = await self.read_exactly(int(length))
            return Response(status, headers, body, len(body) == int(length))
        return Response(status, headers, await self.read_all(), self.ending is Ending.CLOSED)

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        lines = (await self.read_until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        version, status, _ = lines[0].split(b" ", 2)
        assert version == b"HTTP/1.1"
        fields = [line.split(b": ", 1) for line in lines[1:]]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), f"a header was sent twice: {lines}"
        return int(status), headers

    async def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = await self.read_exactly_line()
            if not line:
                return body, False
            if (size := int(line, 16)) == 0:
                return body, await self.read_exactly(2) == b"\r\n"
            chunk = await self.read_exactly(size + 2)
            body += chunk[:size]
            if len(chunk) < size + 2:
                return body, False

    async def read_exactly_line(self) -> bytes:
        """One line without its end; b"" if the connection ends before."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self.read_exactly(1)
            if not byte:
                return b""
            line += byte
        return line[:-2]


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int], *, receive_buffer_bytes: int | None = None
) -> AsyncIterator[RawClient]:
    """A connection to `address`; a small receive buffer makes a slow reader felt early."""
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(sock, address)
        yield RawClient(sock)


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A chunked body of these pieces, ended."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
