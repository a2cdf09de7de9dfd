import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.daemon.demo.server import SETTINGS, DemoServer
from tests.daemon.demo.running import chat, client, decoded, request, running
from tests.support.raw import Ending, RawClient, connected
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio


async def get(connection: RawClient, path: str) -> Any:
    await connection.send(request("GET", path))
    response = await connection.response()
    assert response.status == 200
    return decoded(response.body)


async def test_counters_tell_what_has_arrived() -> None:
    async with running() as demo, connected(demo.address) as connection:
        nothing = await get(connection, "/demo/counters")
        models = await get(connection, "/v1/models")
        for sent in (chat(), chat(stream=True), chat("demo-error"), request("GET", "/nowhere")):
            await connection.send(sent)
            await connection.response()
        counters = await get(connection, "/demo/counters")

    assert nothing == {
        "requests": 0,
        "plain": 0,
        "streams": 0,
        "open": 0,
        "cancelled": 0,
        "events_sent": 0,
        "by_path": {},
    }
    assert models["object"] == "list"
    assert counters["by_path"] == {"/v1/models": 1, "/v1/chat/completions": 3, "other": 1}
    assert (counters["requests"], counters["plain"], counters["streams"]) == (5, 3, 1)
    assert counters["events_sent"] > 20


async def test_names_that_callers_choose_do_not_fill_the_counters() -> None:
    async with client() as connection:
        for number in range(5):
            await get(connection, f"/v1/models/{number}")
        counters = await get(connection, "/demo/counters")

    assert counters["by_path"] == {"/v1/models/{id}": 5}


async def test_the_last_request_is_told_as_it_arrived() -> None:
    async with client() as connection:
        assert await get(connection, "/demo/last") is None
        sent = chat(x_demo="tokens=1")
        await connection.send(sent)
        await connection.response()
        last = await get(connection, "/demo/last")

    body = sent.partition(b"\r\n\r\n")[2].decode()
    assert last == {
        "method": "POST",
        "target": "/v1/chat/completions",
        "headers": [
            ["host", "demo"],
            ["content-length", str(len(body))],
            ["x-demo", "tokens=1"],
        ],
        "body": body,
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/audio/speech", 404),
        ("GET", "/", 404),
    ],
)
async def test_what_is_not_served_is_refused_and_said(method: str, path: str, status: int) -> None:
    async with client() as connection:
        await connection.send(request(method, path))
        response = await connection.response()

    assert response.status == status
    assert decoded(response.body)["error"]["message"] == f"{method} {path} is not served"


async def test_a_request_that_is_no_http_is_refused_in_the_shape_of_the_api() -> None:
    async with client() as connection:
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        response = await connection.response()

    assert response.status == 400
    assert "host" in decoded(response.body)["error"]["message"]


async def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as demo:
        few = msgspec.structs.replace(SETTINGS, connections=0)
        monkeypatch.setattr(demo.server, "settings", few)
        async with connected(demo.address) as connection:
            response = await connection.response()

    assert response.status == 503
    assert "too many connections" in decoded(response.body)["error"]["message"]


async def test_on_a_unix_socket_a_reset_is_an_end_without_an_answer(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    server = DemoServer(lambda: 0.0)
    listener = await loop.create_unix_server(server.protocol, str(tmp_path / "demo.sock"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(tmp_path / "demo.sock"))
        connection = RawClient(sock)
        await connection.send(chat())
        assert (await connection.response()).status == 200
        await connection.send(chat("demo-reset"))

        assert await connection.read_all() == b""
        assert connection.ending is Ending.CLOSED
    listener.close()
    async with asyncio.timeout(PATIENCE_S):
        await server.emptied()
    server.abort()
