"""`llmrouter usage reconcile`: our books beside what a provider says was used."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from llmrouter.cli.openbooks import CatchUp, books_path, catch_up, open_books
from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.cli.sheet import Sheet, count, name, print_sheet, usd
from llmrouter.cli.times import Month, Since, Until, Window, iso, moment_ms, now_ms
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.metering.accounts import Dimension, Period, Total
from llmrouter.metering.books import DAY_MS
from llmrouter.metering.exportforms import Provider
from llmrouter.metering.exports import DayUsage, Export, ExportError, read_export
from llmrouter.metering.reconcile import Difference, Line, Measure, Reconciliation
from llmrouter.metering.reconcile import reconcile as compare

FILE_BYTES_MAX = 256 * 2**20  # a year by the minute takes less
_COLUMNS = ("day", "model", "what", "ours", "theirs", "difference", "%", "")
_NUMBERS = frozenset({"ours", "theirs", "difference", "%"})
_WORDS = {measure: measure.value.replace("_", " ") for measure in Measure} | {
    Measure.COST_NANO_USD: "USD"
}
_NAMES_IN_JSON = {Measure.COST_NANO_USD: "cost_usd"}


def _percent(text: str) -> Fraction:
    try:
        number = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= 100 or len(text) > 20:
        raise typer.BadParameter(f"{text!r} is not a percentage; write one such as 0.5")
    return Fraction(number)


def reconcile(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Exports of the provider: usage, cost, or both."),
    ],
    provider: Annotated[
        Provider,
        typer.Option(help="Whose exports they are, CSV or JSON; generic is in the README."),
    ],
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The upstream whose calls they bill; repeatable. Default: the only one that speaks"
            " the provider's dialect.",
        ),
    ] = None,
    tolerance: Annotated[
        Fraction | None,
        typer.Option(
            parser=_percent,
            metavar="PERCENT",
            help="How far tokens and cost of a day and model may be off, in percent of theirs."
            "  [default: 0]",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    month: Month = None,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Compare our books with a provider's usage export, by UTC day and model.

    Compared is what the export has: calls, tokens, cost; from its first day to its last, or the
    days that --since, --until and --month say. Exit status 1 if prompt tokens, output tokens or
    cost of any day and model are off by more than --tolerance. Calls and cached tokens are shown to
    find out why. Some exports round a cost to cents: give these a tolerance.

    Example: llmrouter usage reconcile may-usage.csv may-cost.csv --provider generic
    --upstream claude --tolerance 0.5
    """
    with refusals():
        loaded = load(config)
        upstreams = _upstreams(loaded, provider, upstream or [])
        exports = [_export(file, provider) for file in files]
        days = _days(exports, Window(since, until, month))
        ours = _ours(loaded, upstreams, days)
    theirs = [
        usage for export in exports for usage in export.usage if days[0] <= usage.day <= days[1]
    ]
    allowed = tolerance or Fraction()
    found = compare(ours, theirs, allowed)
    if as_json:
        document = _document(found, days, allowed)
        print(msgspec.json.format(msgspec.json.encode(document)).decode(), flush=True)
    else:
        print_sheet(_sheet(found))
        print(_verdict(found, allowed), flush=True)
    if found.exceeding:
        raise typer.Exit(1)


# ---- what is compared -------------------------------------------------------------------------


