"""What is to be in the store gets there: late, together, and whatever goes wrong in between."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from llmrouter.contracts.store import StoreError
from llmrouter.daemon import writebehind
from llmrouter.daemon.writebehind import Changes, WriteBehind
from llmrouter.stores.memory import MemoryStore
from llmrouter.tasks import spawn
from tests.daemon.spending import FullStore
from tests.support.leaks import Failures
from tests.support.waiting import until


class Source:
    """What there is to write, given away once; a book of its own; and what that was told."""

    def __init__(self) -> None:
        self.gathered: dict[str, bytes | None] = {}
        self.kept: dict[str, bytes | None] = {}
        self.told: list[dict[str, bytes | None]] = []

    def gather(self) -> Changes:
        given, self.gathered = self.gathered, {}
        return given

    def changes(self) -> Changes:
        return dict(self.kept)

    def written(self, changes: Changes) -> None:
        self.told.append(dict(changes))
        self.kept = {name: value for name, value in self.kept.items() if name not in changes}


class SyncedStore(MemoryStore):
    """Knows what the end of the machine would leave of it."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.lasting: dict[str, bytes] = {}
        self.full = False

    def sync(self) -> None:
        if self.full:
            raise StoreError("no space left on device")
        self.syncs += 1
        self.lasting = dict(self.items(""))


class SlowStore(MemoryStore):
    """A store whose disk does not come back before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        self.entered.set()
        assert self.go_on.wait(10)
        super().write(changes)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a second here."""
    monkeypatch.setattr(writebehind, "WRITE_EVERY_S", 0.001)
    monkeypatch.setattr(writebehind, "RETRY_S", 0.001)


@asynccontextmanager
async def running(writing: WriteBehind) -> AsyncIterator[None]:
    task = spawn(writing.run(), name="write behind")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_everything_is_written_in_one_transaction() -> None:
    store, source = FullStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    source.gathered = {"a": b"1", "b": None}

    writing.flush()
    writing.flush()

    assert store.writes == source.told == [{"a": b"1", "b": None}]


@pytest.mark.asyncio
async def test_what_comes_is_written_by_and_by() -> None:
    store, source = FullStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    async with running(writing):
        for number in (1, 2):
            source.gathered = {"a": b"%d" % number}
            await until(lambda: len(source.told) == number, "it was not written")  # noqa: B023
    writing.close()

    assert store.writes == [{"a": b"1"}, {"a": b"2"}]


@pytest.mark.asyncio
async def test_what_a_full_disk_refused_is_written_with_what_follows_and_told_once(
    no_leaks: Failures, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmrouter")
    store, source = FullStore(), Source()
    store.full = True
    writing = WriteBehind(store, source.gather, source)
    async with running(writing):
        source.gathered = {"a": b"1", "b": b"1", "c": b"1"}
        await until(lambda: store.refused > 2, "it did not try again")
        source.gathered = {"b": b"2", "c": None}
        await until(lambda: store.refused > 4, "it did not try again")
        assert source.told == []
        store.full = False
        await until(lambda: bool(source.told), "it gave up")
    writing.close()

    assert store.writes == source.told == [{"a": b"1", "b": b"2", "c": None}]
    assert [record.getMessage() for record in caplog.records] == [
        "ledger_not_written='the store cannot be written: no space left on device';"
        " it is tried again and again",
        "ledger written again",
    ]
    no_leaks.seen.clear()


@pytest.mark.asyncio
async def test_a_write_under_way_when_all_ends_is_waited_for_and_made_again() -> None:
    """Nobody knows how it went: SIGTERM may come at any moment."""
    store, source = SlowStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    source.gathered = {"a": b"1"}
    async with running(writing):
        await asyncio.to_thread(store.entered.wait, 10)
    source.gathered = {"b": b"1"}
    store.go_on.set()

    writing.close()

    assert dict(store.items("")) == {"a": b"1", "b": b"1"}
    assert source.told == [{"a": b"1", "b": b"1"}]


@pytest.mark.asyncio
async def test_what_changes_while_it_is_written_is_written_again() -> None:
    store, source = SlowStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    source.gathered = {"a": b"1", "b": b"1"}
    async with running(writing):
        await asyncio.to_thread(store.entered.wait, 10)
        source.gathered = {"a": b"2"}
        store.go_on.set()
        await until(lambda: len(source.told) == 2, "it was not written")

    assert source.told == [{"a": b"1", "b": b"1"}, {"a": b"2"}]
    assert store.get("a") == b"2"
    writing.close()


def test_a_book_may_think_better_of_what_could_not_be_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, source = FullStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    store.full = True
    source.gathered, source.kept = {"a": b"1"}, {"event/1": b"1"}
    writing.flush()
    source.kept = {"event/2": b"1"}
    store.full = False

    writing.flush()

    assert store.writes == [{"a": b"1", "event/2": b"1"}]
    assert source.kept == {}
    assert len(caplog.records) == 1


def test_repr_shows_the_state(caplog: pytest.LogCaptureFixture) -> None:
    store, source = FullStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    store.full = True
    source.gathered = {"a": b"1"}
    writing.flush()

    assert repr(writing) == "<WriteBehind pending=1 failing=True>"
    assert len(caplog.records) == 1


@pytest.mark.asyncio
async def test_what_was_written_lasts_soon_and_nobody_syncs_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writebehind, "SYNC_EVERY_S", 0.02)
    store, source = SyncedStore(), Source()
    async with running(WriteBehind(store, source.gather, source)):
        source.gathered = {"a": b"1"}
        await until(lambda: store.lasting == {"a": b"1"}, "it was not synced")
        syncs = store.syncs
        await asyncio.sleep(0.1)
        assert store.syncs == syncs == 1
        source.gathered = {"a": b"2"}
        await until(lambda: store.lasting == {"a": b"2"}, "it was not synced")


@pytest.mark.asyncio
async def test_many_writes_share_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writebehind, "SYNC_EVERY_S", 60.0)
    store, source = SyncedStore(), Source()
    writing = WriteBehind(store, source.gather, source)
    async with running(writing):
        for number in range(20):
            source.gathered = {"a": b"%d" % number}
            await until(lambda: store.get("a") == b"%d" % number, "it was not written")  # noqa: B023
    assert store.syncs == 0

    writing.close()

    assert store.lasting == {"a": b"19"}


@pytest.mark.asyncio
async def test_a_sync_that_fails_is_told_and_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_leaks: Failures
) -> None:
    monkeypatch.setattr(writebehind, "SYNC_EVERY_S", 0.002)
    store, source = SyncedStore(), Source()
    store.full = True
    async with running(WriteBehind(store, source.gather, source)):
        source.gathered = {"a": b"1"}
        await until(lambda: "ledger_not_written" in caplog.text, "it was not told")
        store.full = False
        await until(lambda: store.lasting == {"a": b"1"}, "it gave up")
    no_leaks.seen.clear()
