"""`llmrouter usage`: what calls came to, by whom, by what and by when; daemon up or down."""

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from llmrouter.access.key import PREFIX
from llmrouter.cli.openbooks import CatchUp, books_path, catch_up, open_books
from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.cli.reconcile import reconcile
from llmrouter.cli.sheet import drawn, print_sheet
from llmrouter.cli.times import Month, Since, Until, Window, iso, now_ms
from llmrouter.cli.usageviews import CallsView, TotalsView, View
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.metering.accounts import CALLS_MAX, Dimension, Period, Report

usage = typer.Typer(invoke_without_command=True)
usage.command()(reconcile)

WATCH_S = 2.0
CALLS_DEFAULT = 100
_HEAD_LINES = 3  # of a terminal that are no rows: the columns, and what the shell has written
_GROUPS: Mapping[str, Dimension | Period] = {each.value: each for each in (*Dimension, *Period)}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown."""

    by: tuple[Dimension | Period, ...]
    where: Mapping[Dimension, str]
    window: Window
    calls_max: int | None
    """Single calls, so many at most; None for totals."""


def _groups(texts: Sequence[str]) -> tuple[Dimension | Period, ...]:
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        if name not in _GROUPS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(_GROUPS)}")
    return tuple(_GROUPS[name] for name in dict.fromkeys(names))


def _key_id(text: str) -> str:
    if text.startswith(PREFIX):  # may be a key itself, so it is not repeated
        raise typer.BadParameter(
            "that is not the id of a key; `llmrouter keys list` shows them; never give the key"
        )
    return text


@usage.callback()
def report(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="org,model",
            help=f"What to add up by, in this order: {', '.join(_GROUPS)}; repeatable. Times are"
            " UTC.  [default: org]",
        ),
    ] = None,
    org: Annotated[str | None, typer.Option(help="Only calls of this org.")] = None,
    team: Annotated[
        str | None, typer.Option(help="Only of this team; '' for calls without one.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Only of this user; '' for calls without one.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(parser=_key_id, metavar="ID", help="Only with the key of this id."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only of this model, by the name that callers use.")
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option(metavar="UPSTREAM/MODEL", help="Only those that it answered."),
    ] = None,
    since: Since = None,
    until: Until = None,
    month: Month = None,
    calls: Annotated[bool, typer.Option("--calls", help="List single calls, newest last.")] = False,
    limit: Annotated[
        int,
        typer.Option(min=1, max=CALLS_MAX, help="With --calls: at most so many, the newest."),
    ] = CALLS_DEFAULT,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"Show it anew every {WATCH_S:g} s, until Ctrl-C.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, without a total.")] = False,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show what calls came to: how many, their tokens and their cost, also of the last second.

    A bar shows the share of the largest cost. Counts of calls that failed, whose tokens are our own
    estimate, that were interrupted by a crash, or that have no price are shown where there are any.
    In JSON and CSV, money is exact.

    Example: llmrouter usage --by org,model --since today
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    if calls and by:
        raise typer.BadParameter("--calls lists single calls, which --by cannot add up")
    if sum((as_json, as_csv, watch)) > 1:
        raise typer.BadParameter("choose one of --json, --csv and --watch")
    chosen = (org, team, user, key, model, deployment)
    asked = Asked(
        by=_groups(by or [Dimension.ORG]),
        where={at: one for at, one in zip(Dimension, chosen, strict=True) if one is not None},
        window=Window(since, until, month),
        calls_max=limit if calls else None,
    )
    with refusals():
        loaded = load(config)
        if watch:
            _watch(loaded, asked)
            return
        view = answer(loaded, asked)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(view.document())).decode(), flush=True)
    elif as_csv:
        _print_csv(view)
    else:
        _print_table(view, loaded, asked)


def _refuse_options_before(context: typer.Context) -> None:
    """What is said before a command below would be lost."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"{parameter.opts[0]} says nothing to `{context.invoked_subcommand}`;"
                " write its own options behind it"
            )


def answer(config: Config, asked: Asked, catch_up: CatchUp = catch_up) -> View:
    """What the books of `config` say to it."""
    since, until = asked.window.bounds(now_ms())
    with open_books(config, catch_up) as books:
        if asked.calls_max is not None:
            found = (
                []
                if books is None
                else books.calls(
                    where=asked.where, since_ms=since, until_ms=until, last=asked.calls_max
                )
            )
            return CallsView(found)
        if books is None:
            return TotalsView(asked.by, Report(since, until, []))
        totals = books.totals(asked.by, where=asked.where, since_ms=since, until_ms=until)
    _tell_of_wider(totals, since, until)
    return TotalsView(asked.by, totals)


def _tell_of_wider(found: Report, since_ms: int | None, until_ms: int | None) -> None:
    bounds = ((found.since_ms, since_ms, "since"), (found.until_ms, until_ms, "until"))
    for is_ms, was_ms, word in bounds:
        if is_ms is not None and is_ms != was_ms:
            _say(f"single calls of then are not kept any more: the totals are {word} {iso(is_ms)}")


def _watch(config: Config, asked: Asked) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        raise typer.BadParameter("--watch needs a terminal; leave it out")
    if asked.calls_max is not None:
        fitting = min(asked.calls_max, max(1, console.height - _HEAD_LINES))
        asked = msgspec.structs.replace(asked, calls_max=fitting)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                sheet = answer(config, asked).sheet()
                live.update(drawn(sheet, console.width), refresh=True)
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


def _print_csv(view: View) -> None:
    writer = csv.DictWriter(sys.stdout, view.columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(view.records())
    sys.stdout.flush()


def _print_table(view: View, config: Config, asked: Asked) -> None:
    if not view.is_empty():
        print_sheet(view.sheet())
    elif not books_path(config).exists():
        _say(f"there are no books at {books_path(config)} yet; `llmrouter serve` makes them")
    else:
        is_chosen = asked.where or asked.window != Window(None, None, None)
        _say("there were no calls" + (" of those that you asked for" if is_chosen else " yet"))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
