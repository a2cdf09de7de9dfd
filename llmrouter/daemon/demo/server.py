"""The demo as an application of `http1`: its paths, its connections, its server."""

import socket
import struct
from collections.abc import Callable
from typing import Final

from llmrouter.daemon.demo import answers
from llmrouter.daemon.demo.counters import Counters, Last
from llmrouter.daemon.demo.exchange import CallExchange, SaidExchange, Shared, head_of
from llmrouter.daemon.demo.shapes import encode
from llmrouter.http1.downstream import Exchange, ServerConnection
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import Request
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.tasks import spawn

SETTINGS = ServerSettings(
    connections=20_000,
    head_bytes=64 * 1024,
    body_bytes=64 * 1024 * 1024,
    buffered_bytes=1024 * 1024 * 1024,
    head_s=30,
    body_s=60,
    idle_s=300,  # longer than a pool in front keeps a connection, so that we never close first
)
COUNTERS_PATH: Final = b"/demo/counters"
LAST_PATH: Final = b"/demo/last"

_OTHER: Final = "other"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class DemoConnection(ServerConnection):
    """A connection whose two ways to end are what they are called: gone is gone, reset is reset."""

    __slots__ = ()

    def eof_received(self) -> bool:
        """Take a client that has ended for gone: a stalled answer would never notice otherwise."""
        return False

    def abort(self) -> None:
        """Drop the connection with a reset; on a Unix socket, which has none, with a close."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        super().abort()


class DemoServer(Server):
    """All connections of the demo."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.demo = Demo(wall)
        full = _whole(503, "the demo has too many connections; close some")
        super().__init__(self.demo, spawn, SETTINGS, full=full)

    def protocol(self) -> DemoConnection:
        """A protocol for one accepted connection."""
        return DemoConnection(self)


class Demo:
    """What is served: the API's calls and models, and what has been counted."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.shared = Shared(Counters(by_path={}), wall)

    def open(self, connection: ServerConnection, request: Request) -> Exchange:
        path = request.path
        if path == COUNTERS_PATH:
            return SaidExchange(connection, 200, lambda: encode(self.shared.counters))
        if path == LAST_PATH:
            return SaidExchange(connection, 200, lambda: _arrived(self.shared.last))
        place = answers.place_of(path)
        number = self.shared.counters.count(_OTHER if place is None else place.name)
        if place is not None and request.method == place.method:
            return CallExchange(connection, request, self.shared, number)
        request.wants_body = False
        status = 404 if place is None else 405
        message = f"{request.method.decode()} {path.decode('latin-1')} is not served"
        return SaidExchange(connection, status, lambda: answers.error_body(status, message))

    def reject(self, request: Request, error: MessageError) -> tuple[bytes, bytes]:
        return head_of(error.status), answers.error_body(error.status, error.reason)


def _arrived(last: Last | None) -> bytes:
    return encode(None if last is None else last.arrived())


def _whole(status: int, message: str) -> bytes:
    body = answers.error_body(status, message)
    framing = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return head_of(status) + framing + body
