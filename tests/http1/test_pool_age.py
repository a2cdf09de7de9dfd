"""How long a pool uses a connection, and that each new one looks its host's name up anew."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmrouter.http1 import pool as module
from llmrouter.http1.deadlines import NEVER, Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from tests.support.receiver import Caller, Receiver, origin_at
from tests.support.upstream import ScriptedUpstream, Wait, answer, scripted
from tests.support.waiting import until

YES = answer(b"yes")


@contextlib.asynccontextmanager
async def aging(origin: Origin, age_max_s: float) -> AsyncIterator[Caller]:
    """A pool whose connections serve for so long."""
    deadlines = Deadlines(asyncio.get_running_loop(), 0.01)
    pool = Pool(origin, deadlines, age_max_s=age_max_s)
    try:
        yield Caller(pool, deadlines)
    finally:
        pool.close()
        deadlines.close()


@pytest.mark.asyncio
async def test_a_connection_that_is_too_old_ends_its_answer_and_serves_no_other() -> None:
    gate = asyncio.Event()
    async with (
        scripted([Wait(gate), YES], [YES]) as upstream,
        aging(origin_at(upstream.address), 60.0) as caller,
    ):
        receiver = Receiver()
        connection = await caller.send(receiver)
        connection.retires_at = asyncio.get_running_loop().time()  # as if it were a minute later
        gate.set()

        assert (await receiver.end()).body == b"yes"
        assert caller.pool.take() is None
        assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 2


@pytest.mark.asyncio
async def test_an_unused_connection_is_closed_at_its_age() -> None:
    async with scripted([YES]) as upstream, aging(origin_at(upstream.address), 0.1) as caller:
        await caller.ask()
        await until(lambda: upstream.open == 0, "it is kept")
        assert caller.pool.take() is None


@pytest.mark.asyncio
async def test_connections_made_together_do_not_retire_together() -> None:
    loop = asyncio.get_running_loop()
    async with scripted([YES]) as upstream, aging(origin_at(upstream.address), 100.0) as caller:
        made = [await caller.pool.fresh(10.0) for _ in range(20)]
        ages = [connection.retires_at - loop.time() for connection in made]
    assert max(ages) <= 100.0
    assert min(ages) >= 100.0 * (1 - module._AGE_SPREAD) - 5.0
    assert max(ages) - min(ages) > 1.0


@pytest.mark.asyncio
async def test_without_an_age_a_connection_never_retires() -> None:
    async with scripted([YES]) as upstream, aging(origin_at(upstream.address), NEVER) as caller:
        for _ in range(3):
            assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 1


class Resolver:
    """A name whose address changes; takes the place of `socket.getaddrinfo`."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.now = ""
        """Which of the places the name leads to."""
        self.asked = 0
        self._ports = ports

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        assert (host, port) == ("models.example", 80)
        self.asked += 1
        place = ("127.0.0.1", self._ports[self.now])
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)]


def test_a_change_of_dns_is_followed_once_the_connections_are_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the event loop of the standard library, whose resolver a test can take the place of."""

    async def play() -> None:
        async with scripted([YES]) as before, scripted([YES]) as after:
            resolver = Resolver({"before": before.address[1], "after": after.address[1]})
            monkeypatch.setattr(socket, "getaddrinfo", resolver)
            await follow(resolver, before, after)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(play())


async def follow(resolver: Resolver, before: ScriptedUpstream, after: ScriptedUpstream) -> None:
    """Ask three times: before the name changes, after it did, and when the connection is old."""
    resolver.now = "before"
    async with aging(Origin.from_url("http://models.example/v1"), 60.0) as caller:
        await caller.ask()
        resolver.now = "after"
        await caller.ask()
        assert (len(before.seen), len(after.seen), resolver.asked) == (2, 0, 1)

        connection = await caller.connection()
        connection.retires_at = 0.0  # as if it were a minute later
        caller.pool.release(connection, NEVER)
        await caller.ask()
        assert (len(before.seen), len(after.seen), resolver.asked) == (2, 1, 2)
