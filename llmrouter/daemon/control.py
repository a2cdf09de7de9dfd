r"""The control socket: how the command line speaks to a running supervisor.

A line of JSON each way: `{"v": 1, "op": "keys.create", "args": {…}}` is answered by
`{"v": 1, "result": …}` or `{"v": 1, "error": {"code", "message"}}`. The socket is mode 0600 below a
directory of mode 0700, so whoever can connect owns the state. A client of another version is told
so in words, never served half.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from llmrouter.daemon import unix
from llmrouter.daemon.errors import DaemonError

_log = logging.getLogger(__name__)

VERSION = 1
LINE_BYTES_MAX = 64 * 1024 * 1024
"""A list of 100,000 keys is about 30 MB."""
REQUEST_TIMEOUT_S = 10.0
_LOOK = "look whether it was done before you ask again"
_SAME = "use the llmrouter that the daemon was started with"
_SOCKET_MODE = 0o600
_BACKLOG = 16


class ControlError(DaemonError):
    """The supervisor will not do it; `code` is for scripts, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotRunning(Exception):
    """No supervisor answers on the control socket."""


class _Request(msgspec.Struct, frozen=True):
    v: int
    op: str
    args: dict[str, object] = {}


class _Fault(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    result: object = None
    error: _Fault | None = None


Operation = Callable[[dict[str, object]], Awaitable[object]]
_read_request = msgspec.json.Decoder(_Request).decode
_read_reply = msgspec.json.Decoder(_Reply).decode
_encode = msgspec.json.Encoder().encode


class ControlServer:
    """Answers on the control socket."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; raises OSError."""
        listener = unix.listen(self._path, mode=_SOCKET_MODE, backlog=_BACKLOG)
        self._server = await asyncio.start_unix_server(
            self._answer, sock=listener, limit=LINE_BYTES_MAX
        )

    def close(self) -> None:
        """Stop listening, and leave no socket behind."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that says too little or too much, or leaves, is nobody that could be told so.
        with contextlib.closing(writer), contextlib.suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readline()
                writer.write(_encode(await self._reply(line)) + b"\n")
                await writer.drain()

    async def _reply(self, line: bytes) -> _Reply:
        try:
            request = _read_request(line)
        except msgspec.DecodeError as error:
            return _refused("invalid_request", f"not a request of the control socket: {error}")
        if request.v != VERSION:
            text = f"this daemon speaks version {VERSION} of the control socket, not {request.v}"
            return _refused("version", f"{text}; {_SAME}")
        operation = self._operations.get(request.op)
        if operation is None:
            return _refused("unknown_operation", f"this daemon knows no operation {request.op!r}")
        try:
            return _Reply(VERSION, result=await operation(request.args))
        except ControlError as error:
            return _refused(error.code, str(error))
        except Exception as error:  # noqa: BLE001 - a bug, of which the client must hear too
            _log.error("operation %r failed", request.op, exc_info=error)
            return _refused("internal_error", f"{request.op!r} failed; the daemon's log says why")


def _refused(code: str, message: str) -> _Reply:
    return _Reply(VERSION, error=_Fault(code, message))


def ask(path: Path, op: str, args: dict[str, object]) -> object:
    """Have the running supervisor do `op`, and return what it answers; blocks.

    Raises NotRunning if nobody listens at `path`, ControlError if it refuses, or if it is not known
    whether it was done.
    """
    try:
        request = _encode(_Request(VERSION, op, args)) + b"\n"
    except UnicodeEncodeError as error:
        raise ControlError("invalid_request", "an argument is not UTF-8 text; retype it") from error
    line = _exchange(path, request)
    if not line.endswith(b"\n"):
        raise ControlError("no_answer", f"the daemon at {path} ended before it answered; {_LOOK}")
    try:
        reply = _read_reply(line)
    except msgspec.DecodeError as error:
        text = f"the answer of the daemon at {path} cannot be read: {error}; {_SAME}"
        raise ControlError("version", text) from error
    if reply.error is not None:
        raise ControlError(reply.error.code, reply.error.message)
    if reply.v != VERSION:
        text = f"the daemon at {path} answers in version {reply.v} of the control socket"
        raise ControlError("version", f"{text}, not {VERSION}; {_SAME}")
    return reply.result


def _exchange(path: Path, request: bytes) -> bytes:
    """Send a request line and read the answer; NotRunning only if nobody can have acted on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(REQUEST_TIMEOUT_S)
        try:
            client.connect(unix.address(path))
            client.sendall(request)
            with client.makefile("rb") as answer:
                return answer.readline(LINE_BYTES_MAX)
        except TimeoutError as error:
            text = f"the daemon at {path} does not answer within {REQUEST_TIMEOUT_S:g} s; {_LOOK}"
            raise ControlError("no_answer", text) from error
        except OSError as error:
            # Refused, or reset before the request was read.
            raise NotRunning(f"no daemon answers at {path}: {error.strerror or error}") from error
