"""`llmrouter keys`: issue keys, look at them, end them; with the daemon up or down."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.daemon.keydesk import administer
from llmrouter.units import duration_s

keys = typer.Typer(no_args_is_help=True, help="Issue keys, look at them, end them.")

View = dict[str, object]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]
_COLUMNS = ("id", "org", "team", "user", "name", "models", "created_at", "expires_at", "status")


def _lifetime_s(text: str) -> int:
    try:
        return duration_s(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@keys.command()
def create(
    org: Annotated[str, typer.Option(help="Whom the key stands for, and who pays.")],
    team: Annotated[str | None, typer.Option(help="A team of the org.")] = None,
    user: Annotated[str | None, typer.Option(help="A person, or a program of theirs.")] = None,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="A model, or a pattern such as 'gpt-4o*', that it opens; repeatable."),
    ] = None,
    expires: Annotated[
        int | None, typer.Option(parser=_lifetime_s, metavar="90d", help="How long it lives.")
    ] = None,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its text is shown this once: only a digest of it is kept.

    Example: llmrouter keys create --org acme --team research --name ci --expires 90d
    """
    terms = {"org": org, "team": team, "user": user, "name": name, "expires_in_s": expires}
    args: View = {**terms, "models": [part for text in models or [] for part in text.split(",")]}
    with refusals():
        loaded = load(config)
        created = _administer(loaded, "keys.create", args)
    _warn_of_unknown_org(loaded, org, team)
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


@keys.command("list")
def list_keys(config: ConfigPath = CONFIG_DEFAULT, as_json: AsJson = False) -> None:
    """List every key, expired and revoked ones too, oldest first; never their text.

    Example: llmrouter keys list --json
    """
    with refusals():
        found = cast("list[View]", administer(_state(load(config)), "keys.list", {}))
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


def _state(config: Config) -> Path:
    return Path(config.state)


def _administer(config: Config, op: str, args: View) -> View:
    return cast("View", administer(_state(config), op, args))


def _warn_of_unknown_org(config: Config, org: str, team: str | None) -> None:
    table = config.orgs.get(org)
    if table is None:
        _say(f"note: router.toml has no [orgs.{org}], so no limits or budgets apply to it")
    elif team is not None and team not in table.teams:
        _say(f"note: router.toml has no [orgs.{org}.teams.{team}]: only what the org has applies")


def _print_view(view: View, *, as_json: bool) -> None:
    if as_json:
        _print_json(view)
        return
    for field, value in view.items():
        print(f"{field:<12}{_shown(value)}")


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode(), flush=True)


def _table(views: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Aligned columns, each as wide as it needs: an id that is cut is of no use."""
    cells = [[_shown(view[column]) for column in _COLUMNS] for view in views]
    rows = [list(_COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "every model"
    return "-" if value is None else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
