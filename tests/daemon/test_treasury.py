"""Limits and budgets as the supervisor keeps them: workers that ask, fall silent and die."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.rule import Rule
from llmrouter.daemon import treasury as module
from llmrouter.daemon import writebehind
from llmrouter.daemon.teller import JournalError
from llmrouter.daemon.treasury import Treasury
from llmrouter.quota.denials import Action, Denial
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.messages import (
    Amount,
    Ask,
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Granted,
    Reason,
    Recall,
    Recalled,
    Refused,
    Reopened,
    Take,
)
from llmrouter.quota.rulebook import Rulebook
from llmrouter.tasks import spawn
from tests.daemon.spending import (
    ACME,
    NOTHING,
    NOW_MS,
    Amounts,
    FullStore,
    Writer,
    claimed,
    used,
)
from tests.support.leaks import Failures
from tests.support.waiting import until

TERMS = DeskTerms(hold_wait_ms=0, waiting_max=10)
REQUESTS, TOKENS, USD, SLOTS = (
    f"org/acme/{name}" for name in ("requests/day", "tokens/day", "usd/total", "concurrent")
)


def few(slots: int = 10) -> tuple[Rule, ...]:
    """Rules with little room."""
    return (
        parse_limit("requests=100/day"),
        parse_limit("tokens=1000/day"),
        parse_budget("usd=0.000001/total"),  # 1,000 nano-USD
        parse_limit(f"concurrent={slots}"),
    )


class Node:
    """One supervisor after the other over the same state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = FullStore()
        self.now_ms = NOW_MS
        self.said: list[tuple[str, FromLedger]] = []
        self.book = Rulebook({ACME: few()})
        self.made: list[Treasury] = []

    def start(self) -> Treasury:
        """A supervisor starts; that before it may have been killed."""
        made = Treasury(
            self.store,
            self.directory,
            self.book,
            now_ms=lambda: self.now_ms,
            send=lambda boot, message: self.said.append((boot, message)),
            terms=TERMS,
        )
        self.made.append(made)
        made.recover()
        return made

    def spent(self, treasury: Treasury) -> Amounts:
        return used(treasury.standing(self.book.of_scope(ACME)))

    def held(self, treasury: Treasury) -> Amounts:
        return claimed(treasury.standing(self.book.of_scope(ACME)))

    def heard(self, boot: str) -> list[FromLedger]:
        """What a worker was told since the last time."""
        said = [message for name, message in self.said if name == boot]
        self.said = [(name, message) for name, message in self.said if name != boot]
        return said


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(module, "COUNT_EVERY_S", 0.001)
    monkeypatch.setattr(module, "IDLE_EVERY_S", 0.001)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(writebehind, "WRITE_EVERY_S", 0.001)
    monkeypatch.setattr(writebehind, "RETRY_S", 0.001)
    made = Node(tmp_path)
    yield made
    for treasury in made.made:
        treasury.close()


@asynccontextmanager
async def running(treasury: Treasury) -> AsyncIterator[None]:
    task = spawn(treasury.run(), name="treasury")
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def take(number: int, *asks: tuple[str, int]) -> Take:
    return Take(number, tuple(Ask(bucket, least, least) for bucket, least in asks))


def granted(message: FromLedger) -> tuple[int, ...]:
    assert isinstance(message, Granted), message
    return message.amounts


# ---- workers --------------------------------------------------------------------------------


def test_workers_are_answered_by_their_boots(node: Node) -> None:
    treasury = node.start()
    for boot in ("a", "b"):
        treasury.worker_started(boot)

    treasury.hear("a", take(1, (REQUESTS, 60), (SLOTS, 1)))
    treasury.hear("b", take(1, (REQUESTS, 40)))

    assert [granted(message) for message in node.heard("a")] == [(60, 1)]
    assert [granted(message) for message in node.heard("b")] == [(40,)]
    assert node.held(treasury) == (100, 0, 0, 1)
    assert treasury.asked == 2


