"""The composition root: from the configuration to a gateway that serves.

The only module that knows every leaf, and the only translator of configuration into plain values:
nothing below it ever sees a config struct.
"""

import asyncio
import importlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keyring import Keyring
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy
from llmrouter.config.addresses import DEMO_URL
from llmrouter.config.schema import Model, Org, Settings
from llmrouter.config.schema import Upstream as UpstreamTable
from llmrouter.contracts.dialect import Dialect
from llmrouter.daemon import unix
from llmrouter.daemon.channel import Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.rules import key_rules, rules
from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import Admission, AdmissionTerms
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.drain import DrainBounds
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.forward import Forwarder
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.pipeline import ExchangeLog, Gateway, Steps
from llmrouter.gateway.route import Router
from llmrouter.gateway.spending import Flight, Spending
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import Journal
from llmrouter.metering.prices import PriceBook
from llmrouter.quota.denials import Denials
from llmrouter.quota.estimate import Estimator
from llmrouter.quota.leases import Leases
from llmrouter.quota.rulebook import Rulebook
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import STRATEGIES, Weighted
from llmrouter.tasks import spawn

DIALECTS = {"openai": "llmrouter.dialects.openai:OpenAI"}
"""Every dialect that is served, by the name that router.toml knows it by."""

UPSTREAM_SWEEP_EVERY_S = 0.05
"""How late an upstream's time-out may fire."""
_DEMO_HEADERS = frozenset({b"x-demo"})
"""What callers may ask of the demo upstream, and of no other."""
_DEMO_BASE_URL = "http://demo/v1"
"""What stands in requests to the demo upstream, which is reached over its socket."""


def dialect(name: str) -> Dialect:
    """The dialect of that name."""
    module, _, attribute = DIALECTS[name].partition(":")
    return cast("Dialect", getattr(importlib.import_module(module), attribute)())


def keyring(start: Start) -> Keyring:
    """The table of keys as it stands when a worker starts."""
    ring = Keyring(KeyDigest(start.digest_key))
    ring.apply(start.keys)
    return ring


def rulebook(settings: Settings, keys: Iterable[IssuedKey], generation: int) -> Rulebook:
    """The rules in force: those of the settings, and those of the keys."""
    book = Rulebook(rules(settings))
    book.generation = generation
    apply_rules(book, settings, keys)
    return book


def apply_rules(book: Rulebook, settings: Settings, keys: Iterable[IssuedKey]) -> None:
    """Put the rules of new or changed keys in force."""
    for key in keys:
        book.set_key(key.id, key_rules(settings, key.rules))


class Quota(msgspec.Struct, frozen=True):
    """What a worker keeps limits and budgets with."""

    leases: Leases
    denials: Denials


def gateway(
    settings: Settings,
    start: Start,
    ring: Keyring,
    journal: Journal,
    quota: Quota,
    log: ExchangeLog,
) -> Gateway:
    """What one worker serves."""
    loop = asyncio.get_running_loop()
    now_ms = SteadyClock(start.clock_offset_ms).now_ms
    flight = Flight(Estimator(), PriceBook(start.prices), now_ms)
    router = Router(_routes(settings), _policy(settings.orgs))
    dialects = {name: dialect(name) for name in DIALECTS}
    deadlines = Deadlines(loop, UPSTREAM_SWEEP_EVERY_S)
    upstreams = {
        name: _upstream(name, table, dialects, deadlines, start)
        for name, table in settings.upstreams.items()
        if table.dialect in dialects
    }
    steps = Steps(
        authenticator=Authenticator(ring, _wall, loop.time),
        router=router,
        admission=Admission(
            flight,
            quota.leases,
            quota.denials,
            router,
            AdmissionTerms(
                inflight_max=share(settings.server.limits.inflight, start.workers),
                hold_wait_s=settings.quotas.hold_wait,
                unpriced_allowed=frozenset(
                    name for name, org in settings.orgs.items() if org.unpriced == "warn"
                ),
            ),
        ),
        forwarder=Forwarder(
            upstreams,
            {name: _drain(table) for name, table in settings.upstreams.items()},
            serves_unrecorded=settings.books.on_disk_full == "serve",
        ),
        meter=partial(_meter, journal, loop.time, now_ms),
        clock=loop.time,
    )
    return Gateway(
        dialects.values(),
        steps,
        request_ids=request_ids(),
        log=log,
        started_at_s=start.started_at_s,
    )


