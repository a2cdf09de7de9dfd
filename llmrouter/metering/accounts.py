"""Reads the books: totals of any time, grouped and filtered, and single calls.

Anybody may, in a process of their own, while the books are written: what is read is the state at
one moment, and the writer is not held up. Totals come from the days, at their ends from the hours,
and at the ends of those from single calls, so that they are exact to the millisecond and yet read
little:

    since                                                                                 until
      | calls | hours ... | days ......................................... | hours ... | calls |

Where single calls are not kept any more, there is nothing finer than an hour: `Report` says what
time its totals are of, which is then the wider one of whole hours. All times are UTC.
"""

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from llmrouter.metering.bookfile import BooksError, failures_named, open_to_read, transaction
from llmrouter.metering.books import DAY_MS, HOUR_MS
from llmrouter.metering.tally import Tally

TOTALS_MAX = 200_000
"""Of one report: more would take a machine's memory, and nobody could read them."""
CALLS_MAX = 100_000
"""Of one list of calls."""


class Dimension(enum.StrEnum):
    """What calls differ by; to group them by and to choose from them."""

    ORG = "org"
    TEAM = "team"
    USER = "user"
    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"


class Period(enum.StrEnum):
    """Pieces of time to group calls by."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Total(msgspec.Struct, frozen=True):
    """What the calls of one group come to."""

    group: tuple[str | None, ...]
    """In the order that was asked for; None where calls have no team or user. Times are the start,
    as `2025-11-23T07:00Z`, `2025-11-23` and `2025-11`."""
    tally: Tally


class Report(msgspec.Struct, frozen=True):
    """Totals, and of what time they are."""

    since_ms: int | None
    """Calls from then on; None means from the first."""
    until_ms: int | None
    """Calls before then; None means up to the last."""
    totals: list[Total]
    """In the order of their groups; without groups, exactly one."""


class BookedCall(msgspec.Struct, frozen=True):
    """A row of the books, of a call or of another attempt of one; columns of `usage_calls`."""

    at_ms: int
    request_id: str
    org: str
    team: str | None
    user: str | None
    key_id: str
    model: str
    deployment: str
    upstream: str | None
    dialect: str
    operation: str
    stream: bool
    status: int
    """0 if none was sent, also because its worker died."""
    outcome: str
    error_code: str | None
    is_error: bool
    attempts: int
    """0 if it is no call of its own: another attempt of one, or what another model took over."""
    estimated: bool
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int | None
    """None where it is unknown."""
    reported_nano_usd: int | None
    ttft_ms: int | None
    duration_ms: int | None
    price: str | None
    """What its tokens were charged at, as `Price.text` writes it."""


Where = Mapping[Dimension, str]
"""What calls must have to be counted; an empty text chooses those that have none."""
_NOTHING: Where = {}
_FAR_MS = 1 << 53
_COLUMNS = {
    Dimension.ORG: ("who", "org"),
    Dimension.TEAM: ("who", "team"),
    Dimension.USER: ("who", "user"),
    Dimension.KEY: ("who", "key_id"),
    Dimension.MODEL: ("what", "model"),
    Dimension.DEPLOYMENT: ("what", "deployment"),
}
_TIMES = {Period.HOUR: "%Y-%m-%dT%H:00Z", Period.DAY: "%Y-%m-%d", Period.MONTH: "%Y-%m"}
_ADDED = [f"SUM({name}) AS {name}" for name in Tally.__struct_fields__]
_SUMS = [f"COALESCE(SUM({name}), 0)" for name in Tally.__struct_fields__]
# Adding up comes first, by numbers alone and in the order of the tables' own keys, which needs no
# sorting; names are looked up once for each sum.
_PIECE = """SELECT {keys}, {sums} FROM {table}
  WHERE start_ms >= ? AND start_ms < ?{filters} {grouped}"""
_TOTALS = """SELECT {columns} FROM ({pieces}) AS pieces
  LEFT JOIN who ON who.id = who_id LEFT JOIN what ON what.id = what_id {grouped} LIMIT ?"""
_CHOSEN = " AND {table} IN (SELECT id FROM {table} WHERE ({names}) = ({values}))"
_CALLS = """SELECT {columns} FROM usage_calls WHERE id IN (
    SELECT id FROM calls WHERE at_ms >= ? AND at_ms < ?{filters}
    ORDER BY at_ms DESC, id DESC LIMIT ?
  ) ORDER BY at_ms, id"""
_KEPT_FROM = "SELECT value FROM notes WHERE name = 'kept_from_ms'"


class Accounts:
    """The books at `path`, which exist, for one who reads them."""

    __slots__ = ("_db", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_to_read(path)

    def __repr__(self) -> str:
        return f"<Accounts {self._path}>"

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def totals(
        self,
        by: Sequence[Dimension | Period] = (),
        *,
        where: Where = _NOTHING,
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Report:
        """What the calls between the times come to, in groups.

        Raises BooksError where there are more than TOTALS_MAX groups.
        """
        since = 0 if since_ms is None else since_ms
        until = _FAR_MS if until_ms is None else until_ms
        with failures_named(self._path), transaction(self._db, "BEGIN"):
            ((kept_from,),) = self._db.execute(_KEPT_FROM).fetchall()
            since, until = _widened(since, until, kept_from)
            pieces = _pieces(since, until, by_hour=Period.HOUR in by)
            statement, values = _statement(by, where, pieces)
            rows = self._db.execute(statement, [*values, TOTALS_MAX + 1]).fetchall()
        if len(rows) > TOTALS_MAX:
            raise BooksError(
                f"these are more than {TOTALS_MAX} totals; ask for a shorter time, for fewer"
                " groups, or for one org, key or model"
            )
        return Report(
            None if since_ms is None else since,
            None if until_ms is None else until,
            [Total(row[: len(by)], Tally(*row[len(by) :])) for row in rows],
        )

    def calls(
        self,
        *,
        where: Where = _NOTHING,
        since_ms: int | None = None,
        until_ms: int | None = None,
        last: int = 100,
    ) -> list[BookedCall]:
        """The last calls between the times, as far as they are kept; the newest is the last."""
        since = 0 if since_ms is None else since_ms
        until = _FAR_MS if until_ms is None else until_ms
        filters, names = _filters(where)
        columns = ", ".join(BookedCall.__struct_fields__)
        statement = _CALLS.format(columns=columns, filters=filters)
        values = [since, until, *names, min(last, CALLS_MAX)]
        with failures_named(self._path):
            rows = self._db.execute(statement, values).fetchall()
        return [_booked(dict(zip(BookedCall.__struct_fields__, row, strict=True))) for row in rows]


def _booked(row: dict[str, object]) -> BookedCall:
    return msgspec.convert(row, BookedCall, strict=False)  # SQLite's truth is 0 and 1


def _floor(at_ms: int, of_ms: int) -> int:
    return at_ms - at_ms % of_ms


def _ceiling(at_ms: int, of_ms: int) -> int:
    return at_ms + -at_ms % of_ms


def _widened(since: int, until: int, kept_from: int) -> tuple[int, int]:
    """The bounds, moved apart to whole hours where no single calls are kept."""
    if _floor(since, HOUR_MS) < kept_from:
        since = _floor(since, HOUR_MS)
    if _floor(until, HOUR_MS) < kept_from:
        until = _ceiling(until, HOUR_MS)
    return since, until


def _pieces(since: int, until: int, *, by_hour: bool) -> list[tuple[str, int, int]]:
    """Which table to read from when to when; some of them for no time at all."""
    first_hour, last_hour = _ceiling(since, HOUR_MS), _floor(until, HOUR_MS)
    if first_hour > last_hour:
        return [("singles", since, until)]
    first_day, last_day = _ceiling(first_hour, DAY_MS), _floor(last_hour, DAY_MS)
    if by_hour or first_day > last_day:
        first_day = last_day = last_hour
    return [
        ("singles", since, first_hour),
        ("hours", first_hour, first_day),
        ("days", first_day, last_day),
        ("hours", last_day, last_hour),
        ("singles", last_hour, until),
    ]


def _statement(
    by: Sequence[Dimension | Period], where: Where, pieces: Sequence[tuple[str, int, int]]
) -> tuple[str, list[str | int]]:
    filters, names = _filters(where)
    values: list[str | int] = []
    selects: list[str] = []
    for table, since, until in pieces:
        keys = _keys(by, table)
        own = ", ".join(name for name, expression in keys.items() if expression != "0")
        select = _PIECE.format(
            keys=", ".join(f"{expression} AS {name}" for name, expression in keys.items()),
            sums=", ".join(_ADDED),
            table=table,
            filters=filters,
            grouped=f"GROUP BY {own}" if own else "",
        )
        selects.append(select)
        values += [since, until, *names]
    numbers = ", ".join(str(number) for number in range(1, len(by) + 1))
    statement = _TOTALS.format(
        columns=", ".join([*map(_label, by), *_SUMS]),
        pieces=" UNION ALL ".join(selects),
        grouped=f"GROUP BY {numbers} ORDER BY {numbers}" if by else "",
    )
    return statement, values


def _keys(by: Sequence[Dimension | Period], table: str) -> dict[str, str]:
    """What sums are kept apart by: no more than is asked for."""
    asked = {_COLUMNS[each][0] if isinstance(each, Dimension) else "period" for each in by}
    start = f"start_ms - start_ms % {HOUR_MS}" if table == "singles" else "start_ms"
    return {
        "period": start if "period" in asked else "0",
        "who_id": "who" if "who" in asked else "0",
        "what_id": "what" if "what" in asked else "0",
    }


def _label(each: Dimension | Period) -> str:
    if isinstance(each, Period):
        return f"strftime('{_TIMES[each]}', period / 1000, 'unixepoch')"
    table, name = _COLUMNS[each]
    return f"NULLIF({table}.{name}, '')"


def _filters(where: Where) -> tuple[str, list[str]]:
    """What to add to a WHERE over ids, and its values."""
    filters, values = "", []
    for table in ("who", "what"):
        chosen = [
            (_COLUMNS[each][1], value)
            for each, value in where.items()
            if _COLUMNS[each][0] == table
        ]
        if chosen:
            names = ", ".join(name for name, _ in chosen)
            marks = ", ".join("?" * len(chosen))
            filters += _CHOSEN.format(table=table, names=names, values=marks)
            values += [value for _, value in chosen]
    return filters, values
