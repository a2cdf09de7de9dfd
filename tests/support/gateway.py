"""A stage for plays: a real gateway and server in the loop of the test, before scripted upstreams.

Whatever a play does, at its end nothing is in flight, every begun call was ended once, no key of
ours has gone upstream, and no credential of ours was seen by a client of this stage.
"""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.access.keyring import Keyring
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import Admission, AdmissionTerms
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.fallback import Fallbacks
from llmrouter.gateway.forward import Forwarder
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.pipeline import Gateway, Steps
from llmrouter.gateway.route import Router
from llmrouter.gateway.shadow import Ledgers, Shadow, Shadows
from llmrouter.gateway.slots import Slots
from llmrouter.gateway.spending import Flight
from llmrouter.gateway.timeouts import Timeouts
from llmrouter.gateway.unrecorded import Unrecorded
from llmrouter.gateway.upstream import Upstream, UpstreamTerms
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.server import Server, ServerSettings, Spawn
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import Journal, JournalFiles, Write, journal_paths
from llmrouter.metering.prices import Price, PriceBook, PriceTable
from llmrouter.metering.records import Header
from llmrouter.metering.replay import JournaledCall, Pairing, pair
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.estimate import Estimator
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.conditions import Conditions
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Policy, Route, Routes
from llmrouter.routing.strategy import STRATEGIES, StrategyTerms
from llmrouter.stores.memory import MemoryStore
from llmrouter.tasks import spawn
from tests.support.application import settings
from tests.support.ledger import ACME, BOOT, FLAT, Node
from tests.support.raw import RawClient, Response, connected
from tests.support.upstream import Play, ScriptedUpstream, answer, scripted
from tests.support.waiting import until

CREDENTIAL = "sk-upstream-credential-0123456789"
NOW_S = 1_800_000_000
PLACE_WAIT_MS = 2_000
"""How long a call waits for a place at an upstream that has only so many."""
ONCE = Policy(attempts_max=1)
"""What a stage does unless it is told otherwise: the first failure is the caller's."""
BREAKER = BreakerTerms(failures=1_000, error_rate=2.0)
"""Opens for nothing that a play does."""
PATIENT = UpstreamTimeouts(connect_s=10, first_s=30, idle_s=30, total_s=60)
"""Time-outs that no play reaches."""


class At(msgspec.Struct, frozen=True):
    """A deployment of a stage."""

    upstream: str = "up"
    model: str | None = None
    weight: int = 1
    tags: dict[str, str] = {}


Served = At | Deployment


ROUTES: Mapping[str, At] = {
    "gpt": At(model="gpt-real"),
    "same": At(),
    "any-*": At(),
}
"""What a stage serves unless it is told otherwise."""


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """The limits and budgets of a stage."""

    rules: dict[Scope, tuple[Rule, ...]] = {}
    prices: dict[str, Price] = {}
    """By model."""
    prices_at: dict[str, dict[str, Price]] = {}
    """By model, and then by upstream: those that stand with deployments."""
    output_max: int | None = None
    """Of every model."""
    terms: DeskTerms = DeskTerms(hold_wait_ms=2_000, waiting_max=100)
    unpriced_allowed: frozenset[str] = frozenset()


UNLIMITED = Quota()


def limited(*rules: Rule, **more: Any) -> Quota:
    """These rules for the org of the stage's key; every model has the same price."""
    return Quota(rules={ACME: rules}, prices=dict.fromkeys(ROUTES, FLAT), **more)


