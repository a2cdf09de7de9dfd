"""`llmrouter orgs`: who may call, and how their limits and budgets stand; daemon up or down."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrouter.access.issued import KeyStatus
from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.cli.overview import rule_text
from llmrouter.cli.sheet import decimal_usd
from llmrouter.config.load import load
from llmrouter.config.names import EVERY_USER
from llmrouter.config.schema import Config
from llmrouter.contracts.rule import Kind, Scope
from llmrouter.daemon.administer import administer
from llmrouter.daemon.limitdesk import LimitView
from llmrouter.daemon.rules import rules

orgs = typer.Typer(no_args_is_help=True, help="Who may call, and how their limits stand.")

BAR_CELLS = 16
_USED, _HELD, _LEFT = "█", "▒", "·"
_ORG_COLUMNS = ("org", "keys", "teams", "users", "limits and budgets")
_COLUMNS = ("whose", "rule", "limit", "used", "held", "left", "resets at")
_NUMBERS = ("limit", "used", "held", "left")
_NEARLY = 0.8
"""From so much of a limit on, used or held, a bar is yellow; red where nothing is left."""


class Key(msgspec.Struct, frozen=True):
    """What is needed of a key here."""

    id: str
    org: str
    user: str | None
    name: str | None
    status: KeyStatus


class OrgView(msgspec.Struct, frozen=True, kw_only=True):
    """An org, as `orgs list --json` prints it."""

    org: str
    in_file: bool
    """Whether router.toml has a table of it; one without has no rules but those of its keys."""
    keys: int
    """Those that are neither expired nor revoked."""
    teams: tuple[str, ...]
    users: tuple[str, ...]
    """Those with a table; `*` stands for each without."""
    rules: tuple[str, ...]
    """Its own limits and budgets, in words."""


class Standings(msgspec.Struct, frozen=True, kw_only=True):
    """How an org stands, as `orgs show --json` prints it."""

    org: str
    keys: int
    limits: tuple[LimitView, ...]


@orgs.command("list")
def list_orgs(config: ConfigPath = CONFIG_DEFAULT, as_json: AsJson = False) -> None:
    """List the orgs of router.toml, and those that only keys name.

    Example: llmrouter orgs list
    """
    with refusals():
        loaded = load(config)
        views = list(_views(loaded, _active_keys(loaded)))
    if as_json:
        _print_json(views)
    elif views:
        _print_columns([_ORG_COLUMNS, *map(_org_cells, views)])
    else:
        _say("there are no orgs yet; add [orgs.NAME] to router.toml")


@orgs.command()
def show(
    org: Annotated[str, typer.Argument(metavar="ORG", help="The org's name.")],
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show how the limits and budgets of an org stand, and those of its teams, users and keys.

    Held is what calls in flight may still use, and what workers keep ready for the next ones. Users
    that only `*` stands for are shown where a key names them.

    Example: llmrouter orgs show acme
    """
    with refusals():
        loaded = load(config)
        keys = [key for key in _active_keys(loaded) if key.org == org]
        if not keys and org not in loaded.orgs:
            _say(f"neither router.toml nor a key knows the org {org!r}; see `llmrouter orgs list`")
            raise typer.Exit(1)
        scopes = [(scope.kind, scope.name) for scope in _scopes(loaded, org, keys)]
        answer = administer(loaded, "limits.list", {"scopes": scopes})
        found = msgspec.convert(answer, tuple[LimitView, ...])
    if as_json:
        _print_json(Standings(org=org, keys=len(keys), limits=found))
    elif found:
        _print_table(Console(highlight=False), found, keys)
    else:
        _say(f"no limit or budget applies to {org}, its teams, users or keys")


def _active_keys(config: Config) -> list[Key]:
    keys = msgspec.convert(administer(config, "keys.list", {}), list[Key])
    return [key for key in keys if key.status is KeyStatus.ACTIVE]


def _views(config: Config, keys: Iterable[Key]) -> Iterator[OrgView]:
    counts = dict.fromkeys(config.orgs, 0)
    for key in keys:
        counts[key.org] = counts.get(key.org, 0) + 1
    found = rules(config)
    for org, count in counts.items():
        table = config.orgs.get(org)
        yield OrgView(
            org=org,
            in_file=table is not None,
            keys=count,
            teams=() if table is None else tuple(table.teams),
            users=() if table is None else tuple(table.users),
            rules=tuple(map(rule_text, found.get(Scope(kind="org", name=org), ()))),
        )


