"""A worker's part in conditions, over a real channel."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from llmrouter.daemon.channel import Channel, Conditions, Probed, Start
from llmrouter.daemon.sharing import Sharing
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.condition import Condition
from llmrouter.routing.report import Report
from tests.daemon.test_channel import start
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio

TERMS = {name: BreakerTerms(failures=1, rest_s=60.0, rest_max_s=60.0) for name in ("a", "b")}


class Shared:
    """A worker's end, and the supervisor's, which the test plays."""

    def __init__(self, sharing: Sharing, supervisor: Channel) -> None:
        self.sharing = sharing
        self.conditions = sharing.conditions
        self._supervisor = supervisor

    async def told(self) -> list[Report]:
        """The next that the supervisor is told."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self._supervisor.to_supervisor()
        assert isinstance(message, Conditions)
        return message.reports


@contextlib.asynccontextmanager
async def shared(begin: Start | None = None) -> AsyncIterator[Shared]:
    ours, theirs = socket.socketpair()
    worker, supervisor = await Channel.over(ours), await Channel.over(theirs)
    try:
        yield Shared(Sharing(TERMS, begin or start(), worker), supervisor)
    finally:
        worker.close()
        supervisor.close()


def fail(condition: Condition, reason: str = "it answered 500") -> None:
    now_s = asyncio.get_running_loop().time()
    condition.failed(reason, now_s, condition.enter(now_s))
    condition.leave()


async def test_a_change_is_told_with_its_reason() -> None:
    async with shared() as node:
        fail(node.conditions.of("a/m"))

        (report,) = await node.told()

    assert (report.deployment, report.state, report.reason) == ("a/m", "open", "it answered 500")
    assert 59.0 < report.rest_s <= 60.0


async def test_however_much_changes_in_a_turn_it_is_one_message_of_how_things_are_by_then() -> None:
    async with shared() as node:
        loop = asyncio.get_running_loop()
        for number in range(100):
            condition = node.conditions.of(f"a/m{number % 4}")
            condition.rest_until(loop.time() + 10 * (number + 1), f"busy {number}", loop.time())
        assert repr(node.sharing) == "<Sharing untold=4>"
        first = await node.told()
        fail(node.conditions.of("b/m"))
        second = await node.told()

    assert [report.deployment for report in first] == ["a/m0", "a/m1", "a/m2", "a/m3"]
    assert [report.reason for report in first] == ["busy 96", "busy 97", "busy 98", "busy 99"]
    assert [report.deployment for report in second] == ["b/m"]


async def test_what_others_say_is_adopted_and_not_told_on() -> None:
    async with shared() as node:
        now_s = asyncio.get_running_loop().time()
        opened = Report(deployment="a/m", state=State.OPEN, rest_s=9.0, reason="x", changed_s=now_s)
        node.sharing.hear(Conditions([opened]))
        assert not node.conditions.of("a/m").is_usable(now_s)

        closed = msgspec.structs.replace(opened, state=State.CLOSED, changed_s=now_s + 0.1)
        node.sharing.hear(Conditions([closed]))
        assert node.conditions.of("a/m").is_usable(now_s)

        fail(node.conditions.of("b/m"))
        assert [report.deployment for report in await node.told()] == ["b/m"]


async def test_probes_take_an_upstream_out_and_bring_it_back() -> None:
    async with shared() as node:
        now_s = asyncio.get_running_loop().time()
        one, other = node.conditions.of("a/m"), node.conditions.of("b/m")

        node.sharing.hear(Probed("a", sound=False))
        assert (one.is_usable(now_s), other.is_usable(now_s)) == (False, True)

        node.sharing.hear(Probed("a", sound=True))
        assert (one.is_usable(now_s), other.is_usable(now_s)) == (True, True)


async def test_a_worker_begins_where_the_others_are() -> None:
    now_s = asyncio.get_running_loop().time()
    opened = Report(deployment="a/m", state=State.OPEN, rest_s=9.0, reason="x", changed_s=now_s)
    begin = msgspec.structs.replace(start(), conditions=[opened], down=["b"])
    async with shared(begin) as node:
        assert node.conditions.of("a/m").breaker.state is State.OPEN
        assert not node.conditions.of("b/n").is_usable(now_s)
        assert node.conditions.of("a/n").is_usable(now_s)
