"""The books: every call, and totals by the hour and day, in one file that others can read.

Rows are made from what a `Tail` hands out, while it reads, and stored together with its positions
in one transaction: whatever is killed when, a call is in the books once. `booking` says how a call
is booked, `bookfile` what is in the file; `accounts` reads it.

A commit survives the death of the process. That it survives a power cut too is sure only after
`durable`; before, one takes the latest commits as wholes, each with its positions.

Invariant: calls, totals and positions change in the same transaction, so they cannot disagree.
Deliberately absent: a clock, and a thread (one at a time uses a `Books`).
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from llmrouter.metering.bookfile import failures_named, open_to_write, transaction
from llmrouter.metering.booking import Names, add, amounts, booked, how, what, who
from llmrouter.metering.records import Begin, End
from llmrouter.metering.tail import Folded, Position
from llmrouter.metering.tally import Tally
from llmrouter.processor import give_way

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PRUNE_ROWS = 20_000  # deleted at a time: a fraction of a second, for which folding waits
IDS_MAX = 50_000  # remembered of each small table; callers choose names, so there may be more
ALL_IDS_MAX: Final = 4_096  # of their combinations: each takes 1 kB

_NAMES: Final = {
    "who": ("org", "team", "user", "key_id"),
    "what": ("model", "deployment", "upstream", "dialect", "operation"),
    "how": ("status", "outcome", "error_code", "attempts", "stream", "estimated", "is_error"),
    "priced": ("price",),
}
_FIND_ID: Final = "SELECT id FROM {0} WHERE ({1}) = ({2})"
_NEW_ID: Final = "INSERT INTO {0} ({1}) VALUES ({2})"
_NO_REPORT: Final = -1
"""Bound for NULL where an upstream reports no cost, as most do: binding None costs 0.3 us more."""
_INSERT: Final = """INSERT INTO calls (at_ms, request_id, who, what, how, priced,
  prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, reported_nano_usd,
  ttft_ms, duration_ms) VALUES """
_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULLIF(?, -1), ?, ?)"
_ROW_VALUES: Final = _ROW.count("?")
_INSERT_ROWS: Final = 16
"""With one statement: a row takes 1.2 us then, and 1.7 by itself."""
_INSERT_MANY: Final = _INSERT + ", ".join([_ROW] * _INSERT_ROWS)
_INSERT_ONE: Final = _INSERT + _ROW
_ADD_TOTALS: Final = """INSERT INTO {0} VALUES (?, ?, ?{1})
  ON CONFLICT (start_ms, who, what) DO UPDATE SET {2}"""
_SET_POSITION: Final = "INSERT OR REPLACE INTO positions VALUES (?, ?)"
_FORGET_POSITION: Final = "DELETE FROM positions WHERE boot = ?"
_PRUNE: Final = """DELETE FROM calls WHERE id IN
  (SELECT id FROM calls WHERE at_ms < ? ORDER BY at_ms LIMIT ?)"""
_KEEP_FROM: Final = "UPDATE notes SET value = MAX(value, ?) WHERE name = 'kept_from_ms'"
_COUNT_SYNC: Final = "UPDATE notes SET value = value + 1 WHERE name = 'syncs'"

_Totals = dict[tuple[int, int, int], list[int]]
"""By the start of the hour or day, and the ids of who and what."""
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Position).decode


def _for_names(statement: str) -> dict[str, str]:
    return {
        table: statement.format(table, ", ".join(names), ", ".join("?" * len(names)))
        for table, names in _NAMES.items()
    }


def _for_totals(table: str) -> str:
    names = Tally.__struct_fields__
    adding = ", ".join(f"{name} = {name} + excluded.{name}" for name in names)
    return _ADD_TOTALS.format(table, ", ?" * len(names), adding)


_FIND_IDS, _NEW_IDS = _for_names(_FIND_ID), _for_names(_NEW_ID)
_ADD_HOURS, _ADD_DAYS = _for_totals("hours"), _for_totals("days")


class Books:
    """The books of one node, for the one process that writes them; made if there are none."""

    __slots__ = ("_all_ids", "_db", "_ids", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_to_write(path)
        self._ids: dict[str, dict[Names, int]] = {table: {} for table in _NAMES}
        self._all_ids: dict[tuple[object, ...], tuple[int, int, int, int]] = {}
        """Who, what, how and priced, by all that these are made of."""

    def __repr__(self) -> str:
        return f"<Books {self._path}>"

    def positions(self) -> dict[str, Position]:
        """Up to where each boot was folded."""
        with failures_named(self._path):
            rows = self._db.execute("SELECT boot, position FROM positions").fetchall()
            return {boot: _decode(position) for boot, position in rows}

    @contextlib.contextmanager
    def folding(self) -> Iterator["Folding"]:
        """Have what was handed out stored, and up to where, while the `with` lasts.

        All of it is stored, or nothing where BooksError or anything else is raised: then the same
        can be folded again, once what the message says is mended.
        """
        with contextlib.ExitStack() as transactions:
            folding = Folding(self, transactions)
            yield folding
            folding.close()

    def prune(self, keep_from_ms: int, rows_max: int = PRUNE_ROWS) -> int:
        """Delete single calls from before that hour, the oldest `rows_max`; how many there were.

        Their totals stay. Repeat it, with folding in between, until it deletes less than that.
        """
        hour_ms = _start(keep_from_ms, HOUR_MS)
        with self.writing():
            self._db.execute(_KEEP_FROM, (hour_ms,))
            return self._db.execute(_PRUNE, (hour_ms, rows_max)).rowcount

    def durable(self) -> dict[str, Position]:
        """Have all that was folded survive a power cut; up to where that is of each boot.

        A commit in this mode syncs the whole write-ahead log, and so the commits before it. Unlike
        a checkpoint, it cannot be held up by those who read.
        """
        positions = self.positions()
        with failures_named(self._path):
            self._db.execute("PRAGMA synchronous = FULL")
            try:
                with self.writing():
                    self._db.execute(_COUNT_SYNC)
            finally:
                self._db.execute("PRAGMA synchronous = NORMAL")
        return positions

    def close(self) -> None:
        """Let go of the file; the last to do so merges the write-ahead log into it."""
        self._db.close()

    def ids_of(self, begin: Begin, end: End) -> tuple[int, int, int, int]:
        """Of who, what, how and priced; most calls are like others in all of that."""
        like = (
            begin.org, begin.team, begin.user, begin.key_id,
            begin.model, begin.deployment, begin.upstream, begin.dialect, begin.operation,
            begin.stream, end.deployment, end.upstream,
            end.status, end.outcome, end.error_code, end.attempts, end.estimated, end.price,
        )  # fmt: skip
        ids = self._all_ids.get(like)
        if ids is None:
            if len(self._all_ids) >= ALL_IDS_MAX:
                self._all_ids.clear()
            ids = self._all_ids[like] = (
                self._id("who", who(begin)),
                self._id("what", what(begin, end)),
                self._id("how", how(begin, end)),
                self._id("priced", (end.price or "",)),
            )
        return ids

    def _id(self, table: str, names: Names) -> int:
        ids = self._ids[table]
        if (known := ids.get(names)) is not None:
            return known
        if len(ids) >= IDS_MAX:
            ids.clear()
        found = self._db.execute(_FIND_IDS[table], names).fetchone()
        new = found[0] if found else self._db.execute(_NEW_IDS[table], names).lastrowid
        assert new is not None
        ids[names] = new
        return int(new)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All that is done within, with what is given, is stored, or nothing; raises BooksError."""
        try:
            with failures_named(self._path), transaction(self._db):
                yield self._db
        except BaseException:
            self._all_ids.clear()  # new ones went with the transaction
            for ids in self._ids.values():
                ids.clear()
            raise