def reporting(prompt_tokens: int, output_tokens: int) -> bytes:
    """A plain answer with this usage."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
    return answer(msgspec.json.encode({"usage": usage}))


class Logged(NamedTuple):
    """What an exchange was when it ended."""

    request_id: str
    status: int
    code: str | None
    deployment: str


def request(
    target: bytes,
    key: bytes | None,
    body: bytes = b"",
    *lines: bytes,
    method: bytes = b"POST",
    version: bytes = b"1.1",
) -> bytes:
    """A whole request; `lines` are headers without their ends."""
    head = [b"%b %b HTTP/%b" % (method, target, version), b"host: router.test"]
    if key is not None:
        head.append(b"authorization: Bearer " + key)
    if method == b"POST":
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*head, *lines, b"", body])


def asking(model: str = "gpt", **members: Any) -> bytes:
    """The body of a chat call."""
    messages = [{"role": "user", "content": "a prompt of mine"}]
    return msgspec.json.encode({"model": model, "messages": messages, **members})


class Reached(asyncio.Event):
    """Set when a play has come as far as the `Wait` for it, which then goes on at once."""

    async def wait(self) -> Literal[True]:
        self.set()
        return True


class Pause(asyncio.Event):
    """Lets everybody else do what they can, then a play goes on."""

    async def wait(self) -> Literal[True]:
        for _ in range(20):
            await asyncio.sleep(0)
        return True


class Stage:
    """What runs on it, and what was seen."""

    def __init__(self, upstreams: dict[str, Upstream], admission: Admission, node: Node) -> None:
        self.upstreams = upstreams
        self.admission = admission
        self.node = node
        """Limits and budgets."""
        self.now_s = float(NOW_S)
        """What the wall clock says."""
        self.log: list[Logged] = []
        self.book = KeyBook(MemoryStore(), KeyDigest(bytes(32)))
        self.ring = Keyring(KeyDigest(bytes(32)))
        self.keys: list[bytes] = []
        self.key = self.issue()
        self.journal_dir = Path()
        self.address = ("", 0)
        self.conditions: Conditions
        self.scripts: Mapping[str, ScriptedUpstream]
        self.upstream: ScriptedUpstream
        """The first of those that play."""
        self.router: Router
        self.routes: Routes
        self.forwarder: Forwarder
        self.gateway: Gateway
        self.server: Server

    def issue(self, *, org: str = "acme", **terms: Any) -> bytes:
        """The text of a new key."""
        issued, text = self.book.create(KeyTerms(org=org, **terms), self.now_s)
        self.ring.apply([issued])
        self.keys.append(text.encode())
        return text.encode()

    def note(self, exchange: Exchange) -> None:
        """Take what goes into the log."""
        code = exchange.error.code if exchange.error is not None else None
        line = Logged(exchange.request_id, exchange.status, code, exchange.deployment)
        self.log.append(line)

    def now(self) -> float:
        """What the clock says that conditions go by."""
        return asyncio.get_running_loop().time()

    def connected(self, *, receive_buffer_bytes: int | None = None) -> Any:
        """A client connection."""
        return connected(self.address, receive_buffer_bytes=receive_buffer_bytes)

    async def ask(self, message: bytes) -> Response:
        """One exchange on a connection of its own."""
        async with connected(self.address) as client:
            await client.send(message)
            return await shown(client, to=message.partition(b" ")[0])

    def begin(self, message: bytes) -> asyncio.Task[Response]:
        """Begin such an exchange."""
        return spawn(self.ask(message), name="call")

    def chat(self, *lines: bytes, key: bytes | None = None, **members: Any) -> bytes:
        """A chat call by this stage's key, or by another."""
        return request(b"/v1/chat/completions", key or self.key, asking(**members), *lines)

    def journal(self) -> Pairing:
        """What is in the journal's files at this moment."""
        return pair(journal_paths(self.journal_dir))

    async def calls(self, count: int = 1) -> list[JournaledCall]:
        """The calls in the journal, once so many of them have ended."""

        def ended() -> bool:
            return sum(call.end is not None for call in self.journal().calls) >= count

        await until(ended, f"no {count} calls ended", self.journal)
        return self.journal().calls

    def set_asked_max(self, upstream: str, seconds: float) -> None:
        """That upstream lets callers ask for time-outs up to so long."""
        terms = self.upstreams[upstream].terms
        self.upstreams[upstream].terms = replace(terms, asked_max_s=seconds)

    async def cut_off(self, upstream: str) -> None:
        """From now on nobody can connect to that upstream."""
        pool = self.upstreams[upstream].pool
        pool.close()
        pool.origin = Origin.from_url("http://no-such-host.invalid")

    async def asked(self, count: int, upstream: str = "up") -> None:
        """Wait until that upstream has seen so many requests."""
        script = self.scripts[upstream]
        await until(lambda: len(script.seen) == count, f"{upstream} was not asked")

    async def upstreams_left(self, most: int = 1) -> None:
        """Wait until no upstream has more connections than those that lie idle."""
        for name, script in self.scripts.items():
            await until(partial(_has_left, script, most), f"a connection to {name} is left")

    async def upstream_paused(self) -> None:
        """Wait until nothing more is read from the upstream."""
        pool = self.upstreams["up"].pool
        await until(lambda: any(c._paused for c in pool._open), "the upstream is not paused")

    async def at_rest(self) -> None:
        """Wait until nothing is in flight, and nobody waits for the ledger."""
        await until(lambda: self.admission.inflight == 0, "a call is still in flight")
        await until(self.node.is_quiet, "the ledger is still asked", lambda: self.node.desk)

    def check(self) -> None:
        """What holds after every play."""
        found = self.journal()
        assert [*found.orphans, *found.duplicates, *found.damaged, *found.torn] == []
        assert [call for call in found.calls if call.interrupted] == []
        assert self.admission.inflight == 0
        assert [one for one in self.conditions if one.inflight or one.breaker.probes] == []
        self.node.check(found.calls)
        seen = repr([script.seen for script in self.scripts.values()]).encode()
        assert [key for key in self.keys if key in seen] == [], "a key of ours went upstream"


