"""What the books answered: as a table, and as JSON and CSV, in which USD are exact."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from llmrouter.cli.sheet import Sheet, count, name, rounded_usd, shares, usd
from llmrouter.cli.times import iso
from llmrouter.metering.accounts import BookedCall, Dimension, Period, Report, Total
from llmrouter.metering.tally import Tally

Record = dict[str, object]
_MONEY = {"cost_nano_usd": "cost_usd", "reported_nano_usd": "reported_usd"}
"""The names that amounts have where they are in USD."""
_TOTALS = {
    "calls": "calls",
    "other_attempts": "other attempts",
    "errors": "errors",
    "estimated": "estimated",
    "interrupted": "interrupted",
    "unpriced": "unpriced",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "cost_nano_usd": "USD",
    "reported_nano_usd": "reported USD",
}
"""The columns of the table by their measure."""
_ALWAYS = {"calls", "prompt_tokens", "output_tokens", "cost_nano_usd"}
"""The measures that are shown even where all of them are zero."""
_CALLS = (
    "time", "request", "org", "team", "user", "key", "model", "deployment", "status", "outcome",
    "prompt", "cached", "output", "USD", "ms",
)  # fmt: skip
_CALL_NUMBERS = frozenset({"status", "prompt", "cached", "output", "USD", "ms"})


class View(Protocol):
    """An answer, in the forms that it can be printed in."""

    def is_empty(self) -> bool:
        """Whether there is nothing to show."""

    def sheet(self) -> Sheet:
        """As a table."""

    def document(self) -> object:
        """As one JSON value."""

    def columns(self) -> list[str]:
        """The names of what `records` hold."""

    def records(self) -> list[Record]:
        """As the rows of a CSV file."""


class TotalsView:
    """Totals by groups."""

    def __init__(self, by: Sequence[Dimension | Period], report: Report) -> None:
        self._by = by
        self._report = report
        self._total = _added(report.totals)

    def is_empty(self) -> bool:
        return not self._report.totals

    def sheet(self) -> Sheet:
        measures = [
            measure
            for measure in _TOTALS
            if measure in _ALWAYS or getattr(self._total, measure) != 0
        ]
        rows = [
            [*map(name, total.group), *_cells(total.tally, measures)]
            for total in self._report.totals
        ]
        return Sheet(
            columns=[*self._by, *(_TOTALS[measure] for measure in measures)],
            numbers=frozenset(_TOTALS.values()),
            rows=rows,
            footer=[
                *("" if number else "total" for number in range(len(self._by))),
                *_cells(self._total, measures),
            ],
            shares=shares(_weight(total.tally, self._total) for total in self._report.totals),
        )

    def document(self) -> object:
        return {
            "since": None if self._report.since_ms is None else iso(self._report.since_ms),
            "until": None if self._report.until_ms is None else iso(self._report.until_ms),
            "by": self._by,
            "rows": self.records(),
            "total": _in_usd(self._total),
        }

    def columns(self) -> list[str]:
        return [*self._by, *_in_usd(self._total)]

    def records(self) -> list[Record]:
        return [
            {**dict(zip(self._by, total.group, strict=True)), **_in_usd(total.tally)}
            for total in self._report.totals
        ]


class CallsView:
    """Single calls."""

    def __init__(self, calls: Sequence[BookedCall]) -> None:
        self._calls = calls

    def is_empty(self) -> bool:
        return not self._calls

    def sheet(self) -> Sheet:
        rows = [_call_cells(call) for call in self._calls]
        shown = [
            number
            for number, column in enumerate(_CALLS)
            if column not in ("team", "user") or any(row[number] != "-" for row in rows)
        ]
        return Sheet(
            columns=[_CALLS[number] for number in shown],
            numbers=_CALL_NUMBERS,
            rows=[[row[number] for number in shown] for row in rows],
            marked=frozenset(n for n, call in enumerate(self._calls) if call.is_error),
        )

    def document(self) -> object:
        return self.records()

    def columns(self) -> list[str]:
        names = ["at" if field == "at_ms" else field for field in BookedCall.__struct_fields__]
        return [_MONEY.get(field, field) for field in names]

    def records(self) -> list[Record]:
        return [{"at": iso(call.at_ms), **_without_time(call)} for call in self._calls]


def _added(totals: Sequence[Total]) -> Tally:
    tallies = [msgspec.structs.astuple(total.tally) for total in totals]
    return Tally(*map(sum, zip(*tallies, strict=True))) if tallies else Tally()


def _weight(tally: Tally, total: Tally) -> int:
    """What a bar shows: money; where all is free tokens, and where there are none calls."""
    if total.cost_nano_usd:
        return tally.cost_nano_usd
    if total.prompt_tokens or total.output_tokens:
        return tally.prompt_tokens + tally.output_tokens
    return tally.calls


def _cells(tally: Tally, measures: Sequence[str]) -> list[str]:
    return [
        (rounded_usd if measure in _MONEY else count)(getattr(tally, measure))
        for measure in measures
    ]


def _call_cells(call: BookedCall) -> list[str]:
    cost = "-" if call.cost_nano_usd is None else rounded_usd(call.cost_nano_usd)
    who = map(name, (call.org, call.team, call.user, call.key_id, call.model, call.deployment))
    notes = ["attempt"] * (not call.attempts) + ["estimated"] * call.estimated
    return [
        *(iso(call.at_ms), name(call.request_id), *who),
        *(str(call.status), call.outcome + (f" ({', '.join(notes)})" if notes else "")),
        *map(count, (call.prompt_tokens, call.cached_tokens, call.output_tokens)),
        *(cost, "-" if call.duration_ms is None else count(call.duration_ms)),
    ]


def _without_time(call: BookedCall) -> Record:
    record = _in_usd(call)
    del record["at_ms"]
    return record


def _in_usd(struct: msgspec.Struct) -> Record:
    return {
        _MONEY.get(field, field): usd(value) if field in _MONEY and value is not None else value
        for field, value in msgspec.structs.asdict(struct).items()
    }


_: tuple[type[View], ...] = (TotalsView, CallsView)
