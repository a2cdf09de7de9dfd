"""`llmrouter check`: whether a router.toml would be served, and what would run."""

import os
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath
from llmrouter.cli.unpriced import price_notes
from llmrouter.config.addresses import listen_texts
from llmrouter.config.credentials import credentials, source_text
from llmrouter.config.effective import effective, effective_toml
from llmrouter.config.load import load, workers
from llmrouter.config.money import DECIMALS_MAX
from llmrouter.config.names import EVERY_USER
from llmrouter.config.notes import notes
from llmrouter.config.problems import ConfigError, Problem
from llmrouter.config.schema import Config, Model, Server, Tls
from llmrouter.contracts.rule import MODEL_PREFIX, QUEUE, REJECT, Kind, Rule, Scope
from llmrouter.daemon.listeners import ListenError, tls_context
from llmrouter.daemon.rules import rules
from llmrouter.units import MS_PER_S

Row = tuple[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    ok: bool
    """Whether `serve` would take the file."""
    file: str
    """The file as it was named."""
    workers: int | None = None
    """How many workers would run; null for a file that is refused."""
    config: dict[str, object] | None = None
    """Every setting with its value, defaults included; null for a file that is refused."""
    problems: tuple[Problem, ...] = ()
    """Why the file is refused."""
    notes: tuple[Problem, ...] = ()
    """What is allowed, but worth a look."""


def check(
    config: ConfigPath = CONFIG_DEFAULT,
    show_effective: Annotated[
        bool,
        typer.Option("--effective", help="Print the complete TOML, with every default."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check router.toml, and show what would run.

    Exit status 0 means that `serve` would take it, 1 that it would refuse. Models that a budget
    would have to pay for and that have no price are noted.

    Example: llmrouter check --config /etc/llmrouter/router.toml
    """
    try:
        loaded = load(config)
        credentials(loaded, os.environ)
        if (tls := loaded.server.tls) is not None:
            _check_tls(config, tls)
    except ConfigError as error:
        _refuse(config, error, as_json)
        raise typer.Exit(1) from None
    noted = [*notes(loaded), *price_notes(loaded)]
    if as_json:
        typer.echo(_json(_report(loaded, noted)))
    elif show_effective:
        typer.echo(effective_toml(loaded), nl=False)
        _lines(noted, err=True)
    else:
        _lines([*overview(loaded), *_noted(noted), "", "ok"])


def _check_tls(file: Path, tls: Tls) -> None:
    """Refuse what `serve` would refuse: a certificate and key that are no pair, or no PEM."""
    try:
        tls_context(tls.cert, tls.key)
    except ListenError as error:
        raise ConfigError([Problem(str(file), "server.tls", str(error))]) from None


def overview(config: Config) -> Iterator[str]:
    """What would run, line by line."""
    yield str(config.file)
    yield from _rows(_server_rows(config))
    for title, rows in (
        ("upstreams", _upstream_rows(config)),
        ("models", _model_rows(config.models)),
        ("orgs", _org_rows(config)),
    ):
        yield from ("", title)
        yield from _rows(rows)


def _refuse(file: Path, error: ConfigError, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(Report(ok=False, file=str(file), problems=error.problems)))
    else:
        _lines(error.problems, err=True)


def _report(config: Config, noted: Iterable[Problem]) -> Report:
    return Report(
        ok=True,
        file=str(config.file),
        workers=workers(config.server),
        config=effective(config),
        notes=tuple(noted),
    )


def _json(report: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def _noted(noted: Iterable[Problem]) -> list[str]:
    return ["", "notes", *(f"  {note}" for note in noted)] if noted else []


def _lines(lines: Iterable[object], *, err: bool = False) -> None:
    for line in lines:
        typer.echo(str(line), err=err)


def _rows(rows: Iterable[Row]) -> Iterator[str]:
    """Two aligned columns, or a word that says there is nothing."""
    table = list(rows) or [("none", "")]
    width = max(len(left) for left, _ in table)
    return (f"  {left:{width}}  {right}".rstrip() for left, right in table)


def _server_rows(config: Config) -> Iterator[Row]:
    yield "state", config.state
    scheme = "https" if config.server.tls else "http"
    for text in listen_texts(config.server):
        yield "listen", f"{text} ({scheme})"
    yield "workers", _workers_text(config.server)


def _workers_text(server: Server) -> str:
    return f"{workers(server)}" if server.workers else f"{workers(server)} (one per core)"


def _upstream_rows(config: Config) -> Iterator[Row]:
    for name, upstream in config.upstreams.items():
        parts = (upstream.url, upstream.dialect, source_text(upstream.credential))
        yield name, ", ".join(parts)


def _model_rows(models: Mapping[str, Model]) -> Iterator[Row]:
    for name, model in models.items():
        yield ", ".join((name, *model.aliases)), model.strategy
        for deployment in model.deployments:
            asked = deployment.model or "the name asked for"
            yield "", f"{deployment.upstream}: {asked}, weight {deployment.weight}"


def _org_rows(config: Config) -> Iterator[Row]:
    found = rules(config)
    for name, org in config.orgs.items():
        yield name, _models_text(org.models)
        yield from _rule_rows(found[Scope(kind="org", name=name)])
        for team_name, team in org.teams.items():
            scope = Scope(kind="team", name=f"{name}/{team_name}")
            yield scope.name, _models_text(team.models)
            yield from _rule_rows(found[scope])
        for user_name in org.users:
            who = "each other user" if user_name == EVERY_USER else f"the user {user_name}"
            own = found[Scope(kind="user", name=f"{name}/{user_name}")]
            first = rule_text(own[0]) if own else "no limits of its own"
            yield f"{name}, {who}", first
            yield from _rule_rows(own[1:])


def _rule_rows(found: tuple[Rule, ...]) -> Iterator[Row]:
    return (("", rule_text(rule)) for rule in found)


def rule_text(rule: Rule) -> str:
    """A rule in words, such as `600 requests per minute` or `500 USD per month, reject`."""
    per = {"": "", "total": " in total"}.get(rule.per, f" per {rule.per}")
    parts = [
        f"{_amount_text(rule)}{per}" + (f" for {rule.model}" if rule.model else ""),
        f"at most {rule.burst:_} at once" if rule.burst else "",
        _at_limit_text(rule),
        "strict" if rule.strict else "",
        "cut mid-stream" if rule.cut else "",
    ]
    return ", ".join(filter(None, parts))


def _amount_text(rule: Rule) -> str:
    match rule.kind:
        case Kind.USD:
            return f"{Decimal(rule.amount).scaleb(-DECIMALS_MAX).normalize():f} USD"
        case Kind.CONCURRENT:
            return f"{_counted(rule.amount, 'calls')} at once"
        case Kind.REQUESTS | Kind.TOKENS:
            return _counted(rule.amount, rule.kind)


def _counted(amount: int, things: str) -> str:
    return f"{amount:_} {things.removesuffix('s') if amount == 1 else things}"


def _at_limit_text(rule: Rule) -> str:
    """What happens at the limit; a limit that rejects, as nearly all do, need not say so."""
    if rule.at_limit == QUEUE:
        return f"queue for {rule.wait_ms / MS_PER_S:g} s"
    if rule.at_limit.startswith(MODEL_PREFIX):
        return f"then {rule.at_limit.removeprefix(MODEL_PREFIX)}"
    return REJECT if rule.kind is Kind.USD else ""


def _models_text(allowed: tuple[str, ...]) -> str:
    return "every model" if "*" in allowed else ", ".join(allowed)
