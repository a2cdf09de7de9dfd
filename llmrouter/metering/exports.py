"""What providers say was used: their usage and cost exports, read into sums by day and model.

CSV and JSON are told apart by their first character. Of JSON, a page as a provider's API answers
it, a list of such pages, and a list of entries are read alike. `exportforms` says what stands where
in them. Days are UTC. Amounts are summed up exactly, and a sum is rounded once, to a nano-USD.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec

from llmrouter.metering.exportforms import EMPTY_MEMBERS, FORMS, LINE_ITEM, Form, Provider

_DIGITS_MAX = 18  # of any amount, before the point; more is nonsense
_DECIMALS_MAX = 60  # behind it; providers write up to 40
_SECONDS_DIGITS_MIN = 9  # fewer are a date, such as 20261123
_CSV_DELIMITERS = ",;\t"
_RESULTS = ("results", "result")
_GROUPED = re.compile(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")
# `priority | gpt-4o image, cached input`: a tier, the model, a kind of token, and what of it.
_LINE_ITEM = re.compile(r"(?:[^|,]+ \| )?([^\s|,]+)(?: \w+)?, .+")

_Entry = Mapping[str, object]
_Sums = dict[str, Fraction]
_json = msgspec.json.Decoder(float_hook=Decimal)


class ExportError(Exception):
    """The export cannot be read; the message says where, why and what to do."""


class DayUsage(msgspec.Struct, frozen=True):
    """What was used of a model on a day, as one side has it; None where it does not say."""

    day: str
    """As `2026-11-23`; UTC."""
    model: str | None
    """The upstream's name of it; None for all models together."""
    calls: int | None = None
    prompt_tokens: int | None = None
    """Those out of a cache, and those written to one, included."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    cost_nano_usd: int | None = None


class Export(msgspec.Struct, frozen=True):
    """What one file says."""

    usage: list[DayUsage]
    """By day and model, each of them once."""
    days: list[str]
    """Every day that it names, in order; also those on which nothing was used."""


def read_export(content: bytes, provider: Provider) -> Export:
    """Read one file of `provider`'s. Raises ExportError for anything that is not understood."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ExportError("it is not UTF-8 text; save it as CSV or JSON in UTF-8") from None
    is_json = text.lstrip()[:1] in ("{", "[")
    days: set[str] = set()
    sums: dict[tuple[str, str | None], _Sums] = {}
    for number, entry in enumerate(_json_entries(text) if is_json else _csv_entries(text), 1):
        try:
            _add(entry, provider, days, sums)
        except ValueError as error:
            raise ExportError(f"entry {number}: {error}") from None
    usage = [_usage(day, model, found) for (day, model), found in sums.items()]
    return Export(sorted(usage, key=lambda one: (one.day, one.model or "")), sorted(days))


