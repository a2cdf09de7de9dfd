"""What was spent is counted once, whatever is killed between counting and storing."""

import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.access.ruletext import parse_limit
from llmrouter.contracts.store import Store, StoreError
from llmrouter.daemon.teller import JournalError, Teller
from llmrouter.metering.records import FORMAT
from llmrouter.quota.messages import Ask
from llmrouter.stores.diskcache import DiskcacheStore
from llmrouter.stores.memory import MemoryStore
from tests.daemon.spending import (
    NOTHING,
    NOW_MS,
    Amounts,
    Writer,
    an_attempt,
    buckets,
    claimed,
    now_ms,
    rulebook,
    used,
)

ROOT = Path(__file__).parent.parent.parent
Tellers = Callable[..., Teller]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def teller(tmp_path: Path, store: MemoryStore) -> Iterator[Tellers]:
    """Makes tellers, as one supervisor after the other does; the last has what was stored."""
    made: list[Teller] = []

    def make(*, recover: bool = True) -> Teller:
        made.append(Teller(store, tmp_path, rulebook(), now_ms))
        if recover:
            made[-1].recover()
        return made[-1]

    yield make
    for each in made:
        each.close()


def spent(teller: Teller) -> Amounts:
    return used(teller.standing(buckets(rulebook())))


def held(teller: Teller) -> Amounts:
    return claimed(teller.standing(buckets(rulebook())))


