"""Facts folded into the books: each once, whatever breaks off in between."""

import contextlib
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmrouter.contracts.call import Usage
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.booking import INTERRUPTED, NANO_USD_MAX, TOKENS_MAX
from llmrouter.metering.books import DAY_MS, HOUR_MS, Books
from llmrouter.metering.journal import JournalFiles
from llmrouter.metering.records import Attempt, Begin, End
from llmrouter.metering.tail import Began, Damaged, Ended, Folded, Interrupted, Position, Tail
from llmrouter.metering.tally import Tally
from tests.metering.test_journal import ROOT
from tests.metering.test_records import HEADER, a_begin, an_end
from tests.metering.test_replay import lines
from tests.support.folding import fold

BOOT = "b00t"
NOW_MS = 1_763_880_000_000  # 2025-11-23T06:40Z


def ended(seq: int = 1, **changes: object) -> Ended:
    end = replace(an_end(seq), **changes)
    return Ended(BOOT, a_begin(seq), (500, 70_000), end)


def interrupted(seq: int = 1, hold: tuple[int, int] = (500, 70_000)) -> Interrupted:
    return Interrupted(BOOT, a_begin(seq), hold)


counts = st.integers(0, 10**6)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    cached_tokens=counts,
    output_tokens=counts,
    reasoning_tokens=counts,
    cost_nano_usd=st.none() | counts,
)
times = st.integers(NOW_MS - 3 * DAY_MS, NOW_MS + 3 * DAY_MS)
begins = st.builds(
    Begin,
    seq=st.just(0),
    at_ms=times,
    request_id=st.just(""),
    org=st.sampled_from(["acme", "other"]),
    team=st.sampled_from([None, "research"]),
    user=st.sampled_from([None, "ann"]),
    key_id=st.sampled_from(["k1", "k2"]),
    model=st.sampled_from(["small", "large"]),
    deployment=st.just("a/small"),
    upstream=st.sampled_from([None, "a"]),
    dialect=st.just("wire"),
    operation=st.just("chat"),
    stream=st.booleans(),
)
attempts = st.builds(
    Attempt,
    deployment=st.sampled_from(["a/small", "b/large"]),
    upstream=st.sampled_from(["a", "b"]),
    outcome=st.sampled_from(["upstream_error", "hedged"]),
    usage=usages,
    estimated=st.booleans(),
    cost_nano_usd=st.none() | counts,
    duration_ms=counts,
)
ends = st.builds(
    End,
    seq=st.just(0),
    at_ms=times,
    request_id=st.just(""),
    status=st.sampled_from([0, 200, 399, 400, 502]),
    outcome=st.sampled_from(["ok", "client_gone", "upstream_error"]),
    error_code=st.sampled_from([None, "upstream_error"]),
    deployment=st.sampled_from([None, "a/small", "b/large"]),
    attempts=st.integers(1, 3),
    usage=usages,
    cost_nano_usd=st.none() | counts,
    estimated=st.booleans(),
    ttft_ms=st.none() | counts,
    duration_ms=counts,
    others=st.just(()) | st.lists(attempts, max_size=3).map(tuple),
    replaced=st.sampled_from([False, False, True]),
)
any_fact: st.SearchStrategy[Folded] = st.one_of(
    st.builds(Ended, st.just(BOOT), begins, st.tuples(counts, counts), ends),
    st.builds(Ended, st.just(BOOT), begins, st.tuples(counts, counts), ends),
    st.builds(Interrupted, st.just(BOOT), begins, st.tuples(counts, counts)),
    st.builds(Began, st.just(BOOT), st.just("0"), begins),
    st.just(Damaged(Path("0-1.jsonl"), 7, 9)),
)


def at_of(fact: Ended | Interrupted) -> int:
    return fact.end.at_ms if isinstance(fact, Ended) else fact.begin.at_ms