def test_everything_that_a_worker_says_is_understood(node: Node) -> None:
    treasury = node.start()
    for boot in ("a", "b"):
        treasury.worker_started(boot)
    treasury.hear("a", take(1, (TOKENS, 1_000)))
    node.heard("a")

    treasury.hear("b", take(1, (TOKENS, 1)))
    (recall,) = node.heard("a")
    assert isinstance(recall, Recall)
    treasury.hear("a", GiveBack((Amount(TOKENS, 10),)))
    treasury.hear("a", Recalled(recall.serial))
    assert [granted(message) for message in node.heard("b")] == [(1,)]

    treasury.hear("a", Force((Amount(TOKENS, 500),)))
    assert node.held(treasury)[1] == 990 + 1 + 500
    treasury.hear("b", take(2, (TOKENS, 1)))
    treasury.hear("b", Cancel(2))
    assert "pending=0" in repr(treasury)
    assert node.held(treasury)[1] == 990 + 1 + 500


def test_a_worker_that_is_silent_but_not_dead_keeps_its_claims(node: Node) -> None:
    """It may still be at work on what it was granted."""
    treasury, writer = node.start(), Writer(node.directory, "a")
    for boot in ("a", "b"):
        treasury.worker_started(boot)
    treasury.hear("a", take(1, (TOKENS, 1_000)))

    treasury.worker_silent("a")
    treasury.hear("b", take(1, (TOKENS, 10)))

    (refused,) = node.heard("b")
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.HELD
    writer.end(writer.begin(), 300, 0)
    writer.die()
    treasury.worker_dead("a")
    assert (node.spent(treasury)[1], node.held(treasury)) == (300, NOTHING)
    treasury.hear("b", take(2, (TOKENS, 10)))
    assert [granted(message) for message in node.heard("b")] == [(10,)]


def test_who_was_refused_hears_of_what_a_dead_worker_leaves(node: Node) -> None:
    treasury = node.start()
    for boot in ("a", "b"):
        treasury.worker_started(boot)
    treasury.hear("a", take(1, (SLOTS, 10)))
    treasury.worker_silent("a")
    treasury.hear("b", take(1, (SLOTS, 1)))
    (refused,) = node.heard("b")
    assert isinstance(refused, Refused)

    treasury.worker_dead("a")

    assert node.heard("b") == [Reopened((SLOTS,))]


def test_a_worker_dies_once(node: Node) -> None:
    treasury, writer = node.start(), Writer(node.directory, "a")
    treasury.worker_started("a")
    writer.begin(10, 100)
    writer.die()

    for _ in range(2):
        treasury.worker_dead("a")
        treasury.worker_silent("a")

    assert (node.spent(treasury), node.held(treasury)) == ((1, 10, 100, 0), NOTHING)


@pytest.mark.asyncio
async def test_a_worker_that_dies_before_it_wrote_anything_stops_nothing(node: Node) -> None:
    treasury, writer = node.start(), Writer(node.directory, "b")
    for boot in ("a", "b"):
        treasury.worker_started(boot)
    treasury.hear("a", take(1, (TOKENS, 900)))
    async with running(treasury):
        treasury.worker_silent("a")
        treasury.worker_dead("a")
        writer.end(writer.begin(), 5, 50)
        await until(lambda: node.store.get("journal/b") is not None, "it was not written")

    assert node.held(treasury) == NOTHING
    assert node.store.get("journal/a") is None
    writer.die()


@pytest.mark.asyncio
async def test_a_dead_worker_whose_journal_cannot_be_read_is_buried_when_it_can(
    node: Node, no_leaks: Failures
) -> None:
    treasury, writer = node.start(), Writer(node.directory, "a")
    treasury.worker_started("a")
    treasury.hear("a", take(1, (TOKENS, 900)))
    writer.begin(10, 100)
    writer.die()
    (node.directory / "0-2.jsonl").mkdir()

    treasury.worker_dead("a")

    assert node.held(treasury)[1] == 900
    (node.directory / "0-2.jsonl").rmdir()
    async with running(treasury):
        await until(lambda: node.held(treasury) == NOTHING, "it is still claimed")
    assert node.spent(treasury) == (1, 10, 100, 0)
    assert ["journal_not_read" in said for said in no_leaks.seen] == [True]
    no_leaks.seen.clear()


