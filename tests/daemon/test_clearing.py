"""Journal files go when nobody needs them: neither a call nor a living worker loses one."""

import contextlib
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from llmrouter.daemon import bookkeeping
from llmrouter.daemon.bookkeeping import Bookkeeping
from llmrouter.daemon.clearing import Positions, clear, unneeded
from llmrouter.daemon.teller import Teller, saved_positions
from llmrouter.metering.tail import Position
from llmrouter.stores.memory import MemoryStore
from tests.daemon.spending import NOTHING, Writer, buckets, claimed, now_ms, rulebook, used
from tests.daemon.test_bookkeeping import rows

SLOW = pytest.mark.slow
NOWHERE = Position()
CLOSED = Position("0-9.jsonl", 1, 1, {}, closed=True)


def at(name: str, *begun_in: str) -> Position:
    return Position(name, 10, 5, {each: [(0, 0, 0)] for each in begun_in})


def write(directory: Path, name: str, boot: str) -> None:
    header = f'{{"t":"journal","worker":"{name[0]}","boot":"{boot}","pid":1}}\n'
    (directory / name).write_text(header if boot else "")


@pytest.mark.parametrize(
    ("position", "needed"),
    [
        (None, True),
        (NOWHERE, True),
        (at("0-1.jsonl"), True),
        (at("0-2.jsonl"), False),
        (at("0-2.jsonl", "0-2.jsonl"), False),
        (at("0-2.jsonl", "0-1.jsonl"), True),
        (at("0-10.jsonl"), False),
        (CLOSED, False),
    ],
)
def test_a_file_is_needed_until_both_are_past_it_and_its_calls_are_over(
    tmp_path: Path, position: Position | None, needed: bool
) -> None:
    write(tmp_path, "0-1.jsonl", "a")
    write(tmp_path, "0-12.jsonl", "a")
    mine: Positions = {"a": position} if position is not None else {}
    past: Positions = {"a": CLOSED}

    for readers in ((mine, past), (past, mine)):
        assert [path.name for path in unneeded(tmp_path, *readers)] == (
            [] if needed else ["0-1.jsonl"]
        )


def test_the_newest_of_each_worker_stays_whatever_it_is(tmp_path: Path) -> None:
    """Its number is what tells the next one how to be called."""
    for name in ("0-2.jsonl", "0-10.jsonl", "1-1.jsonl", "10-1.jsonl", "10-3.jsonl"):
        write(tmp_path, name, "a")

    assert [path.name for path in unneeded(tmp_path, {"a": CLOSED})] == ["0-2.jsonl", "10-1.jsonl"]


def test_a_file_in_which_nobody_has_written_is_not_needed(tmp_path: Path) -> None:
    for name in ("0-1.jsonl", "0-2.jsonl"):
        write(tmp_path, name, "")

    assert [path.name for path in unneeded(tmp_path, {})] == ["0-1.jsonl"]


@pytest.mark.parametrize(
    "content", ["torn", '{"t":"journal","format":9,"worker":"0","boot":"a","pid":1}\n']
)
def test_what_is_not_understood_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "0-1.jsonl").write_text(content)
    (tmp_path / "0-2.jsonl").write_text("")

    assert list(unneeded(tmp_path, {"a": CLOSED})) == []


def test_a_file_of_a_living_writer_stays_whatever_positions_say(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "a")
    writer.begin()
    write(tmp_path, "0-2.jsonl", "b")
    closed = {"a": CLOSED}

    assert clear(tmp_path, lambda: closed, lambda: closed, lambda: closed) == 0
    writer.die()
    assert clear(tmp_path, lambda: closed, lambda: closed, lambda: closed) == 1

    assert [path.name for path in tmp_path.iterdir()] == ["0-2.jsonl"]


def test_only_what_is_durable_counts_and_that_is_asked_for_only_where_it_helps(
    tmp_path: Path,
) -> None:
    for name in ("0-1.jsonl", "0-2.jsonl"):
        write(tmp_path, name, "a")
    stored: Positions = {"a": CLOSED}

    def never() -> Positions:
        pytest.fail("this costs a sync")

    assert clear(tmp_path, lambda: stored, dict, never) == 0
    assert clear(tmp_path, dict, lambda: stored, never) == 0
    assert clear(tmp_path, lambda: stored, lambda: stored, dict) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_directory_is_left_alone(tmp_path: Path) -> None:
    assert clear(tmp_path, dict, dict, dict) == 0