async def shown(client: RawClient, *, to: bytes = b"POST") -> Response:
    """The next response; our credential is nowhere in it."""
    response = await client.response(to=to)
    assert CREDENTIAL.encode() not in repr(response).encode()
    return response


def error_of(response: Response) -> dict[str, Any]:
    """The error object of a refusal, its shape checked."""
    assert response.headers[b"content-type"] == b"application/json"
    error: dict[str, Any] = msgspec.json.decode(response.body)["error"]
    assert {"message", "type", "param", "code", "request_id"} <= error.keys()
    assert error["request_id"] == response.headers[b"x-request-id"].decode()
    return error


def _has_left(script: ScriptedUpstream, most: int) -> bool:
    return script.open <= most


@contextlib.asynccontextmanager
async def staged(
    directory: Path,
    *plays: Play,
    routes: Mapping[str, Served | Sequence[Served]] = ROUTES,
    others: Mapping[str, Sequence[Play]] | None = None,
    policies: Mapping[str, Policy] | None = None,
    strategy: str = "weighted",
    breaker: BreakerTerms = BREAKER,
    concurrent: Mapping[str, int] | None = None,
    shadows: Mapping[str, Shadow] | None = None,
    aliases: Mapping[str, Iterable[str]] | None = None,
    orgs: Mapping[str, Sequence[str]] | None = None,
    teams: Mapping[tuple[str, str], Sequence[str]] | None = None,
    timeouts: UpstreamTimeouts | Mapping[str, UpstreamTimeouts] = PATIENT,
    limits: ServerSettings | None = None,
    inflight_max: int = 1000,
    write: Write = os.write,
    url: str | None = None,
    spawning: Spawn = spawn,
    router: Router | None = None,
    send_buffer_bytes: int | None = None,
    quota: Quota = UNLIMITED,
    drain: DrainBounds = NO_DRAIN,
    serves_unrecorded: bool = False,
    random: Callable[[], float] = lambda: 0.0,
    model_timeouts: Mapping[str, Mapping[str, float]] | None = None,
) -> AsyncIterator[Stage]:
    """Serve `routes` at the upstream `up`, which plays `plays` unless `url` is another.

    `others` are further upstreams and what they play; a call makes one attempt unless `policies`
    has its model.
    """
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.01)
    async with contextlib.AsyncExitStack() as stack:
        scripts = {
            name: await stack.enter_async_context(scripted(*played))
            for name, played in {"up": plays, **(others or {})}.items()
        }
        urls = {name: f"{script.url}/base/v1" for name, script in scripts.items()}
        if url is not None:
            urls["up"] = url
        ours = _upstreams(urls, deadlines, timeouts, drain)
        conditions = Conditions(dict.fromkeys(ours, breaker), now_s=loop.time())
        journal_dir = directory / "journal"
        journal = _journal(journal_dir, write)
        rules = {**quota.rules, **_places(concurrent or {})}
        node = Node(rules, journal, journal_dir, quota.terms)
        prices = PriceBook(PriceTable(explicit=quota.prices, explicit_at=quota.prices_at))
        served = _routes(
            routes,
            conditions,
            strategy,
            aliases=aliases or {},
            output_max=quota.output_max,
            policies=policies or {},
        )
        routing = router or Router(served, _policy(orgs, teams))
        flight = Flight(Estimator(), prices, node.now_ms)
        admission = _admission(flight, node, routing, quota, inflight_max)
        for name in concurrent or {}:
            account = node.leases.accounts.of_scope(Scope(kind="upstream", name=name))
            ours[name].slots = Slots(admission.room, account)
        stage = Stage(ours, admission, node)
        stage.conditions, stage.router, stage.routes = conditions, routing, served
        stage.upstream, stage.scripts = scripts["up"], scripts
        stage.journal_dir = journal_dir
        stage.forwarder = forwarder = Forwarder(
            ours, Timeouts(ours, model_timeouts or {}), admission.room, random
        )
        shadow_ledgers = Ledgers(journal, prices, node.now_ms)
        steps = Steps(
            authenticator=Authenticator(stage.ring, lambda: stage.now_s, loop.time),
            router=routing,
            admission=admission,
            forwarder=forwarder,
            fallbacks=Fallbacks(routing, admission, forwarder),
            shadows=Shadows(shadows or {}, ours, shadow_ledgers, lambda: 0.5),
            meter=partial(
                Meter,
                journal,
                loop.time,
                node.now_ms,
                Unrecorded(loop.time) if serves_unrecorded else None,
            ),
            clock=loop.time,
        )
        listener = await _opened(stage, steps, spawning, limits or settings(), send_buffer_bytes)
        try:
            yield stage
            await stage.at_rest()
        finally:
            listener.close()
            await _closed(stage)
            deadlines.close()
            journal.close()
            node.rest()
        stage.check()
        node.tail.close()