# ---- rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "room"), [(12, True), (3, False)])
def test_another_limit_is_in_force_at_once_and_keeps_what_is_claimed(
    node: Node, slots: int, room: bool
) -> None:
    node.book = Rulebook({})
    node.book.set_key("Ab12", (parse_limit("concurrent=10"),))
    treasury = node.start()
    name = "key/Ab12/concurrent"
    for boot in ("a", "b"):
        treasury.worker_started(boot)
    treasury.hear("a", take(1, (name, 9)))
    node.heard("a")

    node.book.set_key("Ab12", (parse_limit(f"concurrent={slots}"),))
    treasury.rules_changed()

    assert [type(message) for message in node.heard("a")] == [Recall]
    treasury.hear("b", take(1, (name, 2)))
    for recall in node.heard("a"):
        assert isinstance(recall, Recall)
        treasury.hear("a", Recalled(recall.serial))
    (answer,) = node.heard("b")
    assert isinstance(answer, Granted if room else Refused)


# ---- time -----------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("comes_late", [False, True])
async def test_a_call_that_waits_is_answered_when_time_has_made_room(
    node: Node, monkeypatch: pytest.MonkeyPatch, comes_late: bool
) -> None:
    """Also where it comes in the pause of an idle node, which is a long one then."""
    rule = parse_limit("requests=100/day,at_limit=queue,wait=1000s")
    node.book = Rulebook({ACME: (rule,)})
    treasury, writer = node.start(), Writer(node.directory, "a")
    treasury.worker_started("a")
    if comes_late:
        monkeypatch.setattr(module, "IDLE_EVERY_S", 3_600.0)

    def come() -> None:
        treasury.hear("a", take(1, (REQUESTS, 100)))
        node.heard("a")
        for _ in range(100):
            writer.end(writer.begin(), 0, 0)
        treasury.hear("a", take(2, (REQUESTS, 1)))
        (recall,) = node.heard("a")
        assert isinstance(recall, Recall)
        treasury.hear("a", Recalled(recall.serial))

    if not comes_late:
        come()
    async with running(treasury):
        if comes_late:
            await asyncio.sleep(0.01)
            come()
        node.now_ms += 863_000
        assert node.heard("a") == []
        node.now_ms += 2_000
        await until(lambda: bool(node.said), "nobody answered")

    assert [granted(message) for message in node.heard("a")] == [(1,)]
    writer.die()


def test_a_clock_that_was_set_back_before_a_restart_frees_and_takes_nothing(node: Node) -> None:
    treasury, writer = node.start(), Writer(node.directory, "a")
    writer.end(writer.begin(), 300, 77)
    writer.die()
    treasury.close()

    node.now_ms -= 3_600_000
    again = node.start()

    assert node.spent(again) == (1, 300, 77, 0)


# ---- the store ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_a_full_disk_did_not_take_is_written_when_it_has_room(
    node: Node, no_leaks: Failures
) -> None:
    """Nothing is lost, nothing is counted twice, and it is said once."""
    treasury, writer = node.start(), Writer(node.directory, "a")
    treasury.worker_started("a")
    node.store.full = True
    async with running(treasury):
        for _ in range(3):
            refused = node.store.refused
            writer.end(writer.begin(), 10, 100)
            await until(lambda: node.store.refused > refused + 1, "it was not tried")  # noqa: B023
        node.store.full = False
        await until(lambda: node.spent(treasury) == (3, 30, 300, 0), "it was not counted")
        await until(lambda: bool(node.store.writes), "it was not written")

    assert node.spent(node.start()) == (3, 30, 300, 0)
    writer.die()
    assert ["no space left" in said for said in no_leaks.seen] == [True, False]
    no_leaks.seen.clear()  # the other is that the worker outlived its supervisor


