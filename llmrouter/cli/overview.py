"""What a configuration would run, in words: an overview for people, as `check` shows it."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from llmrouter.config.addresses import listen_texts
from llmrouter.config.credentials import source_text
from llmrouter.config.load import workers
from llmrouter.config.money import DECIMALS_MAX
from llmrouter.config.names import EVERY_USER
from llmrouter.config.schema import Config, Model, Org, Server, Shadow, Team, Upstream
from llmrouter.contracts.rule import MODEL_PREFIX, QUEUE, REJECT, Kind, Rule, Scope
from llmrouter.daemon.rules import rules
from llmrouter.units import MS_PER_S

Row = tuple[str, str]

_ALL = 1.0


def overview(config: Config) -> Iterator[str]:
    """What would run, line by line."""
    yield str(config.file)
    yield from _rows(_server_rows(config))
    for title, rows in (
        ("upstreams", _upstream_rows(config.upstreams)),
        ("models", _model_rows(config.models)),
        ("orgs", _org_rows(config)),
    ):
        yield from ("", title)
        yield from _rows(rows)


def rule_text(rule: Rule) -> str:
    """A rule in words, such as `600 requests per minute` or `500 USD per month, reject`."""
    per = {"": "", "total": " in total"}.get(rule.per, f" per {rule.per}")
    return _joined(
        f"{_amount_text(rule)}{per}" + (f" for {rule.model}" if rule.model else ""),
        f"at most {rule.burst:_} at once" if rule.burst else "",
        _at_limit_text(rule),
        "strict" if rule.strict else "",
        "cut mid-stream" if rule.cut else "",
    )


def _rows(rows: Iterable[Row]) -> Iterator[str]:
    """Two aligned columns, or a word that says there is nothing."""
    table = list(rows) or [("none", "")]
    width = max(len(left) for left, _ in table)
    return (f"  {left:{width}}  {right}".rstrip() for left, right in table)


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _server_rows(config: Config) -> Iterator[Row]:
    yield "state", config.state
    scheme = "https" if config.server.tls else "http"
    for text in listen_texts(config.server):
        yield "listen", f"{text} ({scheme})"
    yield "admin_listen", f"{config.server.admin_listen} (http)"
    yield "workers", _workers_text(config.server)


def _workers_text(server: Server) -> str:
    return f"{workers(server)}" if server.workers else f"{workers(server)} (one per core)"


def _upstream_rows(upstreams: Mapping[str, Upstream]) -> Iterator[Row]:
    for name, upstream in upstreams.items():
        health = upstream.health
        yield (
            name,
            _joined(
                upstream.url,
                upstream.dialect,
                source_text(upstream.credential),
                f"{_counted(upstream.concurrent, 'calls')} at once" if upstream.concurrent else "",
                f"probed at {health.path} every {health.every:g} s" if health else "",
                _pairs(upstream.tags),
            ),
        )


def _model_rows(models: Mapping[str, Model]) -> Iterator[Row]:
    for name, model in models.items():
        yield ", ".join((name, *model.aliases)), _strategy_text(model)
        for deployment in model.deployments:
            place = _place_text(deployment.upstream, deployment.model)
            yield "", _joined(place, f"weight {deployment.weight}", _pairs(deployment.tags))
        if model.fallbacks:
            on = ", ".join(model.fallback_on) or "nothing"
            yield "", f"then {', '.join(model.fallbacks)}, on {on}"
        if model.shadow is not None:
            yield "", _shadow_text(model.shadow)


def _strategy_text(model: Model) -> str:
    hedge = model.hedge_after
    wait = f"{hedge:g} s" if isinstance(hedge, float) else hedge
    return _joined(
        f"sticky by {model.sticky_by}" if model.strategy == "sticky" else model.strategy,
        f"hedged after {wait}" if hedge is not None else "",
    )


def _shadow_text(shadow: Shadow) -> str:
    part = "all calls" if shadow.share == _ALL else f"{shadow.share:.10g} of calls"
    return f"copies of {part} to {_place_text(shadow.upstream, shadow.model)}"


def _place_text(upstream: str, model: str | None) -> str:
    return f"{upstream}: {model or 'the name asked for'}"


def _org_rows(config: Config) -> Iterator[Row]:
    found = rules(config)
    for name, org in config.orgs.items():
        yield name, _access_text(org)
        yield from _rule_rows(found[Scope(kind="org", name=name)])
        for team_name, team in org.teams.items():
            scope = Scope(kind="team", name=f"{name}/{team_name}")
            yield scope.name, _access_text(team)
            yield from _rule_rows(found[scope])
        for user_name in org.users:
            who = "each other user" if user_name == EVERY_USER else f"the user {user_name}"
            own = found[Scope(kind="user", name=f"{name}/{user_name}")]
            first = rule_text(own[0]) if own else "no limits of its own"
            yield f"{name}, {who}", first
            yield from _rule_rows(own[1:])


def _access_text(table: Org | Team) -> str:
    return _joined(
        "every model" if "*" in table.models else ", ".join(table.models),
        *(f"{served} for {asked}" for asked, served in table.model_map.items()),
        f"only where {_pairs(table.require)}" if table.require else "",
    )


def _pairs(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in tags.items())


def _rule_rows(found: tuple[Rule, ...]) -> Iterator[Row]:
    return (("", rule_text(rule)) for rule in found)


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
