"""The books: every call, and totals by the hour and day, in one file that others can read.

Rows are made from what a `Tail` hands out, and stored together with its positions in one
transaction: whatever is killed when, a call is in the books once. `bookfile` says what is in the
file; `accounts` reads it. How a call is booked:

- It stands at the time of its end; an interrupted one, which has none, at that of its begin.
- It is an error if its status is 400 or above, or its outcome is anything but `ok`: so also where
  the caller left, or an answer was cut after its status had been sent, or it was interrupted.
- An interrupted call has the outcome `interrupted` and the status 0, and is estimated: what was
  held for it at last counts, and no price is known. A hold does not tell prompt from output, so
  its tokens stand as the prompt's. Where no money was held, its cost is unknown.
- Its upstream is the one that it began with; none where another deployment ended it.

A commit survives the death of the process. That it survives a power cut too is sure only after
`durable`; before, one takes the latest commits as wholes, each with its positions.

Invariant: calls, totals and positions change in the same transaction, so they cannot disagree.
Deliberately absent: a clock, and a thread (one at a time uses a `Books`).
"""

import contextlib
import operator
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import assert_never

import msgspec

from llmrouter.contracts.call import Usage
from llmrouter.metering.bookfile import failures_named, open_to_write, transaction
from llmrouter.metering.records import Begin, End
from llmrouter.metering.tail import Began, Damaged, Ended, Folded, Interrupted, Position

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
INTERRUPTED = "interrupted"
"""The outcome of a call whose worker died before its end."""
TOKENS_MAX = 10**12
NANO_USD_MAX = 10**15
"""More than that is nonsense for one call, and sums of it would not fit 64 bits."""
PRUNE_ROWS = 20_000  # deleted at a time: a fraction of a second, for which folding waits
IDS_MAX = 50_000  # remembered of each small table; callers choose names, so there may be more

_NAMES = {
    "who": ("org", "team", "user", "key_id"),
    "what": ("model", "deployment", "upstream", "dialect", "operation"),
    "how": ("status", "outcome", "error_code", "attempts", "stream", "estimated", "is_error"),
    "priced": ("price",),
}
_FIND_ID = "SELECT id FROM {0} WHERE ({1}) = ({2})"
_NEW_ID = "INSERT INTO {0} ({1}) VALUES ({2})"
_INSERT_CALL = """INSERT INTO calls (at_ms, request_id, who, what, how, priced,
  prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, reported_nano_usd,
  ttft_ms, duration_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_ADD_TOTALS = """INSERT INTO {0} VALUES (?, ?, ?{1})
  ON CONFLICT (start_ms, who, what) DO UPDATE SET {2}"""
_SET_POSITION = "INSERT OR REPLACE INTO positions VALUES (?, ?)"
_FORGET_POSITION = "DELETE FROM positions WHERE boot = ?"
_PRUNE = """DELETE FROM calls WHERE id IN
  (SELECT id FROM calls WHERE at_ms < ? ORDER BY at_ms LIMIT ?)"""
_KEEP_FROM = "UPDATE notes SET value = MAX(value, ?) WHERE name = 'kept_from_ms'"
_COUNT_SYNC = "UPDATE notes SET value = value + 1 WHERE name = 'syncs'"

_Names = tuple[str | int, ...]
_Totals = dict[tuple[int, int, int], tuple[int, ...]]
"""By the start of the hour or day, and the ids of who and what."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Position).decode


