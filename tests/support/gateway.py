"""A stage for plays: a real gateway and server in the loop of the test, before scripted upstreams.

Whatever a play does, at its end nothing is in flight, every begun call was ended once, no key of
ours has gone upstream, and no credential of ours was seen by a client of this stage.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.access.keyring import Keyring
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy
from llmrouter.contracts.rule import Rule, Scope
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import Admission, AdmissionTerms
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.forward import Forwarder
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.pipeline import Gateway, Steps
from llmrouter.gateway.route import Router
from llmrouter.gateway.spending import Flight, Spending
from llmrouter.gateway.upstream import Upstream
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
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import Weighted
from llmrouter.stores.memory import MemoryStore
from llmrouter.tasks import spawn
from tests.support.application import settings
from tests.support.ledger import ACME, BOOT, FLAT, Node
from tests.support.raw import RawClient, Response, connected
from tests.support.upstream import Play, ScriptedUpstream, answer, scripted
from tests.support.waiting import until

CREDENTIAL = "sk-upstream-credential-0123456789"
NOW_S = 1_800_000_000
PATIENT = UpstreamTimeouts(connect_s=10, first_s=30, idle_s=30, total_s=60)
"""Time-outs that no play reaches."""
ROUTES: Mapping[str, Deployment] = {
    "gpt": Deployment(upstream="up", model="gpt-real"),
    "same": Deployment(upstream="up"),
    "any-*": Deployment(upstream="up"),
}
"""What a stage serves unless it is told otherwise."""


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """The limits and budgets of a stage."""

    rules: dict[Scope, tuple[Rule, ...]] = {}
    prices: dict[str, Price] = {}
    """By model."""
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

    def __init__(self, upstreams: Mapping[str, Upstream], admission: Admission, node: Node) -> None:
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
        self.upstream: ScriptedUpstream
        """The first of those that play."""
        self.router: Router
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

    def connected(self, *, receive_buffer_bytes: int | None = None) -> Any:
        """A client connection."""
        return connected(self.address, receive_buffer_bytes=receive_buffer_bytes)

    async def ask(self, message: bytes) -> Response:
        """One exchange on a connection of its own."""
        async with connected(self.address) as client:
            await client.send(message)
            return await shown(client, to=message.partition(b" ")[0])

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
        self.node.check(found.calls)
        seen = repr(self.upstream.seen).encode()
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


@contextlib.asynccontextmanager
async def staged(
    directory: Path,
    *plays: Play,
    routes: Mapping[str, Deployment | Sequence[Deployment]] = ROUTES,
    aliases: Mapping[str, Iterable[str]] | None = None,
    orgs: Mapping[str, Sequence[str]] | None = None,
    teams: Mapping[tuple[str, str], Sequence[str]] | None = None,
    timeouts: UpstreamTimeouts = PATIENT,
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
) -> AsyncIterator[Stage]:
    """Serve `routes` at one upstream named `up`, which plays `plays` unless `url` is another."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.01)
    async with scripted(*plays) as upstream:
        pool = Pool(Origin.from_url(url or f"{upstream.url}/base/v1"), deadlines)
        ours = {"up": Upstream("up", OpenAI(), pool, timeouts, secret=CREDENTIAL)}
        journal_dir = directory / "journal"
        files = JournalFiles(journal_dir, Header(worker="0", boot=BOOT, pid=1), write=write)
        journal = Journal(files, call_soon=loop.call_soon, call_later=loop.call_later)
        node = Node(quota.rules, journal, journal_dir, quota.terms)
        flight = Flight(Estimator(), PriceBook(PriceTable(explicit=quota.prices)), node.now_ms)
        routing = router or Router(
            _routes(routes, aliases or {}, quota.output_max), _policy(orgs, teams)
        )
        admission = Admission(
            flight,
            node.leases,
            node.denials,
            routing,
            AdmissionTerms(
                inflight_max=inflight_max,
                hold_wait_s=quota.terms.hold_wait_ms / 1000,
                unpriced_allowed=quota.unpriced_allowed,
            ),
        )
        stage = Stage(ours, admission, node)
        stage.upstream = upstream
        stage.journal_dir = journal_dir
        stage.router = routing
        counter = itertools.count()  # the first is for the full server
        steps = Steps(
            authenticator=Authenticator(stage.ring, lambda: stage.now_s, loop.time),
            router=routing,
            admission=stage.admission,
            forwarder=Forwarder(ours, {"up": drain}, serves_unrecorded=serves_unrecorded),
            meter=partial(_meter, journal, node),
            clock=loop.time,
        )
        stage.gateway = Gateway(
            [OpenAI()],
            steps,
            request_ids=lambda: f"req_{next(counter)}",
            log=stage.note,
            started_at_s=NOW_S,
        )
        full, body = stage.gateway.refusal(OpenAI(), Overloaded("full", retry_after_s=1))
        stage.server = Server(
            stage.gateway, spawning, limits or settings(), full=full + b"\r\n" + body
        )
        listener = await loop.create_server(stage.server.protocol, "127.0.0.1", 0)
        stage.address = listener.sockets[0].getsockname()
        if send_buffer_bytes is not None:
            listener.sockets[0].setsockopt(1, 7, send_buffer_bytes)  # SOL_SOCKET, SO_SNDBUF
        try:
            yield stage
            await stage.at_rest()
        finally:
            listener.close()
            stage.server.abort()
            async with asyncio.timeout(10):
                await stage.server.emptied()
            await asyncio.sleep(0)  # tasks of connections that were cut end
            pool.close()
            deadlines.close()
            journal.close()
            node.rest()
        stage.check()
        node.tail.close()


def _meter(journal: Journal, node: Node, exchange: Exchange, spending: Spending) -> Meter:
    return Meter(journal, exchange, spending, asyncio.get_running_loop().time, node.now_ms)


def _routes(
    routes: Mapping[str, Deployment | Sequence[Deployment]],
    aliases: Mapping[str, Iterable[str]],
    output_max: int | None,
) -> Routes:
    return Routes(
        Route(
            name,
            [served] if isinstance(served, Deployment) else served,
            Weighted,
            aliases=aliases.get(name, ()),
            output_max=output_max,
        )
        for name, served in routes.items()
    )


def _policy(
    orgs: Mapping[str, Sequence[str]] | None,
    teams: Mapping[tuple[str, str], Sequence[str]] | None,
) -> ModelPolicy:
    return ModelPolicy(
        {org: ModelPatterns(texts) for org, texts in (orgs or {}).items()},
        {team: ModelPatterns(texts) for team, texts in (teams or {}).items()},
    )