def _export(file: Path, provider: Provider) -> Export:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(f"cannot read {file}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise _refused(f"{file} is larger than {FILE_BYTES_MAX} bytes; export fewer days")
    try:
        return read_export(content, provider)
    except ExportError as error:
        raise _refused(f"{file}: {error}") from None


def _days(exports: Iterable[Export], window: Window) -> tuple[str, str]:
    """The first and the last day to compare."""
    since, until = window.bounds(now_ms())
    named = [day for export in exports for day in export.days]
    if not named and (since is None or until is None):
        raise _refused("the export names no day; say which with --since and --until, or --month")
    first = min(named) if since is None else iso(since)[:10]
    last = max(named) if until is None else iso(max(0, until - 1))[:10]
    return first, last


def _upstreams(config: Config, provider: Provider, chosen: Sequence[str]) -> frozenset[str]:
    if chosen:
        return frozenset(chosen)
    fitting = [
        name
        for name, upstream in config.upstreams.items()
        if provider is Provider.GENERIC or upstream.dialect == provider.value
    ]
    if len(fitting) == 1:
        return frozenset(fitting)
    raise typer.BadParameter(
        "say with --upstream whose calls the export bills: "
        + (", ".join(fitting or config.upstreams) or "router.toml has none")
    )


def _ours(
    config: Config,
    upstreams: frozenset[str],
    days: tuple[str, str],
    catch_up: CatchUp = catch_up,
) -> list[DayUsage]:
    """What the books have of the upstreams; what they send upstream is the model."""
    since, until = moment_ms(days[0], 0), moment_ms(days[1], 0) + DAY_MS
    with open_books(config, catch_up) as books:
        if books is None:
            raise _refused(f"there are no books at {books_path(config)} yet")
        by = (Period.DAY, Dimension.DEPLOYMENT)
        totals = books.totals(by, since_ms=since, until_ms=until).totals
    booked = [(*_deployment(total), total) for total in totals]
    known = {upstream for upstream, _, _ in booked} | config.upstreams.keys()
    if unknown := sorted(upstreams - known):
        raise _refused(
            f"neither router.toml nor the books of these days know the upstream {unknown[0]!r};"
            f" they know {', '.join(sorted(known)) or 'none'}"
        )
    return [_usage(model, total) for upstream, model, total in booked if upstream in upstreams]


def _deployment(total: Total) -> tuple[str, str]:
    upstream, _, model = (total.group[1] or "").partition("/")
    return upstream, model


def _usage(model: str, total: Total) -> DayUsage:
    amounts = {measure.value: getattr(total.tally, measure) for measure in Measure}
    amounts[Measure.CALLS] += total.tally.other_attempts  # to the provider one is like the other
    return DayUsage(total.group[0] or "", model, **amounts)


def _refused(text: str) -> typer.Exit:
    print(f"llmrouter: {text}", file=sys.stderr)
    return typer.Exit(1)


# ---- on paper ---------------------------------------------------------------------------------


def _sheet(found: Reconciliation) -> Sheet:
    cells = [(line, each) for line in (*found.lines, found.total) for each in line.differences]
    return Sheet(
        columns=_COLUMNS,
        numbers=_NUMBERS,
        rows=[_cells(line, each) for line, each in cells],
        marked=frozenset(number for number, (_, each) in enumerate(cells) if each.exceeds),
    )


def _cells(line: Line, difference: Difference) -> list[str]:
    amount = usd if difference.measure is Measure.COST_NANO_USD else count
    percent = difference.percent
    return [
        line.day or "total",
        name(line.model),
        _WORDS[difference.measure],
        *map(amount, (difference.ours, difference.theirs, difference.amount)),
        "-" if percent is None else f"{percent:.2f}",
        "exceeds" if difference.exceeds else "",
    ]


def _verdict(found: Reconciliation, tolerance: Fraction) -> str:
    of = f"{len(found.lines)} days and models"
    if found.exceeding:
        return f"{len(found.exceeding)} of {of} differ by more than {float(tolerance):g} %"
    return f"all of {of} agree within {float(tolerance):g} %"


def _document(found: Reconciliation, days: tuple[str, str], tolerance: Fraction) -> object:
    return {
        "first_day": days[0],
        "last_day": days[1],
        "tolerance_percent": float(tolerance),
        "agrees": not found.exceeding,
        "rows": [_record(line) for line in found.lines],
        "total": _record(found.total),
    }


def _record(line: Line) -> Mapping[str, object]:
    return {
        "day": line.day,
        "model": line.model,
        "exceeds": line.exceeds,
        **{
            _NAMES_IN_JSON.get(each.measure, each.measure): _values(each)
            for each in line.differences
        },
    }


def _values(difference: Difference) -> Mapping[str, object]:
    is_money = difference.measure is Measure.COST_NANO_USD
    amounts = {
        "ours": difference.ours,
        "theirs": difference.theirs,
        "difference": difference.amount,
    }
    return {
        **{key: usd(amount) if is_money else amount for key, amount in amounts.items()},
        "percent": difference.percent,
        "exceeds": difference.exceeds,
    }
