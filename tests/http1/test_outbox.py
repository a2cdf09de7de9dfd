"""Whole answers leave at the end of a turn: together, in order, and before anything after them."""

import asyncio
from collections.abc import Callable

import pytest

from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.outbox import SHARED_BYTES_MAX, Outbox
from llmrouter.http1.request import Request
from tests.http1.wire import GET, Wire, post, turn
from tests.support.application import HEAD, Script, echo
from tests.support.leaks import Failures
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

ANSWER = HEAD + b"content-length: 6\r\n\r\nGET / "
EXPECTING = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"


class Noted:
    """Notes when it writes."""

    def __init__(self, written: list[int], number: int) -> None:
        self._written = written
        self._number = number

    def write_out(self) -> None:
        self._written.append(self._number)


async def test_of_a_turn_all_write_at_its_end_in_order_but_one_that_seems_to_be_alone() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    written: list[int] = []
    turns = [
        [False, True, True],
        [True, True, True, True],
        [True],  # after a crowd
        [False],
        [False, True],
    ]
    for held in turns:
        written.clear()
        assert held == [outbox.holds_back(Noted(written, number)) for number in range(len(held))]
        assert repr(outbox) == f"<Outbox writers={sum(held)}>"
        assert written == []
        await asyncio.sleep(0)
        assert written == [number for number, is_held in enumerate(held) if is_held]
        assert repr(outbox) == "<Outbox writers=0>"


FIRST = Noted([], 0)


class Held:
    """A wire whose answer is held back: what `then` does happens in the turn of the answer."""

    def __init__(self, then: Callable[[ServerConnection], object], body: bytes = b"") -> None:
        self.wire = Wire(Script(self.serve))
        self._then = then
        self._body = body
        self.written = b"-"
        """As soon as it was answered."""

    async def serve(self, connection: ServerConnection, request: Request) -> None:
        # The exchange ends in this step of its task, and nothing comes between that and `then`.
        asyncio.get_running_loop().call_soon(self._then, connection)
        self.wire.server.outbox.holds_back(FIRST)
        if self._body:
            connection.respond(HEAD, self._body)
        else:
            await echo(connection, request)
        self.written = self.wire.transport.written

    async def served(self, *pieces: bytes) -> bytes:
        """What was written in the end."""
        for piece in pieces:
            self.wire.connection.data_received(piece)
        await until(lambda: bool(self.wire.script.served), "it was not served")
        await turn()
        return self.wire.transport.written


def nothing(connection: ServerConnection) -> None:
    """Only time passes."""


async def test_an_answer_leaves_at_the_end_of_its_turn() -> None:
    held = Held(nothing)
    assert await held.served(GET) == ANSWER
    assert held.written == b""
    await held.wire.lose()


async def test_an_answer_that_is_alone_leaves_at_once() -> None:
    wire = Wire(Script())
    wire.connection.data_received(GET)
    await until(lambda: bool(wire.script.served), "it was not served")
    assert wire.transport.written == ANSWER
    await wire.lose()


async def test_a_long_answer_leaves_at_once() -> None:
    held = Held(nothing, b"x" * SHARED_BYTES_MAX)
    written = await held.served(GET)
    assert held.written == written
    assert len(written) > SHARED_BYTES_MAX
    await held.wire.lose()


@pytest.mark.parametrize(
    "ends",
    [ServerConnection.drain, ServerConnection.eof_received],
    ids=["drained", "half-closed"],
)
async def test_a_connection_that_ends_in_the_same_turn_has_its_answer(
    ends: Callable[[ServerConnection], object],
) -> None:
    held = Held(ends)
    assert await held.served(GET) == ANSWER
    await held.wire.lose()


@pytest.mark.parametrize(
    "message",
    [GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), b"GET / HTTP/1.0\r\n\r\n"],
    ids=["close", "http-1.0"],
)
async def test_an_answer_that_is_the_last_leaves_before_the_connection_ends(message: bytes) -> None:
    held = Held(nothing)
    assert (await held.served(message)).endswith(b"connection: close\r\n\r\nGET / ")
    assert held.wire.transport.closed
    await held.wire.lose()


async def test_nothing_overtakes_an_answer_that_is_held_back() -> None:
    """Neither the next answer, nor the invitation of the next body."""
    held = Held(nothing)
    written = await held.served(GET + GET + post(b"abc") + EXPECTING)
    kinds = [part[:3] for part in written.split(b"HTTP/1.1 ")[1:]]
    assert kinds == [b"200", b"200", b"200", b"100"]
    assert b"GET / HTTP/1.1 200" in written
    await held.wire.lose()


@pytest.mark.parametrize(
    "ends", [ServerConnection.abort, lambda connection: connection.connection_lost(None)]
)
async def test_what_is_held_back_goes_nowhere_once_the_client_is_gone(
    ends: Callable[[ServerConnection], object],
) -> None:
    held = Held(ends)
    assert await held.served(GET) == b""
    if held.wire.transport.aborted:
        await held.wire.lose()


async def test_an_exchange_that_fails_after_its_answer_has_given_it(no_leaks: Failures) -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        wire.server.outbox.holds_back(FIRST)
        await echo(connection, request)
        raise LookupError("a bug")

    wire = Wire(Script(serve))
    wire.connection.data_received(GET)
    await until(lambda: wire.transport.aborted, "it goes on")
    assert wire.transport.written == ANSWER
    await wire.lose()
    no_leaks.seen.clear()
