"""`llmrouter keys`: issue keys, look at them, change them, end them; with the daemon up or down."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, TypeVar, cast

import msgspec
import typer

from llmrouter.access import ruletext
from llmrouter.access.mapping import read_map
from llmrouter.cli.keynotes import map_notes, org_notes, rule_notes
from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.contracts.rule import Rule
from llmrouter.daemon.administer import administer
from llmrouter.units import duration_s

keys = typer.Typer(no_args_is_help=True, help="Issue keys, look at them, change them, end them.")

View = dict[str, object]
_Value = TypeVar("_Value")
_COLUMNS = (
    "id", "org", "team", "user", "name", "models", "model_map", "limits", "budgets",
    "created_at", "expires_at", "status",
)  # fmt: skip
_NO_MAP = "none"
_NEVER_S = 0
"""Stands for `never` where None means that nothing was said; no duration is as short."""


def _read(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Make what `parse` cannot read a usage error that says why."""

    def read(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return read


def _lifetime_s(text: str) -> int:
    return _NEVER_S if text == "never" else duration_s(text)


KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]
Name = Annotated[str | None, typer.Option(help="What the key is for.")]
Limits = Annotated[
    list[Rule] | None,
    typer.Option(
        "--limit",
        parser=_read(ruletext.parse_limit),
        metavar="requests=60/minute",
        help="A rate, tokens=20000/minute, or concurrent=5; after commas model='gpt-4o*',"
        " burst=100, at_limit=queue, wait=10s or at_limit=model:NAME; repeatable.",
    ),
]
Budgets = Annotated[
    list[Rule] | None,
    typer.Option(
        "--budget",
        parser=_read(ruletext.parse_budget),
        metavar="usd=20/day",
        help="Money per hour, day, week, month or total; after commas model, at_limit and wait as"
        " for limits, strict or mid_stream=cut; repeatable.",
    ),
]


@keys.command()
def create(
    org: Annotated[str, typer.Option(help="Whom the key stands for, and who pays.")],
    team: Annotated[str | None, typer.Option(help="A team of the org.")] = None,
    user: Annotated[str | None, typer.Option(help="A person, or a program of theirs.")] = None,
    name: Name = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="A model, or a pattern such as 'gpt-4o*', that it opens; repeatable."),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="gpt-4=gpt-4o-mini",
            help="A name, or a pattern of names, and the model that serves those who ask for it by"
            " this key; repeatable.",
        ),
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(parser=_read(duration_s), metavar="90d", help="How long it lives."),
    ] = None,
    limits: Limits = None,
    budgets: Budgets = None,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its text is shown this once: only a digest of it is kept.

    Example: llmrouter keys create --org acme --name ci --expires 90d --limit requests=60/minute
    --budget usd=20/day,at_limit=queue
    """
    terms = {"org": org, "team": team, "user": user, "name": name, "expires_in_s": expires}
    args: View = {**terms, "models": _split(models or []), **_texts(limits, budgets)}
    args["model_map"] = _model_map(maps or [])
    with refusals():
        loaded = load(config)
        created = _administer(loaded, "keys.create", args)
    rules = (*(limits or []), *(budgets or []))
    _note(org_notes(loaded, org, team), rule_notes(loaded, rules), _map_notes(loaded, created))
    try:
        if as_json:
            _print_json(created)
        else:
            print(created["key"], flush=True)
    except OSError as error:
        _say(f"the key {created['id']} was issued but could not be shown ({error}); revoke it")
        raise typer.Exit(1) from None
    if not as_json:
        _say(f"the key {created['id']} of {org} is in force; it is not shown again, so keep it now")


@keys.command()
def update(
    key_id: KeyId,
    limits: Limits = None,
    budgets: Budgets = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="requests/minute",
            help="A limit or budget to take off: its name, such as usd/day or tokens/minute/gpt-4o*"
            " where it is for a model, or all of it as `keys show` prints it; repeatable.",
        ),
    ] = None,
    name: Name = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="What it opens instead of what it did; '*' is everything; repeatable."),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="gpt-4=gpt-4o-mini|none",
            help="Its map instead of the one that it had; 'none' takes that off; repeatable.",
        ),
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            parser=_read(_lifetime_s), metavar="90d|never", help="How long it lives from now on."
        ),
    ] = None,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Change a key without issuing it anew; in force on every worker when the command returns.

    A limit or budget replaces that of the same kind, period and model, and keeps what was used of
    it; the others stay. A key that expired lives again with --expires; a revoked one never does.

    Example: llmrouter keys update 3fQ9xW2LbT0c --limit requests=100/minute --remove usd/day
    """
    args: View = {"id": key_id, "name": name, "remove": remove or [], **_texts(limits, budgets)}
    if models:
        args["models"] = _split(models)
    if maps:
        args["model_map"] = _model_map(maps)
    if expires is not None:
        args["expires_in_s"] = None if expires == _NEVER_S else expires
    with refusals():
        loaded = load(config)
        view = _administer(loaded, "keys.update", args)
    rules = (*(limits or []), *(budgets or []))
    _note(rule_notes(loaded, rules), _map_notes(loaded, view) if maps or models else ())
    _print_view(view, as_json=as_json)


