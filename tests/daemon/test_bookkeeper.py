"""Books kept while the daemon runs: in time, in words, and whatever the disk does."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmrouter.contracts.store import StoreError
from llmrouter.daemon import bookkeeper as module
from llmrouter.daemon import bookkeeping
from llmrouter.daemon.bookkeeper import BEHIND_MS, FOLD_EVERY_S, RETRY_S, TIDY_EVERY_MS, Bookkeeper
from llmrouter.daemon.bookkeeping import Bookkeeping
from llmrouter.daemon.state import State
from llmrouter.daemon.teller import Teller
from llmrouter.metering import bookfile
from llmrouter.stores.memory import MemoryStore
from llmrouter.tasks import spawn
from tests.daemon.spending import NOW_MS, Writer, rulebook
from tests.daemon.test_bookkeeping import DAY_MS, rows
from tests.support.leaks import Failures
from tests.support.waiting import until


class Node:
    """A state, its clock, and who keeps its books."""

    def __init__(self, directory: Path) -> None:
        directory.joinpath("journal").mkdir()
        self.store = MemoryStore()
        self.state = State(directory, self.store, b"")
        self.now_ms = NOW_MS
        self._stack = contextlib.ExitStack()

    def start(self, keep_days: int = 400) -> Bookkeeper:
        """A daemon begins to live."""
        keeping = Bookkeeping(self.state.books_path, self.state.journal_dir)
        keeper = Bookkeeper(keeping, self.state, keep_days=keep_days, now_ms=lambda: self.now_ms)
        self._stack.callback(keeper.close)
        return keeper

    def writer(self, boot: str = "b00t") -> Writer:
        """A worker begins to live."""
        return Writer(self.state.journal_dir, boot)

    def booked(self) -> int:
        """How many calls are in the books."""
        return len(rows(self.state.books_path))

    def count(self) -> None:
        """Have the ledger count everything, and store it."""
        teller = Teller(self.store, self.state.journal_dir, rulebook(), lambda: self.now_ms)
        with contextlib.closing(teller):
            teller.recover()
            self.store.write(teller.changes())

    def files(self) -> list[str]:
        """The journals."""
        return sorted(os.listdir(self.state.journal_dir))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another program has the books for itself."""
        path = self.state.books_path
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        """Let go."""
        self._stack.close()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(bookfile, "LOCK_TIMEOUT_S", 0.0)
    made = Node(tmp_path)
    yield made
    made.close()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged since this was last asked for."""
    caplog.set_level(logging.INFO)

    def told() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return said

    return told


# ---- the pace -------------------------------------------------------------------------------


def test_a_round_folds_what_is_new_and_rests(node: Node) -> None:
    keeper, writer = node.start(), node.writer()
    writer.end(writer.begin())

    assert keeper.round() == FOLD_EVERY_S < 1

    assert node.booked() == 1
    writer.die()


@pytest.mark.asyncio
async def test_what_has_ended_is_booked_while_it_runs(
    node: Node, no_leaks: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLD_EVERY_S", 0.001)
    keeper, writer = node.start(), node.writer()
    running = spawn(keeper.run(), name="books")
    for number in range(3):
        writer.end(writer.begin())
        await until(lambda at_least=number: node.booked() > at_least, "it is not booked")  # type: ignore[misc]  # a bound variable
    running.cancel()
    await until(running.done, "it goes on")
    writer.begin()
    writer.die()

    node.close()

    assert rows(node.state.books_path)[-1] == ("req_4", "interrupted")


def test_books_that_stay_behind_are_told_once_and_so_is_their_end(
    node: Node, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "ROUND_RECORDS", 10)
    keeper, writer = node.start(), node.writer()
    for _ in range(25):
        writer.end(writer.begin())

    assert keeper.round() == 0
    node.now_ms += BEHIND_MS - 1
    assert keeper.round() == 0
    assert told() == []
    node.now_ms += 1
    assert [keeper.round() for _ in range(2)] == [0, 0]
    assert told() == ["the books are behind the journals; calls are not held up by that"]
    assert "behind=True" in repr(keeper)
    assert [keeper.round() for _ in range(3)] == [0, FOLD_EVERY_S, FOLD_EVERY_S]

    assert told() == ["the books are up to date again"]
    assert "behind=False" in repr(keeper)
    writer.die()


def test_a_clock_that_is_an_hour_earlier_stops_nothing_and_loses_nothing(node: Node) -> None:
    keeper, writer = node.start(keep_days=1), node.writer()
    writer.end(writer.begin())
    keeper.round()
    node.now_ms -= 3_600_000
    writer.end(writer.begin())

    assert keeper.round() == FOLD_EVERY_S

    assert node.booked() == 2
    writer.die()


# ---- the disk -------------------------------------------------------------------------------


def test_what_cannot_be_written_is_told_once_and_written_when_it_can_be(
    node: Node, told: Callable[[], list[str]]
) -> None:
    keeper, writer = node.start(), node.writer()
    writer.end(writer.begin())
    with node.locked():
        assert [keeper.round() for _ in range(3)] == [RETRY_S] * 3
        (said,) = told()
        assert said.startswith(f"books_not_written='the books {node.state.books_path} cannot be")
        assert said.endswith("; it is tried again and again")
        assert "failing=True" in repr(keeper)
        writer.end(writer.begin())

    assert [keeper.round() for _ in range(2)] == [FOLD_EVERY_S] * 2

    assert told() == ["books written again"]
    assert "failing=False" in repr(keeper)
    assert node.booked() == 2
    writer.die()


def test_what_cannot_be_written_at_the_end_is_for_the_next_start(
    node: Node, told: Callable[[], list[str]]
) -> None:
    writer = node.writer()
    writer.end(writer.begin())
    writer.die()
    node.start()
    with node.locked():
        node.close()
    assert told()[0].startswith("books_not_written=")

    node.start()
    node.close()

    assert node.booked() == 1
    assert told() == []


def test_a_stop_does_not_wait_for_books_that_are_far_behind(
    node: Node, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "ROUND_RECORDS", 10)
    monkeypatch.setattr(module, "CLOSE_S", 0.0)
    writer = node.writer()
    for _ in range(25):
        writer.end(writer.begin())
    writer.die()

    node.start()
    node.close()

    assert told() == ["the books are behind; the next start goes on from the journals"]
    assert node.booked() == 4


# ---- what goes ------------------------------------------------------------------------------


def test_single_calls_go_after_their_days_a_piece_at_a_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "PRUNE_ROWS", 2)
    keeper, writer = node.start(keep_days=3), node.writer()
    for _ in range(5):
        writer.end(writer.begin())
    keeper.round()
    node.now_ms += 3 * DAY_MS
    keeper.round()
    assert node.booked() == 5

    node.now_ms += DAY_MS
    assert [keeper.round() for _ in range(3)] == [0, 0, FOLD_EVERY_S]

    assert node.booked() == 0
    assert rows(node.state.books_path, "SELECT SUM(calls) FROM usage_hours") == [(5,)]
    writer.die()


def live_and_die(node: Node, boots: str) -> None:
    """Each of these boots makes one call."""
    for boot in boots:
        writer = node.writer(boot)
        writer.end(writer.begin())
        writer.die()


def test_journals_go_that_books_and_ledger_have_read(
    node: Node, told: Callable[[], list[str]]
) -> None:
    keeper = node.start()
    live_and_die(node, "abc")
    keeper.round()
    node.now_ms += TIDY_EVERY_MS
    keeper.round()
    assert len(node.files()) == 3, "the ledger has not read them"

    node.count()
    keeper.round()
    assert len(node.files()) == 3, "it is not yet time"
    node.now_ms += TIDY_EVERY_MS
    keeper.round()

    assert node.files() == ["0-3.jsonl"]
    assert told() == ["journals_deleted=2"]
    keeper.round()
    assert rows(node.state.books_path, "SELECT boot FROM positions") == [("c",)]


def test_before_a_journal_goes_what_was_counted_of_it_survives_a_power_cut(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced_beside: list[list[str]] = []
    monkeypatch.setattr(node.state.store, "sync", lambda: synced_beside.append(node.files()))
    keeper = node.start()
    live_and_die(node, "ab")
    node.count()
    keeper.round()
    node.now_ms += TIDY_EVERY_MS

    keeper.round()

    assert synced_beside == [["0-1.jsonl", "0-2.jsonl"]]
    assert node.files() == ["0-2.jsonl"]


class Torn(MemoryStore):
    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        raise StoreError("it is torn")


def test_journals_stay_where_the_ledger_cannot_be_read(
    tmp_path: Path, node: Node, told: Callable[[], list[str]]
) -> None:
    node.state.store = Torn()
    keeper = node.start()
    live_and_die(node, "ab")
    node.now_ms += TIDY_EVERY_MS

    assert keeper.round() == FOLD_EVERY_S

    assert len(node.files()) == 2
    assert told() == ["journals_not_deleted='it is torn'; it is tried again later"]


def test_repr_shows_the_state(node: Node) -> None:
    keeper = node.start()

    assert repr(keeper).startswith("<Bookkeeper <Bookkeeping <Books ")
    assert repr(keeper).endswith(" behind=False failing=False>")
