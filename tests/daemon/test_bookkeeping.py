"""Journals folded into books: each call once, whoever dies, and whatever the disk does."""

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from llmrouter.config.schema import Config
from llmrouter.contracts.store import Store
from llmrouter.daemon import bookkeeping as module
from llmrouter.daemon.bookkeeping import Bookkeeping, catch_up
from llmrouter.daemon.state import StateError, open_state
from llmrouter.daemon.teller import Teller, saved_positions
from llmrouter.metering import bookfile
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.journal import journal_paths
from llmrouter.metering.records import FORMAT, Header
from llmrouter.metering.replay import pair
from tests.daemon.spending import NOW_MS, Writer, now_ms, rulebook
from tests.metering.test_journal import ROOT

DAY_MS = 86_400_000
FAR_S = 1e9


class Desk:
    """A directory of journals, and who keeps their books one after the other."""

    def __init__(self, directory: Path) -> None:
        self.journal = directory / "journal"
        self.journal.mkdir()
        self.path = directory / "books.db"
        self._stack = contextlib.ExitStack()

    def open(self) -> Bookkeeping:
        """The books, as a new process finds them."""
        self.close()
        keeping = Bookkeeping(self.path, self.journal)
        self._stack.callback(keeping.close)
        return keeping

    def close(self) -> None:
        """Let go of them."""
        self._stack.close()

    def writer(self, boot: str = "b00t", worker: str = "0") -> Writer:
        """A worker that begins to live."""
        return Writer(self.journal, boot, worker)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def rows(path: Path, select: str = "SELECT request_id, outcome FROM usage_calls ORDER BY id") -> (
    list[tuple[object, ...]]
):  # fmt: skip
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(select).fetchall()


def outcomes(desk: Desk) -> Counter[object]:
    return Counter(outcome for _, outcome in rows(desk.path))


def fold_all(keeping: Bookkeeping) -> None:
    assert not keeping.fold_all(lambda: 0.0, FAR_S)


# ---- each call once -------------------------------------------------------------------------


def test_a_call_is_in_the_books_when_it_has_ended(desk: Desk) -> None:
    keeping, writer = desk.open(), desk.writer()
    first, _ = writer.begin(10, 100), writer.begin(20, 200)
    assert not keeping.fold()
    assert rows(desk.path) == []

    writer.end(first, 9, 90)

    assert not keeping.fold()
    assert rows(desk.path, "SELECT request_id, outcome, cost_nano_usd FROM usage_calls") == [
        ("req_1", "ok", 90)
    ]
    writer.die()


def test_calls_of_the_dead_are_closed_at_their_hold_and_nobody_has_to_say_who_died(
    desk: Desk,
) -> None:
    keeping, living, dying = desk.open(), desk.writer("a"), desk.writer("b", worker="1")
    living.begin(10, 100)
    raised = dying.begin(20, 200)
    dying.hold(raised, 30, 300)
    fold_all(keeping)
    assert rows(desk.path) == []

    dying.die()
    fold_all(keeping)

    wanted = "SELECT request_id, outcome, prompt_tokens, cost_nano_usd FROM usage_calls"
    assert rows(desk.path, wanted) == [("req_1", "interrupted", 30, 300)]
    assert keeping.positions()["b"].closed
    living.die()


def test_the_next_process_goes_on_where_the_last_one_stored(desk: Desk) -> None:
    writer = desk.writer()
    calls = [writer.begin() for _ in range(4)]
    for number, call in enumerate(calls):
        writer.end(call)
        desk.open().fold()
        assert len(rows(desk.path)) == number + 1
    writer.begin(5, 50)
    writer.die()
    for _ in range(2):
        fold_all(desk.open())

    assert outcomes(desk) == {"ok": 4, "interrupted": 1}


def test_one_round_folds_so_much_and_says_that_there_is_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_RECORDS", 10)
    keeping, writer = desk.open(), desk.writer()
    for _ in range(25):
        writer.end(writer.begin())

    rounds = [keeping.fold() for _ in range(6)]

    assert rounds == [True] * 5 + [False]
    assert len(rows(desk.path)) == 25
    writer.die()


