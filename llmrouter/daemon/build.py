"""The composition root: from the configuration to a gateway that serves.

The only module that knows every leaf, and the only translator of configuration into plain values:
nothing below it ever sees a config struct.
"""

import asyncio
import importlib
import itertools
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

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
from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import Admission
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.forward import Forwarder
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.pipeline import ExchangeLog, Gateway, Steps
from llmrouter.gateway.route import Router
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import Journal
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


def gateway(
    settings: Settings, start: Start, ring: Keyring, journal: Journal, log: ExchangeLog
) -> Gateway:
    """What one worker serves."""
    loop = asyncio.get_running_loop()
    dialects = {name: dialect(name) for name in DIALECTS}
    deadlines = Deadlines(loop, UPSTREAM_SWEEP_EVERY_S)
    upstreams = {
        name: _upstream(name, table, dialects, deadlines, start)
        for name, table in settings.upstreams.items()
        if table.dialect in dialects
    }
    steps = Steps(
        authenticator=Authenticator(ring, _wall, loop.time),
        router=Router(_routes(settings), _policy(settings.orgs)),
        admission=Admission(share(settings.server.limits.inflight, start.workers)),
        forwarder=Forwarder(upstreams),
        meter=partial(_meter, journal, loop.time),
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


def _meter(journal: Journal, clock: Callable[[], float], exchange: Exchange) -> Meter:
    return Meter(journal, exchange, clock, _wall)


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


def _routes(settings: Settings) -> Routes:
    return Routes(_route(name, model) for name, model in settings.models.items())


def _route(name: str, model: Model) -> Route:
    deployments = [
        Deployment(upstream=table.upstream, model=table.model, weight=table.weight)
        for table in model.deployments
    ]
    strategy = STRATEGIES.get(model.strategy, Weighted)
    return Route(name, strategy(deployments), aliases=model.aliases)


def _policy(orgs: dict[str, Org]) -> ModelPolicy:
    teams = {
        (org, team): ModelPatterns(table.models)
        for org, whole in orgs.items()
        for team, table in whole.teams.items()
    }
    return ModelPolicy({org: ModelPatterns(table.models) for org, table in orgs.items()}, teams)
