"""The admin listener, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.daemon import admin as module
from llmrouter.daemon import unix
from llmrouter.daemon.admin import Admin, serving
from llmrouter.daemon.health import Health, Plan, Seen, verdict
from tests.daemon.test_health import NOW_S, WALL_S, report
from tests.support.raw import RawClient, Response, connected

pytestmark = pytest.mark.asyncio

PLAN = Plan({"m": ("a/m", "b/m")}, ("a", "b"))


def health(*open_ones: str, workers: int = 1) -> Health:
    reports = {name: report(name, rest_s=5.0) for name in open_ones}
    seen = Seen(reports=reports, down={}, serving=workers, workers=1, now_s=NOW_S, wall_s=WALL_S)
    return verdict(PLAN, seen)


class Node:
    """Something to watch, and who serves what is watched."""

    def __init__(self) -> None:
        self.health = health()
        self.admin = Admin(lambda: self.health)


@contextlib.asynccontextmanager
async def watched(node: Node) -> AsyncIterator[tuple[str, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        async with serving(node.admin, [listener]):
            yield listener.getsockname()


async def ask(client: RawClient, path: str, method: str = "GET") -> Response:
    await client.send(f"{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    return await client.response(to=method.encode())


async def asked(node: Node, path: str, method: str = "GET") -> Response:
    async with watched(node) as address, connected(address) as client:
        return await ask(client, path, method)


def decoded(response: Response) -> Any:
    assert response.whole
    assert response.headers[b"cache-control"] == b"no-store"
    return msgspec.json.decode(response.body)


def problem(response: Response) -> tuple[int, str]:
    """A status, and what RFC 9457 says of it."""
    assert response.headers[b"content-type"] == b"application/problem+json"
    said = decoded(response)
    assert said["type"] == "about:blank"
    assert said["status"] == response.status
    assert said["title"]
    return response.status, said["detail"]


async def test_a_node_that_is_well_says_so_on_one_connection() -> None:
    async with watched(Node()) as address, connected(address) as client:
        live = await ask(client, "/livez")
        ready = await ask(client, "/readyz?verbose")
        whole = await ask(client, "/health")

    assert (live.status, decoded(live)) == (200, {"status": "alive"})
    assert (ready.status, decoded(ready)) == (200, {"status": "ready"})
    assert (whole.status, whole.headers[b"content-type"]) == (200, b"application/json")
    assert whole.body == msgspec.json.encode(health())


@pytest.mark.parametrize(
    ("now", "status", "said", "ready"),
    [
        (health(), 200, "healthy", 200),
        (health("a/m"), 200, "degraded", 200),
        (health("a/m", "b/m"), 503, "unhealthy", 503),
        (health(workers=0), 503, "unhealthy", 503),
    ],
)
async def test_a_balancer_can_go_by_the_status(
    now: Health, status: int, said: str, ready: int
) -> None:
    node = Node()
    node.health = now
    async with watched(node) as address, connected(address) as client:
        answered = await ask(client, "/health")
        readiness = await ask(client, "/readyz")
        live = await ask(client, "/livez")

    assert (answered.status, decoded(answered)["status"]) == (status, said)
    assert (b"retry-after" in answered.headers) is (status == 503)
    assert readiness.status == ready
    assert live.status == 200


async def test_what_has_changed_is_shown_to_who_asks_next() -> None:
    node = Node()
    async with watched(node) as address, connected(address) as client:
        shown = []
        for now in (health(), health("a/m"), health(), health("a/m", "b/m")):
            node.health = now
            shown.append(decoded(await ask(client, "/health"))["status"])

    assert shown == ["healthy", "degraded", "healthy", "unhealthy"]


async def test_a_node_that_cannot_serve_says_why_it_is_not_ready() -> None:
    node = Node()
    node.health = health("a/m", "b/m")

    response = await asked(node, "/readyz")

    assert problem(response) == (503, "this node cannot serve: unhealthy models: m")
    assert response.headers[b"retry-after"] == b"1"


async def test_a_node_that_drains_is_alive_and_not_ready() -> None:
    node = Node()
    node.admin.draining = True
    async with watched(node) as address, connected(address) as client:
        ready = await ask(client, "/readyz")
        live = await ask(client, "/livez")

    assert problem(ready) == (503, "this node is draining")
    assert ready.headers[b"retry-after"] == b"1"
    assert live.status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/nothing"])
async def test_head_says_what_get_would_without_its_body(path: str) -> None:
    async with watched(Node()) as address, connected(address) as client:
        got = await ask(client, path)
        head = await ask(client, path, "HEAD")
        again = await ask(client, "/livez")

    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")
    assert again.status == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_nothing_can_be_done_here_but_look(method: str) -> None:
    response = await asked(Node(), "/health", method)

    assert problem(response) == (405, f"{method} is not served here; use GET")
    assert response.headers[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/healthz", "/health/", "/v1/models", "/status", "/metrics"])
async def test_what_is_not_there_is_told_with_what_is(path: str) -> None:
    assert problem(await asked(Node(), path)) == (
        404,
        f"nothing is served at '{path}'; served are: /health, /livez, /readyz",
    )


async def test_of_a_long_path_only_the_beginning_is_shown() -> None:
    status, detail = problem(await asked(Node(), "/" + "x" * 5_000))

    assert status == 404
    assert len(detail) < 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"x" * 20_000), 431),
    ],
)
async def test_a_broken_request_is_a_problem_too(sent: bytes, status: int) -> None:
    async with watched(Node()) as address, connected(address) as client:
        await client.send(sent)
        assert problem(await client.response())[0] == status


async def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    few = msgspec.structs.replace(module.SETTINGS, connections=1)
    monkeypatch.setattr(module, "SETTINGS", few)
    async with watched(Node()) as address, connected(address) as first:
        assert (await ask(first, "/livez")).status == 200
        async with connected(address) as second:
            response = await second.response()

    assert problem(response) == (503, "at most 1 connections may stand here")
    assert response.headers[b"retry-after"] == b"1"


async def test_it_is_served_on_unix_sockets_too_which_stay_their_owners(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with unix.listen(path, mode=0o600, backlog=16) as listener:
        async with serving(Node().admin, [listener]):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
            await writer.wait_closed()
        assert listener.getsockname() == str(path)
        assert path.is_socket()


async def test_at_the_end_no_connection_is_left() -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with watched(Node()) as address:
            client = await stack.enter_async_context(connected(address))
            assert (await ask(client, "/livez")).status == 200
        assert await client.read_all() == b""