def _usage(day: str, model: str | None, sums: _Sums) -> DayUsage:
    # Halves are rounded up, as the cost of a call is.
    return DayUsage(day, model, **{name: int((2 * each + 1) // 2) for name, each in sums.items()})


# ---- entries ----------------------------------------------------------------------------------


def _json_entries(text: str) -> Iterator[_Entry]:
    try:
        top = _json.decode(text)
    except ValueError as error:  # of msgspec, too
        raise ExportError(f"it is not one JSON value: {error}") from None
    for page in _objects(top if isinstance(top, list) else [top]):
        for bucket in _objects(page.get("data", [page])):
            yield from _of_bucket(bucket)


def _of_bucket(bucket: dict[str, object]) -> Iterator[_Entry]:
    """Its entries, each with the time of the bucket; an empty one where there is none."""
    around = {name: value for name, value in bucket.items() if name not in _RESULTS}
    results = next((bucket[name] for name in _RESULTS if name in bucket), None)
    for result in _objects(results or [{}]):
        yield dict(_flat({**around, **result}))


def _objects(value: object) -> Iterator[dict[str, object]]:
    if not isinstance(value, list):
        raise ExportError(f"there must be a list of entries where {str(value)[:40]!r} stands")
    for each in value:
        if not isinstance(each, dict):
            raise ExportError(f"an entry must be a JSON object, not {str(each)[:40]!r}")
        yield each


def _flat(entry: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _csv_entries(text: str) -> Iterator[_Entry]:
    delimiter = max(_CSV_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            # The reader puts surplus cells under None, and None where cells are missing.
            if None in row or None in row.values():
                raise ExportError(
                    f"line {reader.line_num} has not as many cells as the header;"
                    " is the file whole?"
                )
            yield {name.strip(): value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise ExportError(f"it is not CSV from line {reader.line_num} on: {error}") from None


# ---- one entry --------------------------------------------------------------------------------


def _add(
    entry: _Entry, provider: Provider, days: set[str], sums: dict[tuple[str, str | None], _Sums]
) -> None:
    """Add an entry to the sums of its day and model. Raises ValueError if it is no such entry."""
    form = _form(entry, provider)
    day = _day(entry[form.time])
    days.add(day)
    found = {name: _sum(entry, name, form) for name in form.sums}
    if all(amount is None for amount in found.values()):
        return
    _check_currency(entry, form)
    into = sums.setdefault((day, _model(entry, form)), {})
    for name, amount in found.items():
        if amount is not None:
            into[name] = into.get(name, Fraction()) + amount


def _form(entry: _Entry, provider: Provider) -> Form:
    forms = [form for form in FORMS[provider] if form.time in entry]
    for form in forms:
        if any(part in entry for parts in form.sums.values() for part in parts):
            return form
    if forms and all(
        _is_empty(value)
        for name, value in entry.items()
        if name not in EMPTY_MEMBERS and name != forms[0].time
    ):
        return forms[0]
    raise ValueError(
        f"no usage or cost export of the provider {provider.value!r} has these columns, with a"
        f" time and with tokens or a cost: {', '.join(entry)[:300] or 'none'}"
    )


def _model(entry: _Entry, form: Form) -> str | None:
    for name in form.model:
        if not _is_empty(model := entry.get(name)):
            match = _LINE_ITEM.fullmatch(str(model)) if name == LINE_ITEM else None
            return match[1] if match else str(model)
    return None


def _check_currency(entry: _Entry, form: Form) -> None:
    currency = entry.get(form.currency) if form.currency else None
    if not _is_empty(currency) and str(currency).lower() != "usd":
        raise ValueError(f"the currency is {str(currency)[:40]!r}; only USD can be compared")


def _sum(entry: _Entry, name: str, form: Form) -> Fraction | None:
    parts = {part: entry.get(part) for part in form.sums[name]}
    is_money = name == "cost_nano_usd"
    amount = _money if is_money else _whole
    amounts = [amount(value, part) for part, value in parts.items() if not _is_empty(value)]
    scale = form.nano_per_unit if is_money else 1
    return sum(amounts, Fraction()) * scale if amounts else None


def _whole(value: object, name: str) -> Fraction:
    amount = _money(value, name)
    if amount < 0 or amount.denominator != 1:
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is not a whole number")
    return amount


def _money(value: object, name: str) -> Fraction:
    """A number, also as people format it: `$1,234.50`."""
    text = str(value).removeprefix("$")
    try:
        number = Decimal(text.replace(",", "") if _GROUPED.fullmatch(text) else text)
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite():
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is not a number such as 1234.5")
    # Before it is written out: an exponent may stand for more digits than there is memory.
    if number.adjusted() >= _DIGITS_MAX or int(number.as_tuple().exponent) < -_DECIMALS_MAX:
        raise ValueError(f"{name} is {str(value)[:40]!r}, which no amount of tokens or money is")
    return Fraction(number)


def _day(value: object) -> str:
    text = str(value)
    seconds = text.removesuffix(".0")
    try:
        if seconds.isascii() and seconds.isdigit() and len(seconds) >= _SECONDS_DIGITS_MIN:
            at = datetime.fromtimestamp(int(seconds), UTC)
        else:
            at = datetime.fromisoformat(text)
        day = (at.astimezone(UTC) if at.tzinfo else at).date()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text[:40]!r} is not a day; write one such as 2026-11-23, or Unix seconds"
        ) from None
    return day.isoformat()


def _is_empty(value: object) -> bool:
    return value is None or value == ""