def server(settings: Settings, start: Start, serves: Gateway) -> Server:
    """The HTTP server in front of `serves`."""
    limits, timeouts = settings.server.limits, settings.server.timeouts
    connections = share(limits.connections, start.workers)
    reason = f"this node holds as many connections as it may ({connections} a worker)"
    head, body = serves.refusal(
        dialect(next(iter(DIALECTS))), Overloaded(f"{reason}; try again shortly", retry_after_s=1)
    )
    framing = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return Server(
        serves,
        spawn,
        ServerSettings(
            connections=connections,
            head_bytes=limits.head_bytes,
            body_bytes=limits.body_bytes,
            buffered_bytes=max(limits.body_bytes, share(limits.buffered_bytes, start.workers)),
            head_s=timeouts.head,
            body_s=timeouts.body,
            idle_s=timeouts.idle,
        ),
        full=head + framing + body,
    )


def share(whole: int, workers: int) -> int:
    """One worker's part of a limit of the node; rounded up, so that no worker gets nothing."""
    return -(-whole // workers)


def request_ids() -> Callable[[], str]:
    """Ids that no other worker, start or node gives: random per start, then counted."""
    prefix = f"req_{secrets.token_hex(8)}"
    counter = itertools.count(1)
    return lambda: f"{prefix}{next(counter):x}"


def _meter(
    journal: Journal,
    clock: Callable[[], float],
    now_ms: Callable[[], int],
    exchange: Exchange,
    spending: Spending,
) -> Meter:
    return Meter(journal, exchange, spending, clock, now_ms)


_wall = time.time  # noqa: TID251 - the one clock that everything else is given


def _upstream(
    name: str,
    table: UpstreamTable,
    dialects: dict[str, Dialect],
    deadlines: Deadlines,
    start: Start,
) -> Upstream:
    if table.url == DEMO_URL and start.demo_path is not None:
        path = unix.address(Path(start.demo_path))
        origin = Origin.from_url(_DEMO_BASE_URL, unix_path=path)
    else:
        origin = Origin.from_url(table.url)
    timeouts = UpstreamTimeouts(
        connect_s=table.timeouts.connect,
        first_s=table.timeouts.first_token,
        idle_s=table.timeouts.idle,
        total_s=table.timeouts.total,
    )
    return Upstream(
        name,
        dialects[table.dialect],
        Pool(origin, deadlines),
        timeouts,
        secret=start.secrets.get(name),
        also_passes=_DEMO_HEADERS if table.url == DEMO_URL else frozenset(),
    )


def _drain(table: UpstreamTable) -> DrainBounds:
    rest = table.drain_after_disconnect
    return DrainBounds(within_s=rest.seconds, bytes_max=rest.bytes)


def _routes(settings: Settings) -> Routes:
    return Routes(_route(name, model) for name, model in settings.models.items())


def _route(name: str, model: Model) -> Route:
    deployments = [
        Deployment(upstream=table.upstream, model=table.model, weight=table.weight)
        for table in model.deployments
    ]
    return Route(
        name,
        deployments,
        STRATEGIES.get(model.strategy, Weighted),
        aliases=model.aliases,
        output_max=model.max_output,
    )


def _policy(orgs: dict[str, Org]) -> ModelPolicy:
    teams = {
        (org, team): ModelPatterns(table.models)
        for org, whole in orgs.items()
        for team, table in whole.teams.items()
    }
    return ModelPolicy({org: ModelPatterns(table.models) for org, table in orgs.items()}, teams)
