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
from llmrouter.config.addresses import DEMO_URL
from llmrouter.config.schema import Settings
from llmrouter.config.schema import Upstream as UpstreamTable
from llmrouter.contracts.dialect import Dialect
from llmrouter.contracts.rule import Scope
from llmrouter.daemon import routing, unix
from llmrouter.daemon.channel import Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.policy import model_policy
from llmrouter.daemon.rules import key_rules, rules
from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import Admission, AdmissionTerms
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.drain import DrainBounds
from llmrouter.gateway.explain import Explainer
from llmrouter.gateway.fallback import Fallbacks
from llmrouter.gateway.forward import Forwarder
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.pipeline import ExchangeLog, Gateway, Steps
from llmrouter.gateway.route import Router
from llmrouter.gateway.shadow import Ledgers, Shadows
from llmrouter.gateway.slots import Slots
from llmrouter.gateway.spending import Flight
from llmrouter.gateway.timeouts import Timeouts
from llmrouter.gateway.unrecorded import Unrecorded
from llmrouter.gateway.upstream import Upstream, UpstreamTerms
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
from llmrouter.routing.conditions import Conditions
from llmrouter.tasks import spawn
from llmrouter.units import MS_PER_S

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


def origin(url: str, demo_path: str | None) -> Origin:
    """Where an upstream with this url is; the demo upstream listens at `demo_path`."""
    if url == DEMO_URL and demo_path is not None:
        return Origin.from_url(_DEMO_BASE_URL, unix_path=unix.address(Path(demo_path)))
    return Origin.from_url(url)


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


class Parts(msgspec.Struct, frozen=True):
    """What the gateway of a worker stands on, and the worker itself keeps up to date."""

    keyring: Keyring
    journal: Journal
    quota: Quota
    conditions: Conditions


def gateway(settings: Settings, start: Start, parts: Parts, log: ExchangeLog) -> Gateway:
    """What one worker serves."""
    quota, conditions = parts.quota, parts.conditions
    loop = asyncio.get_running_loop()
    now_ms = SteadyClock(start.clock_offset_ms).now_ms
    prices = PriceBook(start.prices)
    flight = Flight(Estimator(), prices, now_ms)
    router = Router(routing.routes(settings, conditions, prices), model_policy(settings.orgs))
    dialects = {name: dialect(name) for name in DIALECTS}
    deadlines = Deadlines(loop, UPSTREAM_SWEEP_EVERY_S)
    upstreams = {
        name: _upstream(name, table, dialects, deadlines, start)
        for name, table in settings.upstreams.items()
        if table.dialect in dialects
    }
    admission = Admission(
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
    )
    for name, upstream in upstreams.items():
        if settings.upstreams[name].concurrent is not None:
            places = quota.leases.accounts.of_scope(Scope(kind="upstream", name=name))
            upstream.slots = Slots(admission.room, places)
    timeouts = Timeouts(upstreams, routing.model_timeouts(settings))
    forwarder = Forwarder(upstreams, timeouts, admission.room, routing.draw)
    unrecorded = Unrecorded(loop.time) if settings.books.on_disk_full == "serve" else None
    shadows = None
    if shadowed := routing.shadows(settings):
        ledgers = Ledgers(parts.journal, prices, now_ms)
        shadows = Shadows(shadowed, upstreams, ledgers, routing.draw)
    steps = Steps(
        authenticator=Authenticator(parts.keyring, _wall, loop.time),
        router=router,
        admission=admission,
        forwarder=forwarder,
        fallbacks=Fallbacks(router, admission, forwarder),
        shadows=shadows,
        meter=partial(Meter, parts.journal, loop.time, now_ms, unrecorded),
        clock=loop.time,
    )
    return Gateway(
        dialects.values(),
        steps,
        request_ids=request_ids(),
        log=log,
        started_at_s=start.started_at_s,
    )


def explainer(settings: Settings, serves: Gateway, ring: Keyring) -> Explainer:
    """Explains calls as `serves` would serve them."""
    spoken = dialect(next(iter(DIALECTS)))
    hold_wait_ms = round(settings.quotas.hold_wait * MS_PER_S)
    return Explainer(serves.steps, spoken, ring, hold_wait_ms=hold_wait_ms)


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


_wall = time.time  # noqa: TID251 - the one clock that everything else is given


def _upstream(
    name: str,
    table: UpstreamTable,
    dialects: dict[str, Dialect],
    deadlines: Deadlines,
    start: Start,
) -> Upstream:
    timeouts = UpstreamTimeouts(
        connect_s=table.timeouts.connect,
        first_s=table.timeouts.first_token,
        idle_s=table.timeouts.idle,
        total_s=table.timeouts.total,
    )
    terms = UpstreamTerms(
        timeouts=timeouts,
        asked_max_s=table.timeouts.asked_max,
        drain=_drain(table),
        also_passes=_DEMO_HEADERS if table.url == DEMO_URL else frozenset(),
    )
    return Upstream(
        name,
        dialects[table.dialect],
        Pool(origin(table.url, start.demo_path), deadlines, age_max_s=table.connection_age),
        terms,
        secret=start.secrets.get(name),
    )


def _drain(table: UpstreamTable) -> DrainBounds:
    rest = table.drain_after_disconnect
    return DrainBounds(within_s=rest.seconds, bytes_max=rest.bytes)