def test_folding_everything_ends_with_the_time_that_it_has(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_RECORDS", 10)
    keeping, writer = desk.open(), desk.writer()
    for _ in range(25):
        writer.end(writer.begin())
    times = iter([0.0, 1.0, 2.0])

    assert keeping.fold_all(lambda: next(times), 2.0)

    assert len(rows(desk.path)) == 14
    writer.die()


def test_the_dead_are_folded_to_their_end_even_in_many_rounds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_RECORDS", 10)
    for boot in "abc":
        writer = desk.writer(boot)
        for _ in range(12):
            writer.end(writer.begin())
        writer.begin()
        writer.die()

    fold_all(desk.open())

    assert outcomes(desk) == {"ok": 36, "interrupted": 3}


def test_more_boots_than_files_may_be_open_are_folded(desk: Desk) -> None:
    """As the first books of a long-lived state find them."""
    boots = 100
    for number in range(boots):
        writer = desk.writer(f"b{number}")
        writer.end(writer.begin())
        writer.die()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + boots // 2, hard))
    try:
        fold_all(desk.open())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert outcomes(desk) == {"ok": boots}


def test_positions_are_forgotten_with_their_files(desk: Desk) -> None:
    keeping = desk.open()
    for boot in ("a", "b"):
        writer = desk.writer(boot)
        writer.end(writer.begin())
        writer.die()
    fold_all(keeping)
    assert keeping.positions().keys() == {"a", "b"}

    (desk.journal / "0-1.jsonl").unlink()
    fold_all(keeping)
    assert keeping.positions().keys() == {"b"}

    (desk.journal / "0-2.jsonl").unlink()
    keeping = desk.open()
    fold_all(keeping)
    assert keeping.positions() == {}
    assert len(rows(desk.path)) == 2


def test_what_is_kept_no_longer_goes_and_its_totals_stay(desk: Desk) -> None:
    keeping, writer = desk.open(), desk.writer()
    writer.end(writer.begin(), 9, 90)
    fold_all(keeping)

    assert not keeping.prune(NOW_MS + DAY_MS)

    assert rows(desk.path) == []
    assert rows(desk.path, "SELECT calls, cost_nano_usd FROM usage_days") == [(1, 90)]
    writer.die()


# ---- what cannot be read --------------------------------------------------------------------


def test_a_damaged_line_costs_only_itself_and_is_met_once(desk: Desk) -> None:
    keeping, writer = desk.open(), desk.writer()
    writer.write(b"no record")
    fold_all(keeping)
    before = keeping.positions()["b00t"].offset

    fold_all(desk.open())
    writer.end(writer.begin())
    keeping = desk.open()
    fold_all(keeping)

    assert outcomes(desk) == {"ok": 1}
    assert keeping.positions()["b00t"].offset > before > 0
    writer.die()


def unreadable(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


def newer(path: Path) -> str:
    header = Header(format=FORMAT + 1, worker="0", boot="new", pid=1)
    path.write_bytes(msgspec.json.encode(header) + b"\n")
    return f"has journal format {FORMAT + 1}, this version reads up to {FORMAT}"


def test_a_journal_that_cannot_be_read_is_told_once_and_the_others_are_folded(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    keeping, writer = desk.open(), desk.writer()
    words = unreadable(desk.journal / "1-1.jsonl")
    writer.end(writer.begin())

    for _ in range(3):
        fold_all(keeping)

    assert outcomes(desk) == {"ok": 1}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("journal_not_booked=")
    assert words in said
    (desk.journal / "1-1.jsonl").rmdir()
    writer.die()


def test_a_journal_of_a_newer_version_is_told_once_and_folding_goes_on_when_it_is_gone(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    keeping, writer = desk.open(), desk.writer()
    words = newer(desk.journal / "1-1.jsonl")
    writer.end(writer.begin())
    for _ in range(3):
        fold_all(keeping)
    (said,) = [record.getMessage() for record in caplog.records]
    assert words in said

    (desk.journal / "1-1.jsonl").unlink()
    fold_all(keeping)

    assert outcomes(desk) == {"ok": 1}
    writer.die()


def test_a_journal_of_a_newer_version_is_no_start(desk: Desk) -> None:
    words = newer(desk.journal / "1-1.jsonl")

    with pytest.raises(BooksError, match=f"the journals cannot be read for the books: .*{words}"):
        desk.open()


def test_books_that_are_none_are_no_start_and_left_as_they_are(desk: Desk) -> None:
    desk.path.write_bytes(b"precious" * 999)

    with pytest.raises(BooksError, match="is damaged or is not a database"):
        desk.open()

    assert desk.path.read_bytes() == b"precious" * 999


# ---- what cannot be written -----------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookfile, "LOCK_TIMEOUT_S", 0.0)


@contextlib.contextmanager
def locked(desk: Desk, _: Bookkeeping) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(desk.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def full(_: Desk, keeping: Bookkeeping) -> Iterator[None]:
    db = keeping._books._db
    ((pages,),) = db.execute("PRAGMA page_count").fetchall()
    db.execute(f"PRAGMA max_page_count = {pages}")
    yield
    db.execute("PRAGMA max_page_count = 1000000")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("refused", [locked, full])
def test_what_cannot_be_stored_is_read_again_until_it_is(
    desk: Desk,
    refused: Callable[[Desk, Bookkeeping], contextlib.AbstractContextManager[None]],
) -> None:
    keeping, writer = desk.open(), desk.writer()
    for _ in range(500):
        writer.end(writer.begin(), 3, 30)
    with refused(desk, keeping):
        for _ in range(3):
            with pytest.raises(BooksError):
                keeping.fold()
            writer.end(writer.begin(), 3, 30)
        assert rows(desk.path) == []

    fold_all(keeping)

    assert outcomes(desk) == {"ok": 503}
    writer.die()


@pytest.mark.usefixtures("impatient")
def test_a_round_that_finds_nothing_needs_no_lock(desk: Desk) -> None:
    keeping, writer = desk.open(), desk.writer()
    writer.end(writer.begin())
    fold_all(keeping)
    with locked(desk, keeping):
        assert not keeping.fold()
    writer.die()


@pytest.mark.usefixtures("impatient")
def test_what_could_not_be_stored_is_read_again_by_the_next_process(desk: Desk) -> None:
    keeping, writer = desk.open(), desk.writer()
    writer.end(writer.begin())
    with locked(desk, keeping), pytest.raises(BooksError):
        keeping.fold()

    fold_all(desk.open())

    assert outcomes(desk) == {"ok": 1}
    writer.die()


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.touch()


@pytest.mark.parametrize("gone", [removed, replaced])
def test_books_that_were_moved_away_are_not_written_as_if_they_were_kept(
    desk: Desk, gone: Callable[[Path], None]
) -> None:
    """Journals would be deleted, and what they had be in a file that nobody looks at."""
    keeping, writer = desk.open(), desk.writer()
    keeping.fold()
    writer.end(writer.begin())
    gone(desk.path)

    for _ in range(2):
        with pytest.raises(BooksError, match=r"were moved away or replaced .*; restart to go on"):
            keeping.fold()

    desk.path.unlink(missing_ok=True)
    for aside in desk.path.parent.glob("books.db-*"):
        aside.unlink()
    fold_all(desk.open())
    assert outcomes(desk) == {"ok": 1}
    writer.die()


# ---- killed ---------------------------------------------------------------------------------

_FOLD = """
import sys
from pathlib import Path
from llmrouter.daemon import bookkeeping
bookkeeping.ROUND_RECORDS = 7
keeping = bookkeeping.Bookkeeping(Path(sys.argv[1], "books.db"), Path(sys.argv[1], "journal"))
print("folding", flush=True)
while True:
    keeping.fold()
"""
_WRITE = """
import sys
from pathlib import Path
from tests.daemon.spending import Writer
writer = Writer(Path(sys.argv[1], "journal"), sys.argv[2])
print("writing", flush=True)
running = []
for number in range(1_000_000):
    running.append(writer.begin(number, number))
    if len(running) > 5:
        writer.end(running.pop(number * 7 % 6), number, number)
"""


def begun(script: str, *arguments: str) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() in (b"folding\n", b"writing\n")
    return child


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_of_folding_or_writing_loses_and_doubles_nothing(
    desk: Desk, kills: int
) -> None:
    """FR-013: no row twice, none missing, whoever is killed when."""
    chance, directory = random.Random(kills), str(desk.path.parent)
    for number in range(kills):
        children = [begun(_FOLD, directory), begun(_WRITE, directory, f"b{number}")]
        with contextlib.suppress(subprocess.TimeoutExpired):
            children[0].wait(chance.uniform(0.01, 0.2))
        chance.shuffle(children)
        for child in children:
            with child:
                assert child.poll() is None
                child.send_signal(signal.SIGKILL)

    fold_all(desk.open())

    found = pair(journal_paths(desk.journal))
    written = Counter(
        ("interrupted", call.hold[1]) if call.end is None else ("ok", call.end.cost_nano_usd)
        for call in found.calls
    )
    booked = rows(desk.path, "SELECT outcome, cost_nano_usd FROM usage_calls")
    assert Counter((outcome, cost or 0) for outcome, cost in booked) == written
    assert sum(written.values()) > 100 * kills
    totals = "SELECT SUM(calls), SUM(interrupted), SUM(cost_nano_usd) FROM usage_hours"
    assert rows(desk.path, totals) == rows(desk.path, totals.replace("hours", "days"))
    assert rows(desk.path, totals) == [
        (
            sum(written.values()),
            sum(count for (outcome, _), count in written.items() if outcome == "interrupted"),
            sum((cost or 0) * count for (_, cost), count in written.items()),
        )
    ]


# ---- by the command line --------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(file=tmp_path / "router.toml", state=str(tmp_path / "state"))


@pytest.fixture
def state(config: Config) -> Path:
    with open_state(Path(config.state)) as opened:
        return opened.path


def test_who_asks_where_nothing_is_makes_nothing(config: Config) -> None:
    catch_up(config)

    assert not Path(config.state).exists()


def test_who_asks_before_the_first_call_makes_no_books(config: Config, state: Path) -> None:
    before = sorted(state.iterdir())

    catch_up(config)

    assert sorted(state.iterdir()) == before


def test_what_stands_in_the_journals_alone_is_folded_and_the_dead_are_closed(
    config: Config, state: Path
) -> None:
    writer = Writer(state / "journal")
    writer.end(writer.begin(), 9, 90)
    writer.begin(5, 50)
    writer.die()

    for _ in range(2):
        catch_up(config)

    assert rows(state / "books.db") == [("req_1", "ok"), ("req_2", "interrupted")]


def test_the_ledger_neither_hears_of_that_nor_loses_a_journal(config: Config, state: Path) -> None:
    for boot in "abc":
        writer = Writer(state / "journal", boot)
        writer.end(writer.begin(), 9, 90)
        writer.die()

    catch_up(config)

    with open_state(state) as opened:
        assert saved_positions(opened.store) == {}
        assert len(journal_paths(opened.journal_dir)) == 3
        assert used_by(opened.store, opened.journal_dir) == 27


def used_by(store: Store, journal_dir: Path) -> int:
    book = rulebook()
    with contextlib.closing(Teller(store, journal_dir, book, now_ms)) as teller:
        teller.recover()
        (scope,) = book.scopes()
        return teller.standing(book.of_scope(scope))[1].used


def test_a_state_that_a_daemon_has_is_left_to_it(config: Config, state: Path) -> None:
    writer = Writer(state / "journal")
    writer.end(writer.begin())
    with open_state(state):
        catch_up(config)

        assert not (state / "books.db").exists()
    writer.die()


def test_a_daemon_that_starts_meanwhile_gets_the_state(
    config: Config, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is folded by it."""
    monkeypatch.setattr(module, "ROUND_RECORDS", 10)
    monkeypatch.setattr(module, "SLICE_S", 0.0)
    writer = Writer(state / "journal")
    for _ in range(25):
        writer.end(writer.begin())
    daemon = contextlib.ExitStack()
    pauses: list[float] = []

    def start(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            daemon.enter_context(open_state(state))

    monkeypatch.setattr("time.sleep", start)
    with daemon:
        catch_up(config)

    assert pauses == [module.PAUSE_S] * 3
    assert len(rows(state / "books.db")) == 14
    writer.die()


def test_a_state_that_must_not_be_used_is_told(config: Config, state: Path) -> None:
    writer = Writer(state / "journal")
    writer.end(writer.begin())
    writer.die()
    (state / "llmrouter-state").write_bytes(msgspec.json.encode({"format": 99}))

    with pytest.raises(StateError, match="was made by a newer llmrouter"):
        catch_up(config)


def test_repr_shows_the_state(desk: Desk) -> None:
    assert repr(desk.open()) == f"<Bookkeeping <Books {desk.path}> more=False>"
