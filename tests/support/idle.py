"""Exchanges and holds that stand by themselves, for what looks at one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import cast

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.daemon.demo.server import SETTINGS
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.needs import Need, Who
from llmrouter.gateway.spending import Flight, Spending
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.origin import Origin
from llmrouter.http1.outbox import Outbox
from llmrouter.http1.pool import Pool
from llmrouter.http1.request import Buffered, Request
from llmrouter.http1.server import Server
from llmrouter.http1.upstream import UpstreamConnection
from llmrouter.metering.prices import Price, PriceBook, PriceTable
from llmrouter.quota.estimate import Estimator
from llmrouter.quota.leases import Account, Leases
from llmrouter.quota.reservation import Reservation
from llmrouter.quota.rulebook import Rulebook
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Route
from llmrouter.routing.strategy import Ordered

NOW_MS = 1_800_000_000_000


class _Nobody:
    """Serves nothing."""

    def serve(self, exchange: Exchange) -> Awaitable[None]:
        raise AssertionError("this exchange is not for serving")


class _Standing:
    """A loop whose turn never ends."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """It will never be called."""


def nowhere() -> ServerConnection:
    """A connection that nobody has made."""
    server = SimpleNamespace(
        loop=None,
        settings=SETTINGS,
        buffered=Buffered(0),
        draining=False,
        outbox=Outbox(cast("asyncio.AbstractEventLoop", _Standing())),
    )
    return ServerConnection(cast("Server", server))


def nothing_upstream() -> UpstreamConnection:
    """A connection to an upstream that nobody has made. Needs a running loop."""
    loop = asyncio.get_running_loop()
    return UpstreamConnection(Pool(Origin.from_url("http://up.test"), Deadlines(loop, 1)), loop)


def idle_exchange(request: Request | None = None, request_id: str = "req_1") -> Exchange:
    """An exchange that stands by itself, for what looks at one: it cannot answer."""
    request = request or Request(b"/v1/models")
    exchange = Exchange(_Nobody(), nowhere(), request, request_id)
    exchange.dialect = OpenAI()
    exchange.principal = Principal(
        org="acme", team=None, user=None, key_id="k" * 12, models=ModelPatterns()
    )
    return exchange


def deployment(upstream: str = "up", model: str | None = None) -> Deployment:
    """A deployment that nothing speaks against."""
    condition = Condition(f"{upstream}/{model}", BreakerTerms(), now_s=0.0)
    return Deployment(upstream=upstream, model=model, condition=condition)


def idle_spending(
    prices: Mapping[str, Price] | None = None, estimator: Estimator | None = None
) -> Spending:
    """What a call by no rules holds: 10 tokens of a prompt of 35 bytes, and 20 of output."""
    leases = Leases(Rulebook({}), wake=lambda: None, flush_journal=lambda: None)
    table = PriceTable(explicit=dict(prices or {}))
    flight = Flight(estimator or Estimator(), PriceBook(table), lambda: NOW_MS)
    route = Route("gpt", [deployment()], Ordered)
    need = Need(Who("k" * 12, "gpt"), 10, 20, 10, 25, 35)
    return Spending(flight, Reservation(leases, Account(()), (1, 30, 0, 1, 0)), route, need, NOW_MS)