class Folding:
    """One transaction of the books; it begins with the first that there is to store."""

    __slots__ = ("_books", "_db", "_hours", "_transactions", "_values", "rows")

    def __init__(self, books: Books, transactions: contextlib.ExitStack) -> None:
        self._books = books
        self._transactions = transactions
        self._db: sqlite3.Connection | None = None
        self._hours: _Totals = {}
        self._values: list[object] = []
        """Of rows that are still to be inserted, one after the other."""
        self.rows = 0
        """How many were stored."""

    def store(self, facts: Iterable[Folded]) -> None:
        """Make rows of facts."""
        hours, values, ids_of = self._hours, self._values, self._books.ids_of
        for begin, end in booked(facts):
            db = self._db or self._begin()
            ids = ids_of(begin, end)
            of_it = amounts(end)
            prompt, cached, output, reasoning, cost, reported, ttft_ms, duration_ms = of_it
            row = (
                end.at_ms, end.request_id, *ids, prompt, cached, output, reasoning, cost,
                _NO_REPORT if reported is None else reported, ttft_ms, duration_ms,
            )  # fmt: skip
            values.extend(row)
            self.rows += 1
            add(_sums(hours, (_start(end.at_ms, HOUR_MS), ids[0], ids[1])), end, of_it)
            if len(values) == _INSERT_ROWS * _ROW_VALUES:
                db.execute(_INSERT_MANY, values)
                values.clear()
                give_way()

    def move(self, positions: Mapping[str, Position | None]) -> None:
        """Say up to where it was handed out, by boot; a position of None is forgotten."""
        for boot, position in positions.items():
            db = self._db or self._begin()
            if position is None:
                db.execute(_FORGET_POSITION, (boot,))
            else:
                db.execute(_SET_POSITION, (boot, _encode(position).decode()))

    def close(self) -> None:
        """All is given: store what is left of it, and the totals."""
        db, values = self._db, self._values
        if db is None:
            return
        rows = [values[at : at + _ROW_VALUES] for at in range(0, len(values), _ROW_VALUES)]
        db.executemany(_INSERT_ONE, rows)
        days: _Totals = {}
        for (start_ms, who_id, what_id), sums in self._hours.items():
            of_day = _sums(days, (_start(start_ms, DAY_MS), who_id, what_id))
            for at, more in enumerate(sums):
                of_day[at] += more
        db.executemany(_ADD_HOURS, [(*key, *sums) for key, sums in self._hours.items()])
        db.executemany(_ADD_DAYS, [(*key, *sums) for key, sums in days.items()])

    def _begin(self) -> sqlite3.Connection:
        self._db = db = self._transactions.enter_context(self._books.writing())
        return db


def _start(at_ms: int, of_ms: int) -> int:
    """When the hour or day of `at_ms` began."""
    return at_ms - at_ms % of_ms


def _sums(totals: _Totals, key: tuple[int, int, int]) -> list[int]:
    sums = totals.get(key)
    if sums is None:
        sums = totals[key] = [0] * len(Tally.__struct_fields__)
    return sums
