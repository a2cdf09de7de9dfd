"""A model server for tests of processes: real, in threads of the test, held back when it is asked.

It answers at once, but for a stream of the model `m-held`: that stops after its first event until
`go_on` is set.
"""

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llmrouter.daemon import unix
from tests.support.daemon import Daemon, Settings, wait_for

PIECES = ("Hello", ", ", "world")
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello, world"},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}  # fmt: skip
DONE = b"data: [DONE]\n\n"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "ModelServer"

    def do_POST(self) -> None:
        call = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
        self.server.authorizations.append(self.headers.get("authorization"))
        if not call.get("stream"):
            body = msgspec.json.encode(ANSWER)
            self._head("application/json", f"content-length: {len(body)}")
            self.wfile.write(body)
            return
        self._head("text/event-stream", "transfer-encoding: chunked")
        for piece in PIECES:
            delta = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            event = {"id": "x", "object": "chat.completion.chunk", "choices": [delta]}
            self._chunk(b"data: %b\n\n" % msgspec.json.encode(event))
            if call["model"] == "m-held":
                self.server.go_on.wait(60)
        self._chunk(DONE)
        self._chunk(b"")

    def _head(self, kind: str, framing: str) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n"
        self.wfile.write(head.encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Nothing."""


class ModelServer(http.server.ThreadingHTTPServer):
    """The server, and what it saw."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon_threads = True
        self.go_on = threading.Event()
        self.authorizations: list[str | None] = []

    @property
    def url(self) -> str:
        """The base URL that it is reached by."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def settings(self, upstream: Mapping[str, object] | None = None, **tables: Any) -> Settings:
        """A router.toml that serves `m`, and `m-…`, by this server."""
        return {
            "upstreams": {"up": {"url": self.url, **(upstream or {})}},
            "models": {
                "m": {"deployments": [{"upstream": "up"}]},
                "m-*": {"deployments": [{"upstream": "up"}]},
            },
            "orgs": {"acme": {}},
            **tables,
        }

    def handle_error(self, *_: object) -> None:
        """A connection was cut, which the tests of the other side look at."""


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """Run one."""
    server = ModelServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Answer(NamedTuple):
    """What a caller got."""

    status: int
    body: bytes

    @property
    def code(self) -> str | None:
        """Of an error of ours."""
        found: str | None = msgspec.json.decode(self.body)["error"]["code"]
        return found


def send(
    connection: http.client.HTTPConnection, key: str, *, model: str = "m", stream: bool = False
) -> None:
    """Send a call, and do not wait for its answer."""
    call = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", msgspec.json.encode(call), headers)


def call(daemon: Daemon, key: str, *, model: str = "m", stream: bool = False) -> Answer:
    """One call on a connection of its own."""
    connection = daemon.connection()
    try:
        send(connection, key, model=model, stream=stream)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


class Stream:
    """A stream that is held after its first event."""

    def __init__(self, daemon: Daemon, key: str) -> None:
        self._connection = daemon.connection()
        send(self._connection, key, model="m-held", stream=True)
        self.port = self._connection.sock.getsockname()[1]
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert b"Hello" in self._response.readline()

    def is_whole(self) -> bool:
        """Read to the end, and tell whether it is that of a whole stream."""
        try:
            rest = self._response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            self.close()
        return rest.count(b'"content"') == len(PIECES) - 1 and rest.endswith(DONE)

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._connection.close()


def worker_of(daemon: Daemon, status: int, *, since: int = 0) -> set[str]:
    """The workers that answered so, by the log from `since` on."""
    lines = [line for line in daemon.log[since:].splitlines() if f" status={status} " in line]
    return {line.partition("process=")[2].partition(" ")[0] for line in lines}


def listening(daemon: Daemon) -> bool:
    """Whether a new connection is taken."""
    connection = daemon.connection()
    try:
        connection.connect()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: closed in that moment
        return False
    finally:
        connection.close()
    return True


def holds(path: Path, text: bytes) -> bool:
    """Whether a file of /proc holds `text`; a process that has gone holds nothing."""
    try:
        return text in path.read_bytes()
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # reaped before, or while, it is read
        return True


def drain_for(seconds: float, **server: Any) -> dict[str, Any]:
    """The table `server` with this time to drain."""
    return {"server": {"timeouts": {"drain": seconds}, **server}}


def everywhere(daemon: Daemon, key: str, expected: int) -> list[int]:
    """Call on many fresh connections, until every worker has answered some; their statuses."""
    count = len(daemon.log)
    statuses: list[int] = []

    def all_logged() -> bool:
        return daemon.log[count:].count(" status=") >= len(statuses)

    for _ in range(20):
        connections = [daemon.connection() for _ in range(16)]
        for connection in connections:
            send(connection, key)
        statuses += [connection.getresponse().status for connection in connections]
        for connection in connections:
            connection.close()
        wait_for(all_logged, what="the log")
        if len(worker_of(daemon, expected, since=count)) == 2:
            return statuses
    raise AssertionError(f"one worker got every connection:\n{daemon.log[count:]}")


def unix_call(path: Path, key: str) -> int:
    """The status of a call over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(unix.address(path))
        client.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            + key.encode()
            + b"\r\nconnection: close\r\n\r\n"
        )
        return int(client.recv(65_536).split()[1])