def test_the_end_writes_everything(node: Node) -> None:
    treasury, writer = node.start(), Writer(node.directory, "a")
    treasury.worker_started("a")
    ended = writer.begin(1, 1)
    writer.begin(20, 200)
    writer.end(ended, 10, 100)
    treasury.denied([denial()])
    writer.die()

    treasury.close()

    assert {name for name, _ in node.store.items("")} == {
        f"bucket/{REQUESTS}", f"bucket/{TOKENS}", f"bucket/{USD}",
        f"event/{NOW_MS}/0000000001", "journal/a",
    }  # fmt: skip
    assert node.spent(node.start()) == (2, 30, 300, 0)


def denial() -> Denial:
    return Denial(
        at_ms=NOW_MS,
        last_ms=NOW_MS,
        org="acme",
        key_id="Ab12",
        model="m",
        action=Action.REFUSED,
        code="rate_limit_exceeded",
        bucket=REQUESTS,
        limit=100,
        balance=0,
        wanted=1,
    )


@pytest.mark.asyncio
async def test_denials_are_found_before_and_after_they_are_written(node: Node) -> None:
    treasury = node.start()
    treasury.denied([denial()])
    assert treasury.events.find() == [denial()]
    async with running(treasury):
        await until(lambda: bool(list(node.store.items("event/"))), "it was not written")

    assert node.start().events.find() == [denial()]


def test_a_start_writes_what_it_has_counted_before_anybody_serves(node: Node) -> None:
    writer = Writer(node.directory, "a")
    writer.begin(10, 100)
    writer.die()

    node.start()

    assert b"true" in (node.store.get("journal/a") or b"")


def test_a_worker_of_an_earlier_start_is_told_of_and_waited_for(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(node.directory, "a", worker="3")
    writer.begin(10, 100)

    treasury = node.start()

    assert "worker=3 pid=" in caplog.text
    assert "of an earlier start lives" in caplog.text
    assert node.held(treasury) == (0, 10, 100, 1)
    treasury.worker_started("b")
    treasury.hear("b", take(1, (USD, 901)))
    (refused,) = node.heard("b")
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.left) == (Reason.HELD, 900)
    writer.die()


@pytest.mark.asyncio
async def test_what_a_worker_of_an_earlier_start_held_is_free_once_it_has_ended(
    node: Node, no_leaks: Failures
) -> None:
    writer = Writer(node.directory, "a")
    ended = writer.begin(10, 100)
    writer.begin(20, 200)
    treasury = node.start()
    writer.end(ended, 5, 50)
    async with running(treasury):
        await until(lambda: node.held(treasury) == (0, 20, 200, 1), "it did not end")
        writer.die()
        await until(lambda: node.held(treasury) == NOTHING, "it is still claimed")

    assert node.spent(treasury) == (2, 25, 250, 0)
    no_leaks.seen.clear()


@pytest.mark.asyncio
async def test_who_was_refused_hears_when_a_call_of_an_earlier_start_ends(
    node: Node, no_leaks: Failures
) -> None:
    writer = Writer(node.directory, "a")
    calls = [writer.begin() for _ in range(10)]
    treasury = node.start()
    treasury.worker_started("b")
    treasury.hear("b", take(1, (SLOTS, 1)))
    (refused,) = node.heard("b")
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.OCCUPIED
    async with running(treasury):
        writer.end(calls[0])
        await until(lambda: bool(node.said), "nobody was told")

    assert node.heard("b") == [Reopened((SLOTS,))]
    writer.die()
    no_leaks.seen.clear()


def test_a_journal_that_cannot_be_read_is_no_start(node: Node) -> None:
    (node.directory / "0-1.jsonl").mkdir()

    with pytest.raises(JournalError, match="is a directory"):
        node.start()
    (node.directory / "0-1.jsonl").rmdir()


def test_repr_shows_the_state(node: Node) -> None:
    treasury = node.start()
    treasury.worker_started("a")

    assert repr(treasury).startswith("<Treasury live=1 <Desk workers=1 pending=0>")