def _upstreams(
    urls: Mapping[str, str],
    deadlines: Deadlines,
    timeouts: UpstreamTimeouts | Mapping[str, UpstreamTimeouts],
    drain: DrainBounds,
) -> dict[str, Upstream]:
    """The upstreams; those that `timeouts` does not name are waited for patiently."""

    def terms(name: str) -> UpstreamTerms:
        if isinstance(timeouts, UpstreamTimeouts):
            return UpstreamTerms(timeouts=timeouts, drain=drain)
        return UpstreamTerms(timeouts=timeouts.get(name, PATIENT), drain=drain)

    return {
        name: Upstream(
            name, OpenAI(), Pool(Origin.from_url(url), deadlines), terms(name), secret=CREDENTIAL
        )
        for name, url in urls.items()
    }


def _journal(directory: Path, write: Write) -> Journal:
    loop = asyncio.get_running_loop()
    files = JournalFiles(directory, Header(worker="0", boot=BOOT, pid=1), write=write)
    return Journal(files, call_soon=loop.call_soon, call_later=loop.call_later)


def _places(concurrent: Mapping[str, int]) -> dict[Scope, tuple[Rule, ...]]:
    """The rule for the places of each upstream that has only so many."""
    return {
        Scope(kind="upstream", name=name): (
            Rule(kind=Kind.CONCURRENT, amount=count, at_limit=QUEUE, wait_ms=PLACE_WAIT_MS),
        )
        for name, count in concurrent.items()
    }


def _admission(
    flight: Flight, node: Node, router: Router, quota: Quota, inflight_max: int
) -> Admission:
    terms = AdmissionTerms(
        inflight_max=inflight_max,
        hold_wait_s=quota.terms.hold_wait_ms / 1000,
        unpriced_allowed=quota.unpriced_allowed,
    )
    return Admission(flight, node.leases, node.denials, router, terms)


async def _opened(
    stage: Stage,
    steps: Steps,
    spawning: Spawn,
    limits: ServerSettings,
    send_buffer_bytes: int | None,
) -> asyncio.Server:
    """Put the gateway behind a server that listens."""
    counter = itertools.count()  # the first is for the full server
    stage.gateway = gateway = Gateway(
        [OpenAI()],
        steps,
        request_ids=lambda: f"req_{next(counter)}",
        log=stage.note,
        started_at_s=NOW_S,
    )
    full, body = gateway.refusal(OpenAI(), Overloaded("full", retry_after_s=1))
    stage.server = Server(gateway, spawning, limits, full=full + b"\r\n" + body)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(stage.server.protocol, "127.0.0.1", 0)
    stage.address = listener.sockets[0].getsockname()
    if send_buffer_bytes is not None:
        listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return listener


async def _closed(stage: Stage) -> None:
    """End whatever still runs."""
    stage.server.abort()
    async with asyncio.timeout(10):
        await stage.server.emptied()
        await stage.gateway.close()
    await asyncio.sleep(0)  # tasks of connections that were cut end
    for upstream in stage.upstreams.values():
        upstream.pool.close()


def _routes(
    routes: Mapping[str, Served | Sequence[Served]],
    conditions: Conditions,
    strategy: str,
    *,
    aliases: Mapping[str, Iterable[str]],
    output_max: int | None,
    policies: Mapping[str, Policy],
) -> Routes:
    terms = StrategyTerms(cost=lambda *_: None, random=lambda: 0.0)
    return Routes(
        Route(
            name,
            [_deployment(at, name, conditions) for at in _several(served)],
            lambda deployments: STRATEGIES[strategy](deployments, terms),
            aliases=aliases.get(name, ()),
            output_max=output_max,
            policy=policies.get(name, ONCE),
        )
        for name, served in routes.items()
    )


def _several(served: Served | Sequence[Served]) -> Sequence[Served]:
    return [served] if isinstance(served, At | Deployment) else served


def _deployment(at: Served, route: str, conditions: Conditions) -> Deployment:
    if isinstance(at, Deployment):
        return at
    return Deployment(
        upstream=at.upstream,
        model=at.model,
        weight=at.weight,
        tags=at.tags,
        condition=conditions.of(f"{at.upstream}/{at.model or route}"),
    )


def _policy(
    orgs: Mapping[str, Sequence[str]] | None,
    teams: Mapping[tuple[str, str], Sequence[str]] | None,
) -> ModelPolicy:
    return ModelPolicy(
        {org: ModelTerms(models=ModelPatterns(texts)) for org, texts in (orgs or {}).items()},
        {team: ModelTerms(models=ModelPatterns(texts)) for team, texts in (teams or {}).items()},
    )
