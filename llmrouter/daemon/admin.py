"""The admin listener: whether the node lives, is ready and is healthy; served by the supervisor.

It takes no key, so it shows nothing that a key would protect: no secret, no org, nothing of a call.
Every answer is made from what is in memory, at once; what is wrong with a request is told as
`application/problem+json` (RFC 9457).
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from http import HTTPStatus

import msgspec

from llmrouter.daemon.health import Health, Status
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import Request
from llmrouter.http1.server import Application, Server, ServerSettings
from llmrouter.tasks import spawn

SETTINGS = ServerSettings(
    connections=256,
    head_bytes=16_384,
    body_bytes=16_384,
    buffered_bytes=1_048_576,
    head_s=10.0,
    body_s=10.0,
    idle_s=75.0,
)
"""Enough for those who watch a node, and little enough that nobody can burden it from here."""
_METHODS = (b"GET", b"HEAD")
_ALLOW = b"allow: %b\r\n" % b", ".join(_METHODS)
_AGAIN = b"retry-after: 1\r\n"
"""With every 503: things here may have changed by then."""
_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
_SHOWN_PATH_BYTES_MAX = 100


class Answer(msgspec.Struct, frozen=True):
    """What is said to a request."""

    status: int
    body: bytes
    kind: bytes = _JSON
    headers: bytes = b""

    @property
    def head(self) -> bytes:
        """Status line and headers, but for the framing."""
        phrase = HTTPStatus(self.status).phrase.encode()
        start = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (self.status, phrase, self.kind)
        return b"%bcache-control: no-store\r\n%b" % (start, self.headers)


class _Problem(msgspec.Struct, frozen=True):
    """RFC 9457: `type` is the default one, so `title` is the status in words."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


class Admin:
    """What the admin listener serves."""

    def __init__(self, health: Callable[[], Health]) -> None:
        """`health` gives the verdict as it is now."""
        self._health = health
        self.draining = False
        """Whether the node was told to stop."""
        self._shown: tuple[Health | None, bytes] = (None, b"")
        """The latest verdict that was asked for, as JSON; a large one takes a while to write."""
        self._pages: Mapping[bytes, Callable[[], Answer]] = {
            b"/health": self._show_health,
            b"/livez": _show_life,
            b"/readyz": self._show_readiness,
        }

    def open(self, connection: ServerConnection, request: Request) -> "_Exchange":
        """A head has arrived; its answer is made when its turn has come."""
        return _Exchange(self, connection, request)

    def reject(self, _request: Request, error: MessageError) -> tuple[bytes, bytes]:
        """Say what was wrong with bytes that are no proper request."""
        answer = _problem(error.status, error.reason)
        return answer.head, answer.body

    def answer(self, request: Request) -> Answer:
        """What to say to a request."""
        page = self._pages.get(request.path)
        if page is None:
            shown = request.path[:_SHOWN_PATH_BYTES_MAX].decode("ascii", "replace")
            served = ", ".join(path.decode() for path in self._pages)
            return _problem(404, f"nothing is served at {shown!r}; served are: {served}")
        if request.method not in _METHODS:
            method = request.method.decode("ascii", "replace")
            return _problem(405, f"{method} is not served here; use GET", _ALLOW)
        return page()

    def _show_health(self) -> Answer:
        health = self._health()
        if self._shown[0] is not health:
            self._shown = health, msgspec.json.encode(health)
        body = self._shown[1]
        if health.status is Status.UNHEALTHY:
            return Answer(503, body, headers=_AGAIN)
        return Answer(200, body)

    def _show_readiness(self) -> Answer:
        if self.draining:
            return _problem(503, "this node is draining", _AGAIN)
        health = self._health()
        if not health.can_serve:
            return _problem(503, f"this node cannot serve: {'; '.join(health.reasons)}", _AGAIN)
        return Answer(200, b'{"status":"ready"}')


class _Exchange:
    """One request of the admin listener."""

    def __init__(self, admin: Admin, connection: ServerConnection, request: Request) -> None:
        self._admin = admin
        self._connection = connection
        self._request = request

    async def serve(self) -> None:
        """Answer it; nothing here waits."""
        answer = self._admin.answer(self._request)
        self._connection.respond(answer.head, answer.body)


@contextlib.asynccontextmanager
async def serving(admin: Admin, listeners: Iterable[socket.socket]) -> AsyncIterator[None]:
    """Serve on sockets that listen already, and that stay their owner's to close."""
    loop = asyncio.get_running_loop()
    server = Server(admin, spawn, SETTINGS, full=_full())
    accepting: list[asyncio.Server] = []
    try:
        for listener in listeners:
            is_unix = listener.family == socket.AF_UNIX
            make = loop.create_unix_server if is_unix else loop.create_server
            accepting.append(await make(server.protocol, sock=listener.dup()))
        yield
    finally:
        for each in accepting:
            each.close()
        server.abort()
        await server.emptied()


def _show_life() -> Answer:
    return Answer(200, b'{"status":"alive"}')


def _problem(status: int, detail: str, headers: bytes = b"") -> Answer:
    title = HTTPStatus(status).phrase
    body = msgspec.json.encode(_Problem(title, status, detail))
    return Answer(status, body, _PROBLEM, headers)


def _full() -> bytes:
    """For a connection over the limit."""
    answer = _problem(503, f"at most {SETTINGS.connections} connections may stand here", _AGAIN)
    framing = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(answer.body)
    return answer.head + framing + answer.body


_: type[Application] = Admin