def _scopes(config: Config, org: str, keys: Iterable[Key]) -> Iterator[Scope]:
    """The org, its teams and users in the order of the file, the users that keys name, the keys."""
    yield Scope(kind="org", name=org)
    table = config.orgs.get(org)
    if table is not None:
        for team in table.teams:
            yield Scope(kind="team", name=f"{org}/{team}")
    users = dict.fromkeys([] if table is None else table.users)
    users |= dict.fromkeys(sorted(key.user for key in keys if key.user is not None))
    for user in users:
        yield Scope(kind="user", name=f"{org}/{user}")
    for key in keys:
        yield Scope(kind="key", name=key.id)


# ---- on paper -------------------------------------------------------------------------------


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _org_cells(view: OrgView) -> tuple[str, ...]:
    without = "none" if view.in_file else "none: it has no table in router.toml"
    return (
        view.org,
        str(view.keys),
        " ".join(view.teams) or "-",
        " ".join(view.users) or "-",
        "; ".join(view.rules) or without,
    )


def _print_table(console: Console, found: Iterable[LimitView], keys: Iterable[Key]) -> None:
    names = {key.id: key.name for key in keys}
    rows = [(view, standing_cells(view, names)) for view in found]
    if console.is_terminal:
        console.print(drawn(rows))
    else:
        _print_columns([_COLUMNS, *(tuple(cells.values()) for _, cells in rows)])


def drawn(rows: Iterable[tuple[LimitView, Mapping[str, str]]]) -> Table:
    """The same with a bar in each row, for a terminal; the limit stands in the rule."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = [column for column in _COLUMNS if column != "limit"]
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=column in (*_NUMBERS, "resets at"),
        )
        if column == "rule":
            table.add_column("", no_wrap=True)
    for view, cells in rows:
        texts = [Text(cells[column]) for column in columns]
        texts.insert(2, Text() if stands_for_others(view) else Text(bar(view), style=colour(view)))
        table.add_row(*texts)
    return table


def standing_cells(view: LimitView, key_names: Mapping[str, str | None]) -> dict[str, str]:
    """A bucket in words, by column; of the user `*` only its rule, since each has their own."""
    cells = dict.fromkeys(_COLUMNS, "-")
    cells["whose"] = _whose(view, key_names)
    cells["rule"] = _rule_words(view)
    cells["limit"] = _amount(view.limit, view.kind)
    if not stands_for_others(view):
        amounts = {"used": view.used, "held": view.claimed, "left": view.left}
        cells |= {name: _amount(amount, view.kind) for name, amount in amounts.items()}
        cells["resets at"] = view.resets_at or "-"
    return cells


def stands_for_others(view: LimitView) -> bool:
    """Whether this is no bucket, but the rule of users without a table of their own."""
    return view.scope == "user" and view.name.partition("/")[2] == EVERY_USER


def _whose(view: LimitView, key_names: Mapping[str, str | None]) -> str:
    if stands_for_others(view):
        return "each other user"
    name = view.name if view.scope in ("org", "key") else view.name.partition("/")[2]
    called = key_names.get(view.name) if view.scope == "key" else None
    return f"{view.scope} {name}" + (f" ({called})" if called else "")


def _rule_words(view: LimitView) -> str:
    parse = parse_budget if view.kind == Kind.USD else parse_limit
    return rule_text(parse(view.rule))


def _amount(amount: float, kind: str) -> str:
    """An amount; of money with the cents, and with what is below them only where there is some."""
    if kind != Kind.USD:
        return f"{amount:_}"
    return decimal_usd(amount)


def bar(view: LimitView) -> str:
    """What is used, what is held and what is left, in BAR_CELLS; any use shows."""
    used = _cells(view.used, view.limit)
    taken = max(used, _cells(view.used + view.claimed, view.limit))
    return _USED * used + _HELD * (taken - used) + _LEFT * (BAR_CELLS - taken)


def _cells(amount: float, limit: float) -> int:
    part = min(1.0, max(0.0, amount / limit))
    return max(round(part * BAR_CELLS), 1 if part else 0)


def colour(view: LimitView) -> str:
    """Of its bar."""
    if view.left <= 0:
        return "red"
    return "yellow" if view.used + view.claimed >= _NEARLY * view.limit else "green"


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode(), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