class Tally(msgspec.Struct, frozen=True, gc=False):
    """What is added up over calls."""

    calls: int = 0
    errors: int = 0
    estimated: int = 0
    """Calls whose tokens are our own count, as no upstream gave one."""
    interrupted: int = 0
    """Calls whose worker died; each of them is an error, and estimated, too."""
    unpriced: int = 0
    """Calls of unknown cost: they count as nothing in `cost_nano_usd`."""
    reported: int = 0
    """Calls of which the upstream reported a cost."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    reported_nano_usd: int = 0


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

    __slots__ = ("_db", "_ids", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_to_write(path)
        self._ids: dict[str, dict[_Names, int]] = {table: {} for table in _NAMES}

    def __repr__(self) -> str:
        return f"<Books {self._path}>"

    def positions(self) -> dict[str, Position]:
        """Up to where each boot was folded."""
        with failures_named(self._path):
            rows = self._db.execute("SELECT boot, position FROM positions").fetchall()
            return {boot: _decode(position) for boot, position in rows}

    def fold(self, facts: Iterable[Folded], positions: Mapping[str, Position | None]) -> int:
        """Store what was handed out, and up to where; how many calls that were.

        A position of None is forgotten. All of it is stored, or nothing where BooksError is raised:
        then the same can be folded again, once what the message says is mended.
        """
        with self._transaction():
            calls = self._store(facts)
            for boot, position in positions.items():
                if position is None:
                    self._db.execute(_FORGET_POSITION, (boot,))
                else:
                    self._db.execute(_SET_POSITION, (boot, _encode(position).decode()))
        return calls

    def prune(self, keep_from_ms: int, rows_max: int = PRUNE_ROWS) -> int:
        """Delete single calls from before that hour, the oldest `rows_max`; how many there were.

        Their totals stay. Repeat it, with folding in between, until it deletes less than that.
        """
        hour_ms = _start(keep_from_ms, HOUR_MS)
        with self._transaction():
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
                with self._transaction():
                    self._db.execute(_COUNT_SYNC)
            finally:
                self._db.execute("PRAGMA synchronous = NORMAL")
        return positions

    def close(self) -> None:
        """Let go of the file; the last to do so merges the write-ahead log into it."""
        self._db.close()

    def _store(self, facts: Iterable[Folded]) -> int:
        rows: list[tuple[object, ...]] = []
        hours: _Totals = {}
        for begin, end in _calls(facts):
            who, what, *_ = ids = self._ids_of(begin, end)
            rows.append(_row(end, ids))
            _add(hours, (_start(end.at_ms, HOUR_MS), who, what), _tally(end))
        days: _Totals = {}
        for (start_ms, who, what), tally in hours.items():
            _add(days, (_start(start_ms, DAY_MS), who, what), tally)
        self._db.executemany(_INSERT_CALL, rows)
        self._db.executemany(_ADD_HOURS, [(*key, *tally) for key, tally in hours.items()])
        self._db.executemany(_ADD_DAYS, [(*key, *tally) for key, tally in days.items()])
        return len(rows)

    def _ids_of(self, begin: Begin, end: End) -> tuple[int, int, int, int]:
        moved = end.deployment is not None and end.deployment != begin.deployment
        deployment = end.deployment or begin.deployment
        upstream = "" if moved else begin.upstream or ""
        error_code = end.error_code or ""
        how = (end.status, end.outcome, error_code, end.attempts, begin.stream, end.estimated)
        return (
            self._id("who", (begin.org, begin.team or "", begin.user or "", begin.key_id)),
            self._id("what", (begin.model, deployment, upstream, begin.dialect, begin.operation)),
            self._id("how", (*how, is_error(end))),
            self._id("priced", (end.price or "",)),
        )

    def _id(self, table: str, names: _Names) -> int:
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
    def _transaction(self) -> Iterator[None]:
        try:
            with failures_named(self._path), transaction(self._db):
                yield
        except BaseException:
            for ids in self._ids.values():  # new ones went with the transaction
                ids.clear()
            raise


def is_error(end: End) -> bool:
    """Whether the call counts as one that failed."""
    return end.status >= 400 or end.outcome != "ok"


def _calls(facts: Iterable[Folded]) -> Iterator[tuple[Begin, End]]:
    for fact in facts:
        match fact:
            case Ended(begin=begin, end=end):
                yield begin, end
            case Interrupted(begin=begin):
                yield begin, _end_of(fact)
            case Began() | Damaged():
                pass
            case _:
                assert_never(fact)


def _end_of(interrupted: Interrupted) -> End:
    begin, (tokens, nano_usd) = interrupted.begin, interrupted.hold
    return End(
        seq=begin.seq,
        at_ms=begin.at_ms,
        request_id=begin.request_id,
        status=0,
        outcome=INTERRUPTED,
        usage=Usage(prompt_tokens=tokens),
        cost_nano_usd=nano_usd or None,
        estimated=True,
        duration_ms=0,
    )


def _start(at_ms: int, of_ms: int) -> int:
    """When the hour or day of `at_ms` began."""
    return at_ms - at_ms % of_ms


def _tokens(usage: Usage) -> tuple[int, int, int, int]:
    return (
        min(usage.prompt_tokens, TOKENS_MAX),
        min(usage.cached_tokens, TOKENS_MAX),
        min(usage.output_tokens, TOKENS_MAX),
        min(usage.reasoning_tokens, TOKENS_MAX),
    )


def _money(nano_usd: int | None) -> int | None:
    return None if nano_usd is None else min(nano_usd, NANO_USD_MAX)


def _row(end: End, ids: tuple[int, int, int, int]) -> tuple[object, ...]:
    return (
        *(end.at_ms, end.request_id, *ids),
        *_tokens(end.usage),
        *(_money(end.cost_nano_usd), _money(end.usage.cost_nano_usd)),
        *(end.ttft_ms, None if end.outcome == INTERRUPTED else end.duration_ms),
    )


def _tally(end: End) -> tuple[int, ...]:
    """One call, in the order of a `Tally`."""
    cost, reported = _money(end.cost_nano_usd), _money(end.usage.cost_nano_usd)
    return (
        *(1, is_error(end), end.estimated, end.outcome == INTERRUPTED),
        *(cost is None, reported is not None),
        *_tokens(end.usage),
        *(cost or 0, reported or 0),
    )


def _add(totals: _Totals, key: tuple[int, int, int], tally: tuple[int, ...]) -> None:
    before = totals.get(key)
    totals[key] = tally if before is None else tuple(map(operator.add, before, tally))