def apart(facts: Iterable[Folded]) -> Iterator[Ended | Interrupted]:
    """A fact for each row: the calls, and each other attempt as if it were one, of 0 attempts."""
    for fact in facts:
        if isinstance(fact, Ended):
            end = replace(fact.end, others=())
            number = 0 if end.replaced else end.attempts
            yield Ended(BOOT, fact.begin, fact.hold, replace(end, attempts=number))
            for other in fact.end.others:
                said = msgspec.structs.asdict(other)
                alone = replace(end, attempts=0, status=0, ttft_ms=None, **said)
                yield Ended(BOOT, fact.begin, fact.hold, alone)
        elif isinstance(fact, Interrupted):
            yield fact


def tally_of(facts: Sequence[Folded]) -> Tally:
    """What the calls among `facts` come to: the specification, written down once more."""
    sums = Counter(dict.fromkeys(Tally.__struct_fields__, 0))
    for fact in apart(facts):
        is_call = isinstance(fact, Interrupted) or fact.end.attempts > 0
        if isinstance(fact, Ended):
            end = fact.end
            usage, cost = end.usage, end.cost_nano_usd
            sums["errors"] += is_call and (end.status >= 400 or end.outcome != "ok")
            sums["estimated"] += end.estimated
        else:
            usage, cost = Usage(prompt_tokens=fact.hold[0]), fact.hold[1] or None
            sums.update(["errors", "estimated", "interrupted"])
        sums["calls" if is_call else "other_attempts"] += 1
        sums["unpriced"] += cost is None
        sums["reported"] += usage.cost_nano_usd is not None
        for name in ("prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"):
            sums[name] += getattr(usage, name)
        sums["cost_nano_usd"] += cost or 0
        sums["reported_nano_usd"] += usage.cost_nano_usd or 0
    return Tally(**sums)


def rows(path: Path, select: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(select).fetchall()


def row(path: Path, columns: str) -> tuple[object, ...]:
    (found,) = rows(path, f"SELECT {columns} FROM usage_calls")
    return found


def booked(path: Path, table: str) -> Tally:
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in Tally.__struct_fields__)
    ((*found,),) = rows(path, f"SELECT {sums} FROM {table}")
    return Tally(*found)  # type: ignore[arg-type]  # sums are integers


def agree(path: Path) -> Tally:
    """The one tally that the books have of all calls, hours and days."""
    (tally,) = {booked(path, table) for table in ("singles", "usage_hours", "usage_days")}
    return tally


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
def books(path: Path) -> Iterator[Books]:
    with contextlib.closing(Books(path)) as made:
        yield made


# ---- what a row says ----------------------------------------------------------------------------