@keys.command("list")
def list_keys(config: ConfigPath = CONFIG_DEFAULT, as_json: AsJson = False) -> None:
    """List every key, expired and revoked ones too, oldest first; never their text.

    Example: llmrouter keys list --json
    """
    with refusals():
        found = cast("list[View]", administer(load(config), "keys.list", {}))
    if as_json:
        _print_json(found)
    elif found:
        for line in _table(found):
            print(line)
    else:
        _say("there are no keys yet; `llmrouter keys create --org ORG` issues one")


@keys.command()
def show(key_id: KeyId, config: ConfigPath = CONFIG_DEFAULT, as_json: AsJson = False) -> None:
    """Show one key; never its text.

    Example: llmrouter keys show 3fQ9xW2LbT0c
    """
    with refusals():
        view = _administer(load(config), "keys.show", {"id": key_id})
    _print_view(view, as_json=as_json)


@keys.command()
def revoke(key_id: KeyId, config: ConfigPath = CONFIG_DEFAULT, as_json: AsJson = False) -> None:
    """End a key for good; in force on every worker when the command returns.

    Example: llmrouter keys revoke 3fQ9xW2LbT0c
    """
    with refusals():
        view = _administer(load(config), "keys.revoke", {"id": key_id})
    _print_view(view, as_json=as_json)


def _administer(config: Config, op: str, args: View) -> View:
    return cast("View", administer(config, op, args))


def _split(models: Iterable[str]) -> list[str]:
    return [part for text in models for part in text.split(",")]


def _model_map(texts: list[str]) -> dict[str, str]:
    try:
        return {} if texts == [_NO_MAP] else read_map(texts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--map'") from error


def _texts(limits: list[Rule] | None, budgets: list[Rule] | None) -> View:
    return {
        "limits": [ruletext.show(rule) for rule in limits or []],
        "budgets": [ruletext.show(rule) for rule in budgets or []],
    }


def _note(*notes: Iterable[str]) -> None:
    for note in itertools.chain(*notes):
        _say(f"note: {note}")


def _map_notes(config: Config, view: View) -> Iterator[str]:
    org, team = cast("str", view["org"]), cast("str | None", view["team"])
    models, model_map = cast("list[str]", view["models"]), cast("dict[str, str]", view["model_map"])
    return map_notes(config, org, team, models, model_map)


def _print_view(view: View, *, as_json: bool) -> None:
    if as_json:
        _print_json(view)
        return
    for field, value in view.items():
        print(f"{field:<12}{_shown(field, value)}")


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode(), flush=True)


def _table(views: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Aligned columns, each as wide as it needs: an id that is cut is of no use."""
    cells = [[_shown(column, view[column]) for column in _COLUMNS] for view in views]
    rows = [list(_COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _shown(field: str, value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{asked}={served}" for asked, served in value.items()) or "-"
    if isinstance(value, list):
        return " ".join(map(str, value)) or ("every model" if field == "models" else "-")
    return "-" if value is None else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
