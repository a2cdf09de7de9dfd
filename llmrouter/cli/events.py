"""`llmrouter events`: what limits and budgets refused or downgraded; daemon up or down."""

import datetime
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, cast

import msgspec
import typer

from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.cli.sheet import decimal_usd
from llmrouter.config.load import load
from llmrouter.contracts.rule import Kind
from llmrouter.daemon.administer import administer
from llmrouter.daemon.eventbook import EVENTS_MAX, LIST_DEFAULT
from llmrouter.quota.denials import Action, read_bucket
from llmrouter.units import MS_PER_S, duration_s

View = dict[str, object]
_COLUMNS = (
    "time", "org", "team", "user", "key", "model", "what", "code", "bucket", "limit", "balance",
    "count",
)  # fmt: skip
_UNITS = {
    Kind.REQUESTS: "requests",
    Kind.TOKENS: "tokens",
    Kind.CONCURRENT: "calls at once",
    Kind.USD: "USD",
}


def _since_ms(text: str) -> int:
    """A time, or how long ago; as Unix milliseconds."""
    try:
        ago_s = duration_s(text)
    except ValueError:
        return _time_ms(text)
    now_s = time.time()  # noqa: TID251 - events are dated by the calendar
    return max(0, int((now_s - ago_s) * MS_PER_S))


def _time_ms(text: str) -> int:
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a duration nor a time; write one such as 1h or 2026-11-23T10:00Z"
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return max(0, (at - epoch) // datetime.timedelta(milliseconds=1))


def events(
    org: Annotated[str | None, typer.Option(help="Only calls of this org.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="Only calls with the key of this id.")
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            parser=_since_ms,
            metavar="1h|TIME",
            help="Only of the last hour (1h, 30m, 2d), or since a time such as 2026-11-23T10:00Z;"
            " UTC if it has no zone.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=EVENTS_MAX, help="At most so many, the newest.")
    ] = LIST_DEFAULT,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List the calls that a limit or budget refused or downgraded, newest last.

    Equal ones of a minute are one row with a count. Amounts of budgets are in USD.

    Example: llmrouter events --org acme --since 1h
    """
    args: View = {"org": org, "key": key, "since_ms": since, "limit": limit}
    with refusals():
        found = cast("list[View]", administer(load(config), "events.list", args))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode(), flush=True)
        return
    for line in _table(found) if found else ():
        print(line)
    if not found:
        _say("no call was refused or downgraded by a limit or budget" + _of_these(args))
    elif len(found) == limit:
        _say(f"these are the newest {limit}; --limit shows more, at most {EVENTS_MAX}")


def _of_these(args: View) -> str:
    asked = any(args[name] is not None for name in ("org", "key", "since_ms"))
    return " of those that you asked for" if asked else ""


def _table(views: Iterable[View]) -> Iterator[str]:
    """Aligned columns, each as wide as it needs."""
    rows = [list(_COLUMNS), *map(_cells, views)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _cells(view: Mapping[str, object]) -> list[str]:
    names = ("org", "team", "user", "key_id", "model")
    return [
        str(view["first_at"])[:19] + "Z",
        *(_shown(view[name]) for name in names),
        _what(view),
        _shown(view["code"]),
        _words(view["bucket"]),
        *(_amount(view[name], view["kind"]) for name in ("limit", "balance")),
        str(view["count"]),
    ]


def _what(view: Mapping[str, object]) -> str:
    if view["action"] == Action.DOWNGRADED and view["served_by"] is not None:
        return f"downgraded to {view['served_by']}"
    return str(view["action"])


def _words(bucket: object) -> str:
    """A bucket in words; whose it is stands in the same row: `team: tokens per minute of gpt-4o*`.

    One that this version cannot read is shown as it is.
    """
    read = None if bucket is None else read_bucket(str(bucket))
    if read is None:
        return _shown(bucket)
    per = {"": "", "total": " in total"}.get(read.per, f" per {read.per}")
    of = "" if read.model is None else f" of {read.model}"
    return f"{read.scope}: {_UNITS[read.kind]}{per}{of}"


def _amount(value: object, kind: object) -> str:
    """An amount; of money with the cents, and with what is below them only where there is some."""
    if value is None or kind != Kind.USD:
        return _shown(value)
    return decimal_usd(value)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
