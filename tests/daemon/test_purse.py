"""The quota side of a worker, the ledger played by the test at the other end of its channel."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.access.ruletext import parse_limit
from llmrouter.config.schema import Settings
from llmrouter.daemon import purse as module
from llmrouter.daemon.channel import Channel, Denied, Keys, Start, ToSupervisor
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.purse import Purse
from llmrouter.metering.prices import PriceTable
from llmrouter.quota.denials import Action, Denial
from llmrouter.quota.leases import Account, Refusal
from llmrouter.quota.messages import GiveBack, Granted, Recall, Recalled, Take
from llmrouter.stores.memory import MemoryStore
from tests.support.waiting import PATIENCE_S

NOW_S = 1_700_000_000
DIGEST_KEY = bytes(32)
BOOK = KeyBook(MemoryStore(), KeyDigest(DIGEST_KEY))
ONE_SLOT = (0, 0, 0, 1, 0)


def issued(*limits: str) -> IssuedKey:
    return BOOK.create(KeyTerms(org="acme", rules=tuple(map(parse_limit, limits))), NOW_S)[0]


class Beside:
    """A purse, and the supervisor's end."""

    def __init__(self, purse: Purse, ledger: Channel) -> None:
        self.purse = purse
        self.ledger = ledger
        self.flushed = 0
        self.answers: list[Refusal | None] = []

    def account(self, key: IssuedKey) -> Account:
        return self.purse.quota.leases.accounts.of("acme", None, None, key.id, "m")

    def ask(self, key: IssuedKey) -> int:
        now_ms = SteadyClock().now_ms()
        return self.purse.quota.leases.ask(self.account(key), ONE_SLOT, self.answers.append, now_ms)

    async def heard(self, kind: type) -> ToSupervisor:
        """The next message of that kind."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.ledger.to_supervisor()
                assert message is not None
                if isinstance(message, kind):
                    return message


@asynccontextmanager
async def beside(*keys: IssuedKey, rules: int = 0) -> AsyncIterator[Beside]:
    ours, theirs = socket.socketpair()
    ledger, channel = await Channel.over(ours), await Channel.over(theirs)
    settings = msgspec.convert({}, Settings)
    start = Start(
        worker=0,
        workers=1,
        config=b"",
        secrets={},
        digest_key=DIGEST_KEY,
        keys=list(keys),
        journal_dir="",
        listener_fds=[],
        demo_path=None,
        started_at_s=NOW_S,
        boot="b00t",
        rules=rules,
        prices=PriceTable(),
        clock_offset_ms=SteadyClock().offset_ms,
    )
    made: list[Beside] = []

    def flush() -> None:
        made[0].flushed += 1

    made.append(Beside(Purse(settings, start, channel, flush), ledger))
    try:
        yield made[0]
    finally:
        made[0].purse.close()
        channel.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while await ledger.to_supervisor() is not None:
                    pass
        ledger.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY_S", 0.005)


@pytest.mark.asyncio
async def test_what_a_call_asks_for_is_said_and_the_answer_reaches_it() -> None:
    key = issued("concurrent=5")
    async with beside(key) as found:
        found.ask(key)
        take = await found.heard(Take)

        assert isinstance(take, Take)
        assert [(ask.bucket, ask.least) for ask in take.asks] == [(f"key/{key.id}/concurrent", 1)]
        found.purse.hear(Granted(take.id, (1,), (4,), SteadyClock().now_ms(), (0,)))
        assert found.answers == [None]


@pytest.mark.asyncio
async def test_what_no_call_needs_goes_back_by_itself() -> None:
    key = issued("concurrent=5")
    async with beside(key) as found:
        found.ask(key)
        take = await found.heard(Take)
        assert isinstance(take, Take)
        found.purse.hear(Granted(take.id, (3,), (2,), SteadyClock().now_ms(), (0,)))

        given = await found.heard(GiveBack)

        assert isinstance(given, GiveBack)
        assert [part.amount for part in given.amounts] == [2], "the call has one of the three"


@pytest.mark.asyncio
async def test_what_is_recalled_is_answered_with_the_journal_written() -> None:
    key = issued("concurrent=5")
    async with beside(key) as found:
        found.account(key)

        found.purse.hear(Recall(7, ()))

        assert await found.heard(Recalled) == Recalled(7)
        assert found.flushed == 1


@pytest.mark.asyncio
async def test_rules_of_changed_keys_are_in_force_for_the_next_call() -> None:
    key = issued("concurrent=5")
    async with beside(key, rules=3) as found:
        assert found.purse.quota.leases.accounts.generation == 3
        raised = msgspec.structs.replace(key, rules=(parse_limit("concurrent=9"),))

        found.purse.apply(Keys(1, [raised], 4))

        (lease,) = found.account(key).gating
        assert lease.capacity == 9
        assert found.purse.quota.leases.accounts.generation == 4


@pytest.mark.asyncio
async def test_who_waits_is_refused_when_the_supervisor_is_gone() -> None:
    key = issued("concurrent=5")
    async with beside(key) as found:
        found.ask(key)

        found.purse.ledger_gone()

        assert [type(answer) for answer in found.answers] == [Refusal]
        assert found.purse.quota.leases.alone


def denial(number: int) -> Denial:
    return Denial(
        at_ms=NOW_S * 1_000, last_ms=NOW_S * 1_000, org="acme", key_id="Ab12", model=f"m-{number}",
        action=Action.REFUSED, code="rate_limit_exceeded", bucket="org/acme/requests/day",
        limit=1, balance=0, wanted=1,
    )  # fmt: skip


@pytest.mark.asyncio
async def test_denials_are_told_by_themselves_and_each_once() -> None:
    async with beside() as found:
        for number in range(2):
            found.purse.quota.denials.note(denial(number))
            assert await found.heard(Denied) == Denied([denial(number)])
        found.purse.quota.denials.note(denial(1))  # no new one: its count follows in time
        assert await found.heard(Denied) == Denied([denial(1)])
        found.purse.tell_denials()
        found.purse.quota.denials.note(denial(2))
        found.purse.tell_denials()
        assert await found.heard(Denied) == Denied([denial(2)])


@pytest.mark.asyncio
async def test_repr_shows_the_state() -> None:
    async with beside() as found:
        assert repr(found.purse) == "<Purse <Leases buckets=0 asked=0> <Denials 0>>"