# ---- with those who read --------------------------------------------------------------------


class Node:
    """Workers that write, the books and the ledger that follow, and what both must come to."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self.directory = directory / "journal"
        self.directory.mkdir()
        self.chance = chance
        self.store = MemoryStore()
        self.writers: list[tuple[Writer, list[int]]] = []
        self.expected: Counter[str] = Counter()
        self.tokens = 0
        self.deleted = 0
        self._lives = 0
        self._path = directory / "books.db"
        self._stack = contextlib.ExitStack()
        self.restart()

    def restart(self) -> None:
        """Everything that reads dies; what was stored is what there is."""
        self._stack.close()
        self.keeping = Bookkeeping(self._path, self.directory)
        self._stack.callback(self.keeping.close)
        self.teller = Teller(self.store, self.directory, rulebook(), now_ms)
        self._stack.callback(self.teller.close)
        self.teller.recover()

    def write(self) -> None:
        """A worker lives, begins or ends calls, or dies."""
        if len(self.writers) < 3:
            self._lives += 1
            worker = str(self._lives % 2)
            made = Writer(self.directory, f"b{self._lives}", worker)
            made._files._rotate_bytes = 400  # three records
            self.writers.append((made, []))
        writer, running = self.chance.choice(self.writers)
        for _ in range(self.chance.randrange(8)):
            running.append(writer.begin(2, 20))
        for _ in range(self.chance.randrange(len(running) + 1)):
            writer.end(running.pop(self.chance.randrange(len(running))), 3, 30)
            self._expect("ok", 3)
        if self.chance.random() < 0.1:
            self.kill(writer)

    def kill(self, writer: Writer) -> None:
        """A worker dies; its calls in flight cost their hold."""
        ((gone, running),) = [pair for pair in self.writers if pair[0] is writer]
        gone.die()
        for _ in running:
            self._expect("interrupted", 2)
        self.writers = [pair for pair in self.writers if pair[0] is not writer]

    def _expect(self, outcome: str, tokens: int) -> None:
        self.expected[outcome] += 1
        self.tokens += tokens

    def count(self) -> None:
        """The ledger reads on."""
        self.teller.fold()
        for boot in self.teller.departed():
            if self.teller.finish(boot):
                self.teller.ledger.ended(boot)
        self.teller.forget()

    def store_ledger(self) -> None:
        """What was counted is stored."""
        self.store.write(self.teller.changes())

    def book(self) -> None:
        """The books are folded on."""
        self.keeping.fold()

    def clear(self) -> None:
        """What is needed no more goes."""
        self.deleted += clear(
            self.directory,
            lambda: saved_positions(self.store),
            self.keeping.positions,
            self.keeping.durable,
        )

    def settle(self) -> None:
        """Everybody has died, and everything is read."""
        for writer, _ in list(self.writers):
            self.kill(writer)
        self.restart()
        self.store_ledger()
        self.keeping.fold_all(lambda: 0.0, 1.0)

    def check(self) -> None:
        """Both have each call once."""
        booked = rows(self._path, "SELECT outcome FROM usage_calls")
        assert Counter(outcome for (outcome,) in booked) == self.expected
        standings = self.teller.standing(list(buckets(rulebook())))
        calls = self.expected.total()
        assert used(standings) == (calls, self.tokens, self.tokens * 10, 0)
        assert claimed(standings) == NOTHING

    def close(self) -> None:
        """Let go."""
        self._stack.close()


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=SLOW) for n in range(4, 60))])
def test_no_call_is_lost_or_doubled_whenever_files_go_and_whoever_dies(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FR-013: files go as soon as they may, whatever is killed in between."""
    monkeypatch.setattr(bookkeeping, "ROUND_RECORDS", 9)
    node = Node(tmp_path, random.Random(seed))
    steps = [node.write] * 8 + [node.count, node.store_ledger, node.book, node.clear] * 2
    steps += [node.restart]
    for _ in range(400):
        node.chance.choice(steps)()

    node.settle()

    node.check()
    assert node.deleted > 20
    node.clear()
    assert len(os.listdir(node.directory)) == 2  # the newest of each worker
    for _ in range(2):
        node.count()
        node.store_ledger()
        node.book()
    newest = {boot for boot, position in saved_positions(node.store).items() if position.closed}
    assert len(newest) <= 2
    assert node.keeping.positions().keys() == newest
    node.restart()
    node.check()
    node.close()