def test_a_call_is_booked_with_all_that_is_known_of_it(path: Path, books: Books) -> None:
    begin = Begin(
        seq=1, at_ms=1, request_id="req_1", org="acme", team="research", user="ann", key_id="Ab12",
        model="large", deployment="a/large", upstream="a", dialect="wire", operation="chat",
        stream=True,
    )  # fmt: skip
    usage = Usage(
        prompt_tokens=9, cached_tokens=4, output_tokens=3, reasoning_tokens=2, cost_nano_usd=8
    )
    end = End(
        seq=1, at_ms=NOW_MS, request_id="req_1", status=502, outcome="upstream_error",
        error_code="upstream_error", attempts=2, usage=usage, cost_nano_usd=7, estimated=True,
        ttft_ms=5, duration_ms=6, price="2.5/1.25/10",
    )  # fmt: skip

    assert fold(books, [Began(BOOT, "0", begin), Ended(BOOT, begin, (0, 0), end)], {}) == 1

    assert rows(path, "SELECT * FROM usage_calls") == [
        (1, "2025-11-23T06:40:00.000Z", NOW_MS, "req_1", "acme", "research", "ann", "Ab12",
         "large", "a/large", "a", "wire", "chat", 1, 502, "upstream_error", "upstream_error", 1,
         2, 1, 9, 4, 3, 2, 7, 8, 5, 6, "2.5/1.25/10")
    ]  # fmt: skip
    hour = ("2025-11-23T06:00Z", NOW_MS // HOUR_MS * HOUR_MS, "acme", "research", "ann", "Ab12",
            "large", "a/large", "a", "wire", "chat", 1, 1, 1, 0, 0, 1, 9, 4, 3, 2, 7,
            8, 0)  # fmt: skip
    assert rows(path, "SELECT * FROM usage_hours") == [hour]
    day = ("2025-11-23T00:00Z", NOW_MS // DAY_MS * DAY_MS, *hour[2:])
    assert rows(path, "SELECT * FROM usage_days") == [day]


def test_what_is_not_known_is_null(path: Path, books: Books) -> None:
    fold(books, [ended()], {})

    absent = "team, user, upstream, error_code, cost_nano_usd, reported_nano_usd, ttft_ms"
    assert row(path, absent) == (None,) * 7


def test_an_interrupted_call_is_booked_at_its_hold(path: Path, books: Books) -> None:
    fold(books, [interrupted(hold=(500, 70_000))], {})

    columns = "at_ms, status, outcome, is_error, estimated, duration_ms"
    assert row(path, columns) == (NOW_MS, 0, INTERRUPTED, 1, 1, None)
    assert agree(path) == Tally(
        calls=1, errors=1, estimated=1, interrupted=1, prompt_tokens=500, cost_nano_usd=70_000
    )


def test_the_cost_of_an_interrupted_call_that_held_no_money_is_unknown(
    path: Path, books: Books
) -> None:
    fold(books, [interrupted(hold=(500, 0))], {})

    assert row(path, "cost_nano_usd") == (None,)
    assert agree(path).unpriced == 1


def test_other_attempts_are_rows_of_their_own_and_no_calls(path: Path, books: Books) -> None:
    hedged = Attempt(
        deployment="b/large",
        upstream="b",
        outcome="hedged",
        usage=Usage(prompt_tokens=9, output_tokens=2),
        cost_nano_usd=70,
    )
    call = ended(deployment="a/large", upstream="a", cost_nano_usd=90, attempts=2, others=(hedged,))

    assert fold(books, [call], {}) == 2

    columns = "request_id, deployment, upstream, outcome, is_error, attempts, cost_nano_usd"
    assert rows(path, f"SELECT {columns} FROM usage_calls ORDER BY id") == [
        ("req_1", "a/large", "a", "ok", 0, 2, 90),
        ("req_1", "b/large", "b", "hedged", 0, 0, 70),
    ]
    by_deployment = "deployment, calls, errors, other_attempts, cost_nano_usd"
    for table in ("usage_hours", "usage_days"):
        assert rows(path, f"SELECT {by_deployment} FROM {table} ORDER BY deployment") == [
            ("a/large", 1, 0, 0, 90),
            ("b/large", 0, 0, 1, 70),
        ]
    assert agree(path) == tally_of([call])


def test_a_call_that_another_model_took_over_is_counted_once(path: Path, books: Books) -> None:
    """And what it used is counted where it was used."""
    first = ended(1, replaced=True, status=0, outcome="upstream_error", cost_nano_usd=30)
    begin = replace(a_begin(2), model="small", instead_of=("gpt-4o",))
    second = Ended(BOOT, begin, (0, 0), replace(an_end(2), attempts=2, cost_nano_usd=50))

    fold(books, [first, second], {})

    columns = "model, calls, errors, other_attempts, cost_nano_usd"
    assert rows(path, f"SELECT {columns} FROM usage_days ORDER BY cost_nano_usd") == [
        ("gpt-4o", 0, 0, 1, 30),
        ("small", 1, 0, 0, 50),
    ]
    assert agree(path).calls == 1


def test_what_an_upstream_claims_beyond_sense_is_bounded(path: Path, books: Books) -> None:
    usage = Usage(prompt_tokens=10**30, output_tokens=2**63, cost_nano_usd=10**30)

    fold(books, [ended(seq, usage=usage, cost_nano_usd=2**64) for seq in range(100)], {})

    tally = agree(path)
    assert (tally.prompt_tokens, tally.output_tokens) == (100 * TOKENS_MAX,) * 2
    assert (tally.cost_nano_usd, tally.reported_nano_usd) == (100 * NANO_USD_MAX,) * 2


@pytest.mark.parametrize("nano_usd", [-1, -5, 0, 7])
def test_rows_and_totals_agree_on_whatever_cost_a_journal_reports(
    path: Path, books: Books, nano_usd: int
) -> None:
    """Less than nothing stands in a journal only where somebody wrote it there by hand."""
    fold(books, [ended(1, usage=Usage(cost_nano_usd=nano_usd)), ended(2)], {})

    tally = agree(path)
    assert (tally.reported, tally.reported_nano_usd) == (1, max(0, nano_usd))


def test_more_names_than_are_remembered_are_found_again(
    path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmrouter.metering.books.IDS_MAX", 2)
    facts = [ended(seq, attempts=seq % 5 + 1) for seq in range(20)]

    fold(books, facts[:9], {})
    fold(books, facts[9:], {})

    assert rows(path, "SELECT COUNT(*) FROM how") == [(5,)]
    assert agree(path) == tally_of(facts)


# ---- once, whatever happens ---------------------------------------------------------------------


def test_positions_are_stored_with_the_rows_and_can_be_forgotten(path: Path, books: Books) -> None:
    position = Position("0-1.jsonl", 7, 3, {"0-1.jsonl": [(1, 2, 3)]})
    fold(books, [], {BOOT: position, "0ther": Position()})
    assert books.positions() == {BOOT: position, "0ther": Position()}

    fold(books, [], {"0ther": None, "unknown": None})
    books.close()

    with contextlib.closing(Books(path)) as again:
        assert again.positions() == {BOOT: position}


class Crash(BaseException):
    """The writer dies here."""


def crashing(facts: Sequence[Folded], path: Path, copy: Path) -> Iterator[Folded]:
    """Hand out `facts`, then leave what a killed process would: its files as they are now."""
    yield from facts
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    raise Crash


def at(index: int) -> dict[str, Position | None]:
    """How many facts were handed out, as a position."""
    return {BOOT: Position("0-1.jsonl", index)}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(any_fact, max_size=40),
    st.lists(st.tuples(st.integers(1, 10), st.sampled_from(["go on", "break off", "die"]))),
)
def test_every_call_is_booked_once_whatever_breaks_off(
    facts: list[Folded], steps: list[tuple[int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        lives = iter(range(1_000))
        path = Path(name, f"{next(lives)}.db")
        books = stack.enter_context(contextlib.closing(Books(path)))
        for length, what in [*steps, (len(facts) + 1, "go on")]:
            done = books.positions().get(BOOT, Position()).offset
            new = facts[done : done + length]
            if what == "go on":
                fold(books, new, at(done + len(new)))
                continue
            copy = Path(name, f"{next(lives)}.db")
            with contextlib.suppress(Crash):
                fold(books, crashing(new, path, copy), at(done + len(new)))
            if what == "die":
                path = copy
                books = stack.enter_context(contextlib.closing(Books(path)))

        assert books.positions()[BOOT].offset == len(facts)
        assert agree(path) == tally_of(facts)
        assert rows(path, "SELECT at_ms, org FROM usage_calls ORDER BY id") == [
            (at_of(fact), fact.begin.org) for fact in apart(facts)
        ]


def test_a_fold_in_several_lots_is_stored_as_one_or_not_at_all(path: Path, books: Books) -> None:
    def break_off(failure: BaseException) -> None:
        with books.folding() as folding:
            folding.store([ended(1)])
            folding.move(at(1))
            raise failure

    for failure, raised in ((OSError("the disk"), BooksError), (Crash(), Crash)):
        with pytest.raises(raised):
            break_off(failure)
        assert rows(path, "SELECT request_id FROM calls") == []

    with books.folding() as folding:
        folding.store([ended(1)])
        folding.move(at(1))
        folding.store([ended(2)])
        assert rows(path, "SELECT request_id FROM calls") == []
        folding.move(at(2))

    assert rows(path, "SELECT request_id FROM calls") == [("req_1",), ("req_2",)]
    assert books.positions() == at(2)
    assert agree(path).calls == 2


def test_names_of_a_fold_that_broke_off_are_not_taken_for_known(path: Path, books: Books) -> None:
    with pytest.raises(Crash):
        fold(books, crashing([ended()], path, path.with_name("copy.db")), {})

    fold(books, [ended()], {})

    assert row(path, "org, model, outcome") == ("acme", "gpt-4o", "ok")


def test_a_second_reader_sees_whole_folds_alone_and_hinders_nobody(
    path: Path, books: Books
) -> None:
    fold(books, [ended(1)], at(1))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        seen = [reader.execute("SELECT COUNT(*) FROM calls").fetchone()]

        def while_folding() -> Iterator[Folded]:
            yield ended(2)
            seen.append(reader.execute("SELECT COUNT(*) FROM calls").fetchone())
            assert agree(path).calls == 1

        fold(books, while_folding(), at(2))
        books.prune(NOW_MS + DAY_MS)
        assert books.durable() == at(2)
        seen.append(reader.execute("SELECT COUNT(*) FROM calls").fetchone())
        reader.execute("COMMIT")
        seen.append(reader.execute("SELECT COUNT(*) FROM calls").fetchone())

    assert seen == [(1,), (1,), (1,), (0,)]


_FOLD_WITHOUT_END = """
import itertools, sys
from pathlib import Path
from llmrouter.metering.books import Books
from tests.metering.test_books import BOOT, Position, at, ended
from tests.support.folding import fold
books = Books(Path(sys.argv[1]))
done = books.positions().get(BOOT, Position()).offset
def some(first, length):
    for seq in range(first, first + length):
        if seq == first + length // 2:
            print("folding", flush=True)
        yield ended(seq)
for turn in itertools.count():
    length = 1 + turn * 97 % 400
    fold(books, some(done, length), at(done + length))
    done += length
    print("folded", flush=True)
    if turn % 5 == 4:
        books.durable()
    if turn % 7 == 6:
        books.prune(0)
"""


def test_kills_at_random_moments_lose_and_double_nothing(path: Path) -> None:
    at_random = random.Random(4)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", _FOLD_WITHOUT_END, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for _ in range(at_random.randrange(1, 25)):
                assert child.stdout.readline() in (b"folding\n", b"folded\n")
            for _ in range(at_random.randrange(20_000)):
                pass
            child.send_signal(signal.SIGKILL)

    with contextlib.closing(Books(path)) as books:
        done = books.positions()[BOOT].offset
    assert done > 100
    assert rows(path, "SELECT request_id FROM calls ORDER BY id") == [
        (f"req_{seq}",) for seq in range(done)
    ]
    assert agree(path).calls == done
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_journal_is_folded_from_where_the_books_are(tmp_path: Path, path: Path) -> None:
    files = JournalFiles(tmp_path / "journal", HEADER)
    for first in (1, 3):
        files.append([lines(a_begin(seq))[:-1] for seq in range(first, first + 3) if seq < 5])
        files.append([lines(an_end(first))[:-1]])
        with contextlib.closing(Books(path)) as books:
            tail = Tail(tmp_path / "journal", books.positions())
            facts = [fact for _, facts in tail.poll() for fact in facts]
            fold(books, facts, {boot.boot: tail.position(boot.boot) for boot in tail.boots()})
            tail.close()
    files.close()
    with contextlib.closing(Books(path)) as books:
        tail = Tail(tmp_path / "journal", books.positions())
        facts = [fact for _, facts in tail.finish(HEADER.boot) for fact in facts]
        fold(books, facts, {HEADER.boot: tail.position(HEADER.boot)})
        tail.close()

    assert sorted(rows(path, "SELECT request_id, outcome FROM usage_calls")) == [
        ("req_1", "ok"), ("req_2", INTERRUPTED), ("req_3", "ok"), ("req_4", INTERRUPTED),
    ]  # fmt: skip


# ---- the disk -----------------------------------------------------------------------------------


def test_a_full_disk_stores_nothing_by_halves_and_folding_goes_on_when_there_is_room(
    path: Path, books: Books
) -> None:
    fold(books, [ended(1)], at(1))
    many = [ended(seq) for seq in range(2, 5_000)]
    ((pages,),) = books._db.execute("PRAGMA page_count").fetchall()
    books._db.execute(f"PRAGMA max_page_count = {pages + 3}")

    for _ in range(2):
        with pytest.raises(BooksError, match=r"can take no more \(.*full\); make room"):
            fold(books, many, at(5_000))
        assert books.positions() == at(1)
        assert agree(path) == tally_of([ended(1)])

    books._db.execute("PRAGMA max_page_count = 1000000")
    fold(books, many, at(5_000))
    assert agree(path) == tally_of([ended(1), *many])


def test_a_file_that_may_not_grow_stores_nothing_by_halves(path: Path, books: Books) -> None:
    fold(books, [ended(1)], at(1))
    many = [ended(seq) for seq in range(2, 20_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(BooksError, match="check that the disk has room"):
            fold(books, many, at(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert agree(path) == tally_of([ended(1)])
    fold(books, many, at(20_000))
    assert agree(path) == tally_of([ended(1), *many])


@pytest.mark.parametrize("table", ["calls", "hours", "positions"])
def test_a_damaged_page_is_named(path: Path, table: str) -> None:
    with contextlib.closing(Books(path)) as books:
        fold(books, [ended(1)], at(1))
    ((page,),) = rows(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'")
    assert isinstance(page, int)
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)

    with contextlib.closing(Books(path)) as books:
        with pytest.raises(BooksError, match=r"books.db is damaged .*; restore it from a backup"):
            fold(books, [ended(2)], at(2))
        assert not books._db.in_transaction


def test_a_damaged_position_is_named(path: Path, books: Books) -> None:
    fold(books, [], at(1))
    books._db.execute("UPDATE positions SET position = '[7'")

    with pytest.raises(BooksError, match="is damaged"):
        books.positions()


# ---- retention ----------------------------------------------------------------------------------


def test_pruning_deletes_the_oldest_calls_in_portions_and_keeps_totals(
    path: Path, books: Books
) -> None:
    hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    facts = [ended(seq, at_ms=hour_ms + offset) for seq, offset in enumerate([0, -1, -3, -2, 5])]
    fold(books, facts, {})

    assert [books.prune(hour_ms + 7, rows_max=2) for _ in range(3)] == [2, 1, 0]

    assert rows(path, "SELECT request_id FROM calls ORDER BY id") == [("req_0",), ("req_4",)]
    assert booked(path, "usage_hours") == booked(path, "usage_days") == tally_of(facts)


def test_what_was_kept_once_is_remembered_also_if_more_shall_be_kept_later(
    path: Path, books: Books
) -> None:
    hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    books.prune(hour_ms + 7)
    books.prune(hour_ms - DAY_MS)

    assert rows(path, "SELECT value FROM notes WHERE name = 'kept_from_ms'") == [(hour_ms,)]


def test_durable_says_up_to_where_and_leaves_folding_as_fast_as_it_was(books: Books) -> None:
    fold(books, [ended()], at(1))

    assert books.durable() == at(1)
    assert books._db.execute("PRAGMA synchronous").fetchall() == [(1,)]


def test_repr_shows_the_file(path: Path, books: Books) -> None:
    assert repr(books) == f"<Books {path}>"