def test_a_call_costs_a_request_at_its_begin_and_the_rest_at_its_end(
    tmp_path: Path, teller: Tellers
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")

    seq = writer.begin(100, 1_000)
    assert spent(counted) == (1, 0, 0, 0)
    writer.hold(seq, 200, 2_000)
    assert spent(counted) == (1, 0, 0, 0)
    writer.end(seq, 30, 77)

    assert spent(counted) == (1, 30, 77, 0)
    writer.die()


def test_a_call_is_charged_what_all_of_its_attempts_used(tmp_path: Path, teller: Tellers) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")

    others = an_attempt(7, 10), an_attempt(5, None)
    writer.end(writer.begin(100, 1_000), 30, 77, others=others)

    assert spent(counted) == (1, 30 + 7 + 5, 77 + 10, 0)
    writer.die()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_call_that_another_model_takes_over_is_one_request(
    tmp_path: Path, teller: Tellers, *, is_ours: bool
) -> None:
    """Also where an earlier supervisor has begun it."""
    counted, writer = teller(), Writer(tmp_path)
    if is_ours:
        counted.started("b00t")

    first = writer.begin(100, 1_000)
    counted.fold()
    second = writer.begin(100, 1_000, model="n", instead_of=("m",))
    writer.end(first, 30, 70, replaced=True)
    counted.fold()
    writer.end(second, 5, 9)

    assert spent(counted) == (1, 35, 79, 0)
    writer.die()


def test_a_call_that_is_replaced_and_interrupted_is_charged_at_what_it_held(
    tmp_path: Path, teller: Tellers
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    first = writer.begin(100, 1_000)
    writer.begin(40, 400, model="n", instead_of=("m",))
    writer.end(first, 30, 70, replaced=True)
    writer.die()

    assert counted.finish("b00t")

    assert spent(counted) == (1, 30 + 40, 70 + 400, 0)


def test_shadow_calls_are_charged_to_nobody(
    tmp_path: Path, store: MemoryStore, teller: Tellers
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")

    writer.end(writer.begin(100, 1_000, org="(shadow)", key_id="(shadow)"), 30, 77)
    writer.begin(100, 1_000, org="(shadow)", key_id="(shadow)")
    writer.die()

    assert counted.finish("b00t")
    assert (spent(counted), held(counted)) == (NOTHING, NOTHING)
    assert list(counted.changes()) == ["journal/b00t"]


def test_a_call_without_a_price_costs_no_money(tmp_path: Path, teller: Tellers) -> None:
    counted, writer = teller(), Writer(tmp_path)

    writer.end(writer.begin(100, 1_000), 30, None)

    assert spent(counted) == (1, 30, 0, 0)
    writer.die()


def test_what_is_charged_to_a_worker_that_lives_is_claimed_no_more(
    tmp_path: Path, teller: Tellers
) -> None:
    """Folding changes no balance: what was granted becomes what was used."""
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    asks = [Ask(found.bucket, 100, 100) for found in buckets(rulebook())]
    assert counted.ledger.take("b00t", asks, NOW_MS) == (100, 100, 100, 100)

    writer.end(writer.begin(50, 50), 30, 40)

    assert (spent(counted), held(counted)) == ((1, 30, 40, 0), (99, 70, 60, 100))
    writer.die()


def test_the_calls_of_a_dead_worker_are_charged_what_they_held_at_last(
    tmp_path: Path, teller: Tellers
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    writer.end(writer.begin(100, 1_000), 30, 77)
    writer.begin(5, 9)
    extended = writer.begin(100, 1_000)
    counted.fold()
    writer.hold(extended, 300, 3_000)
    writer.hold(extended, 500, 5_000)
    writer.die()

    assert counted.finish("b00t")

    assert spent(counted) == (3, 30 + 5 + 500, 77 + 9 + 5_000, 0)


def test_a_rule_that_came_later_does_not_count_calls_that_reserved_nothing_of_it(
    tmp_path: Path, store: MemoryStore
) -> None:
    """Also where their worker is killed."""
    book = rulebook()
    counted, writer = Teller(store, tmp_path, book, now_ms), Writer(tmp_path)
    counted.started("b00t")
    writer.begin(100, rules=0)
    ended = writer.begin(100, rules=0)
    counted.fold()
    book.generation = 1
    book.set_key("Ab12", (parse_limit("tokens=1000/day"),))
    writer.begin(7, rules=1)
    writer.end(ended, 30)
    writer.die()

    counted.finish("b00t")

    (of_key,) = counted.standing([book.rule("key/Ab12/tokens/day")])  # type: ignore[list-item]  # it is there
    assert of_key.used == 7
    counted.close()


# ---- restarts -------------------------------------------------------------------------------


def test_a_restart_goes_on_behind_what_was_stored(
    tmp_path: Path, store: MemoryStore, teller: Tellers
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    writer.end(writer.begin(), 10, 100)
    counted.fold()
    store.write(counted.changes())
    writer.end(writer.begin(), 20, 200)
    counted.fold()  # counted, and not stored
    writer.end(writer.begin(), 40, 400)  # neither
    writer.die()

    for _ in range(3):
        again = teller()
        assert spent(again) == (3, 70, 700, 0)
        store.write(again.changes())


def test_who_only_looks_leaves_nothing_behind(
    tmp_path: Path, store: MemoryStore, teller: Tellers
) -> None:
    writer = Writer(tmp_path)
    writer.begin(10, 100)
    writer.die()

    for _ in range(2):
        assert spent(teller()) == (1, 10, 100, 0)

    assert list(store.items("")) == []


def test_a_disk_keeps_it_too(tmp_path: Path) -> None:
    DiskcacheStore.create(tmp_path / "store").close()
    (tmp_path / "journal").mkdir()
    writer = Writer(tmp_path / "journal")
    for tokens in (1, 2, 4):
        writer.end(writer.begin(), tokens, 10 * tokens)
        store = DiskcacheStore.open(tmp_path / "store")
        counted = Teller(store, tmp_path / "journal", rulebook(), now_ms)
        counted.recover()
        store.write(counted.changes())
        store.close()
        counted.close()
    writer.die()

    store = DiskcacheStore.open(tmp_path / "store")
    counted = Teller(store, tmp_path / "journal", rulebook(), now_ms)

    assert spent(counted) == (3, 7, 70, 0)
    assert {name for name, _ in store.items("")} == {
        "bucket/org/acme/requests/day",
        "bucket/org/acme/tokens/day",
        "bucket/org/acme/usd/total",
        "journal/b00t",
    }
    store.close()
    counted.close()


class Life:
    """supervisors and workers that come and go over one state, and what is to be counted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: Store = MemoryStore()
        self._boots = 0
        self._writer: Writer | None = None
        self._open: dict[int, tuple[int, int]] = {}
        self.due: Amounts = NOTHING
        self.start()

    def start(self) -> None:
        """A supervisor; that before it, if any, was killed."""
        self.teller = Teller(self._store, self._directory, rulebook(), now_ms)
        self.teller.recover()
        self.check()

    def restart(self) -> None:
        self.teller.close()
        self.start()

    def write(self) -> None:
        self._store.write(self.teller.changes())

    def lose(self) -> None:
        """What was given to be written never was: killed in between."""
        self.teller.changes()
        self.restart()

    def begin(self, tokens: int) -> None:
        if self._writer is None:
            self._boots += 1
            self._writer = Writer(self._directory, f"boot{self._boots}")
            if self._boots % 2:  # the others are of an earlier supervisor
                self.teller.started(self._writer.boot)
        self._open[self._writer.begin(tokens, 10 * tokens)] = tokens, 10 * tokens
        self._add(1, 0, 0)

    def hold(self, tokens: int) -> None:
        if self._writer is not None and self._open:
            seq = min(self._open)
            self._writer.hold(seq, tokens, 10 * tokens)
            self._open[seq] = tokens, 10 * tokens

    def end(self, tokens: int) -> None:
        if self._writer is not None and self._open:
            seq = max(self._open)
            del self._open[seq]
            self._writer.end(seq, tokens, 10 * tokens)
            self._add(0, tokens, 10 * tokens)

    def kill(self) -> None:
        """The worker, unnoticed: a supervisor may be killed before it learns of it."""
        if self._writer is not None:
            self._writer.die()
            boot, self._writer = self._writer.boot, None
            for tokens, nano_usd in self._open.values():
                self._add(0, tokens, nano_usd)
            self._open.clear()
            self.dead = boot

    def bury(self) -> None:
        """The supervisor notices that it is dead."""
        self.kill()
        for boot in self.teller.departed():
            assert self.teller.finish(boot)
            self.teller.ledger.ended(boot)
        if self._boots:
            self.teller.finish(f"boot{self._boots}")

    def _add(self, requests: int, tokens: int, nano_usd: int) -> None:
        due = self.due
        self.due = (due[0] + requests, due[1] + tokens, due[2] + nano_usd, 0)

    def check(self) -> None:
        """All that is in the journals is counted, and the orphan's calls are claimed."""
        self.teller.fold_all()
        found, claims = spent(self.teller), held(self.teller)
        assert found == self.due, "after a start all the dead are counted"
        in_flight = self._open.values()
        sums = sum(tokens for tokens, _ in in_flight), sum(nano for _, nano in in_flight)
        assert claims == (0, *sums, len(in_flight))

    def close(self) -> None:
        self.kill()
        self.teller.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "hold", "end"]), st.integers(0, 1_000).map(lambda n: (n,)))
    | st.tuples(
        st.sampled_from(["kill", "bury", "write", "lose", "restart", "restart"]), st.just(())
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_every_record_is_counted_once_whoever_is_killed_when(
    steps: list[tuple[str, tuple[int, ...]]],
) -> None:
    """Between fold and write, with the write in the store or not; workers alone or with it."""
    with tempfile.TemporaryDirectory() as directory:
        life = Life(Path(directory))
        try:
            for name, args in steps:
                getattr(life, name)(*args)
            life.restart()
            life.kill()
            life.restart()
            life.write()
            life.restart()
        finally:
            life.close()


# ---- orphans --------------------------------------------------------------------------------


def test_the_calls_of_an_orphan_are_claimed_as_long_as_it_lives(
    tmp_path: Path, teller: Tellers
) -> None:
    writer = Writer(tmp_path, "0rphan")
    ended, extended, lost = writer.begin(1, 10), writer.begin(2, 20), writer.begin(4, 40)

    counted = teller()
    assert (spent(counted), held(counted)) == ((3, 0, 0, 0), (0, 7, 70, 3))
    writer.end(ended, 100, 1_000)
    assert (spent(counted), held(counted)) == ((3, 100, 1_000, 0), (0, 6, 60, 2))
    writer.hold(extended, 200, 2_000)
    counted.fold()
    assert counted.departed() == []
    assert held(counted) == (0, 204, 2_040, 2)
    writer.end(lost, 0, 0)
    assert held(counted) == (0, 200, 2_000, 1)
    writer.die()

    assert counted.departed() == ["0rphan"]
    assert counted.finish("0rphan")
    counted.ledger.ended("0rphan")
    assert (spent(counted), held(counted)) == ((3, 300, 3_000, 0), NOTHING)
    assert counted.departed() == []


def test_an_orphan_that_had_no_file_yet_is_one_too(tmp_path: Path, teller: Tellers) -> None:
    """Its supervisor died while it started; it had a moment to take calls."""
    counted = teller()
    writer = Writer(tmp_path, "late")

    writer.begin(5, 50)

    assert held(counted) == (0, 5, 50, 1)
    writer.die()
    assert counted.departed() == ["late"]


CHILD = """
import sys
from pathlib import Path
from tests.daemon.spending import Writer
Writer(Path(sys.argv[1]), "ch1ld").begin(5, 50)
print("written", flush=True)
sys.stdin.read()
"""


def test_an_orphan_in_a_process_of_its_own_lives_until_it_is_killed(
    tmp_path: Path, teller: Tellers
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"

        counted = teller(recover=False)
        (orphan,) = counted.recover()
        assert (orphan.boot, orphan.pid, orphan.in_flight) == ("ch1ld", child.pid, 1)
        assert held(counted) == (0, 5, 50, 1)
        child.kill()

    assert counted.departed() == ["ch1ld"]
    assert counted.finish("ch1ld")
    assert spent(counted) == (1, 5, 50, 0)


# ---- what cannot be read --------------------------------------------------------------------


def test_calls_whose_journal_was_removed_are_told(
    tmp_path: Path, store: MemoryStore, teller: Tellers, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever cleans up while nothing runs shall not learn it from the bill."""
    first, writer = teller(), Writer(tmp_path)
    first.started("b00t")
    writer.begin(5, 50)
    first.fold()
    store.write(first.changes())
    writer.die()
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()

    assert spent(teller()) == (1, 0, 0, 0)

    said = "journal_files_lost=1 calls_lost=1: what they used is not charged"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_more_boots_than_files_may_be_open_are_counted(tmp_path: Path, teller: Tellers) -> None:
    """As an upgrade finds them that reads the journals of a long-lived state for the first time."""
    boots = 200
    for number in range(boots):
        writer = Writer(tmp_path, f"b{number}")
        writer.end(writer.begin(), 3)
        writer.die()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + boots // 2, hard))
    try:
        counted = teller()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert spent(counted) == (boots, 3 * boots, 0, 0)


def test_a_damaged_line_is_told_once_and_what_follows_it_is_counted(
    tmp_path: Path, store: MemoryStore, teller: Tellers, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path)
    counted = teller()
    counted.started("b00t")
    writer.end(writer.begin(), 10, 100)
    writer.write(b'{"t":"end","seq":')
    for _ in range(3):
        counted.fold()
    store.write(counted.changes())

    again = teller()
    seq = writer.begin()
    writer.end(seq, 20, 200)

    assert spent(again) == (2, 30, 300, 0)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"journal={tmp_path}/0-1.jsonl damaged at byte ")
    assert said.endswith(": 18 bytes cannot be read")
    writer.die()


def test_a_worker_that_wrote_nothing_has_no_position(tmp_path: Path, teller: Tellers) -> None:
    counted = teller()
    counted.started("b00t")

    assert counted.finish("b00t")

    assert counted.changes() == {}


def test_positions_are_kept_until_their_files_are_gone(
    tmp_path: Path, store: MemoryStore, teller: Tellers
) -> None:
    writer = Writer(tmp_path)
    writer.end(writer.begin(), 10, 100)
    writer.die()
    counted = teller()
    store.write(counted.changes())
    counted.forget()
    assert counted.changes() == {}
    (tmp_path / "0-1.jsonl").unlink()

    again = teller()
    store.write(again.changes())

    assert [name for name, _ in store.items("journal/")] == []
    assert spent(teller()) == (1, 10, 100, 0)


def test_a_worker_whose_journal_cannot_be_read_now_is_finished_later(
    tmp_path: Path, teller: Tellers, caplog: pytest.LogCaptureFixture
) -> None:
    """What it claims stands for what it may have spent."""
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    writer.begin(10, 100)
    writer.die()
    (tmp_path / "0-2.jsonl").mkdir()

    assert [counted.finish("b00t") for _ in range(3)] == [False] * 3
    assert spent(counted) == (1, 0, 0, 0)
    (tmp_path / "0-2.jsonl").rmdir()

    assert counted.finish("b00t")
    assert spent(counted) == (1, 10, 100, 0)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("journal_not_read=")
    assert "Is a directory" in said


def test_a_journal_of_a_newer_version_stops_nothing_while_it_serves(
    tmp_path: Path, teller: Tellers, caplog: pytest.LogCaptureFixture
) -> None:
    counted, writer = teller(), Writer(tmp_path)
    counted.started("b00t")
    writer.begin()
    newer(tmp_path)

    for _ in range(3):
        counted.fold_all()
        assert not counted.finish("b00t")
    (tmp_path / "1-1.jsonl").unlink()

    assert spent(counted) == (1, 0, 0, 0)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    writer.die()


def foreign(directory: Path) -> str:
    (directory / "0-1.jsonl").mkdir()
    return rf"the journal {directory}/0-1\.jsonl cannot be read: is a directory; make it readable"


def newer(directory: Path) -> str:
    header = b'{"t":"journal","format":%d,"worker":"1","boot":"x","pid":1}\n' % (FORMAT + 1)
    (directory / "1-1.jsonl").write_bytes(header)
    return rf"1-1\.jsonl.*format {FORMAT + 1}"


def missing(directory: Path) -> str:
    directory.rmdir()
    return f"the journal {directory} cannot be read: no such file or directory"


@pytest.mark.parametrize("spoil", [foreign, newer, missing])
def test_nobody_starts_on_a_journal_that_cannot_be_read(
    tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    words = spoil(directory)

    with pytest.raises(JournalError, match=words):
        Teller(MemoryStore(), directory, rulebook(), now_ms).recover()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bucket/org/acme/usd/total", b"\xff", "state of a limit or budget"),
        ("bucket/org/acme/usd/total", b'{"used":"all"}', "Expected `int`, got `str`"),
        ("bucket/org/acme/usd/total", b"[1]", "state of a limit or budget"),
        ("journal/b00t", b"", "a position in a journal"),
        ("journal/b00t", b'["0-1.jsonl","x"]', "Expected `int`, got `str`"),
        ("journal/b00t", b'{"offset":1}', "a position in a journal"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, name: str, value: bytes, words: str) -> None:
    store = MemoryStore()
    store.put(name, value)

    with pytest.raises(StoreError) as refused:
        Teller(store, tmp_path, rulebook(), now_ms)

    assert str(refused.value).startswith(f"{name!r} in the store cannot be read as ")
    assert words in str(refused.value)
    assert "restore the state from a backup" in str(refused.value)


def test_rows_are_what_another_program_can_read(
    tmp_path: Path, store: MemoryStore, teller: Tellers
) -> None:
    writer = Writer(tmp_path)
    writer.end(writer.begin(), 10, 100)
    counted = teller()

    rows = {name: msgspec.json.decode(value or b"") for name, value in counted.changes().items()}

    size = (tmp_path / "0-1.jsonl").stat().st_size
    assert rows == {
        "bucket/org/acme/requests/day": {"used": 1, "at_ms": NOW_MS},
        "bucket/org/acme/tokens/day": {"used": 10, "at_ms": NOW_MS},
        "bucket/org/acme/usd/total": {"used": 100},
        "journal/b00t": ["0-1.jsonl", size, 1, {}, False],
    }
    writer.die()


def test_repr_shows_the_state(tmp_path: Path, teller: Tellers) -> None:
    counted = teller()
    counted.started("b00t")

    assert repr(counted) == "<Teller live=1 orphans=0 <Ledger buckets=0 dirty=0>>"
