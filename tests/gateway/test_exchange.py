import asyncio
from http import HTTPStatus
from pathlib import Path

import pytest

from llmrouter.contracts.call import Operation
from llmrouter.errors import CODES, RouterError, UpstreamError
from llmrouter.gateway.exchange import status_line
from tests.support.gateway import staged
from tests.support.idle import idle_exchange
from tests.support.raw import Ending
from tests.support.upstream import Stall, chunk, stream_head


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (529, b"HTTP/1.1 529 Status\r\n"),
        (999, b"HTTP/1.1 999 Status\r\n"),
    ],
)
def test_every_status_has_a_line(status: int, line: bytes) -> None:
    assert status_line(status) == line


def test_a_head_has_the_request_id_and_ends_in_a_line() -> None:
    exchange = idle_exchange()
    head = exchange.head(HTTPStatus.OK, b"a: b\r\n")
    assert head == b"HTTP/1.1 200 OK\r\na: b\r\nx-request-id: req_1\r\n"
    assert exchange.status == 200


def test_the_methods_are_those_of_what_is_asked_for() -> None:
    exchange = idle_exchange()
    assert b", ".join(exchange.methods) == b"GET, HEAD"
    exchange.operation = Operation.CHAT
    assert b", ".join(exchange.methods) == b"POST"


@pytest.mark.parametrize("error", CODES)
def test_what_is_refused_wants_no_body(error: type[RouterError]) -> None:
    exchange = idle_exchange()
    assert exchange.request.wants_body
    refusal = error("why", retry_after_s=1)
    exchange.refuse(refusal)
    assert exchange.refusal is refusal
    assert not exchange.request.wants_body


def test_its_repr_shows_its_state_and_no_secret() -> None:
    exchange = idle_exchange()
    exchange.request.headers[b"authorization"] = b"Bearer sk-secret"
    assert repr(exchange).startswith("<Exchange req_1 <Request ")
    assert repr(exchange).endswith("status=0>")
    assert "secret" not in repr(exchange)


@pytest.mark.asyncio
async def test_an_answer_that_has_begun_is_cut_and_not_followed_by_another(tmp_path: Path) -> None:
    event = chunk(b"data: {}\n\n")
    async with staged(tmp_path, [stream_head(), event, Stall()]) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await client.read_until(event)
            (connection,) = stage.server.connections
            exchange = idle_exchange()
            exchange.connection = connection
            exchange.reject(UpstreamError("why"))
            assert await client.read_all() == b""
            assert client.ending is Ending.CLOSED
        await stage.at_rest()
        await asyncio.sleep(0)
