"""What each step of a call's way costs by itself; limits and budgets: `test_admission`.

A figure that grows with the number of keys or of models would be one of a table that is searched.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest, new_key_text, read_id
from llmrouter.access.keyring import Keyring
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.access.principal import Principal
from llmrouter.contracts.call import Operation, Usage
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.respond import respond
from llmrouter.gateway.route import Router
from llmrouter.gateway.upstream import Upstream, UpstreamTerms
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.reader import RequestReader
from llmrouter.http1.request import Buffered, Request
from llmrouter.http1.sse import Splitter
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import Journal, JournalFiles, journal_paths
from llmrouter.metering.records import Begin, End, Header
from llmrouter.metering.replay import pair
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import NO_FACTS, Weighted
from tests.bench.calls import PATH, Headers, chat, lowered, message, plain_headers, sdk_headers
from tests.support.fleet import fleet
from tests.support.idle import deployment, idle_exchange, idle_spending, nothing_upstream
from tests.support.transport import FakeLoop, FakeTransport

pytestmark = [pytest.mark.bench, pytest.mark.benchmark(max_time=0.2, min_rounds=5)]

BODY = chat()
KEY = new_key_text().encode()
NOW_S = 1_767_225_600.0
NOW_MS = 1_767_225_600_000
HEADS = 1_000
"""Different ones, so that none is like one of those before it."""
A_WRITE = 32
"""Calls that are journaled by one write."""
DIALECT = OpenAI()


# ---- parse ----------------------------------------------------------------------------------


class Limits:
    """Far more than is sent."""

    head_bytes = 64 * 1024
    body_bytes = 1024 * 1024


class Heard:
    """Takes each request, and lets go of its body as the path does."""

    def __init__(self) -> None:
        self.requests = 0
        self.last: Request | None = None
        self.body = b""

    def request_head(self, request: Request) -> None:
        self.last = request

    def request_complete(self, request: Request) -> None:
        self.requests += 1
        self.body = request.body
        request.drop_body()


def parse(benchmark: BenchmarkFixture, messages: Sequence[bytes]) -> Request:
    """Measure reading these in turn over one connection; the last request."""
    heard = Heard()
    reader = RequestReader(heard, Limits, Buffered(1 << 30))
    turns = itertools.cycle(messages)
    fed = 0

    def read() -> None:
        nonlocal fed
        fed += 1
        reader.feed(next(turns))

    benchmark(read)
    assert heard.requests == fed
    assert heard.body == BODY
    request = heard.last
    assert request is not None
    assert (request.method, request.path) == (b"POST", PATH)
    assert request.keep_alive
    return request


def test_parse_a_request(benchmark: BenchmarkFixture) -> None:
    headers = plain_headers(KEY, BODY)

    request = parse(benchmark, [message(headers, BODY)])

    assert request.headers == lowered(headers)


def test_parse_a_request_whose_head_is_new_each_time(benchmark: BenchmarkFixture) -> None:
    headers = plain_headers(KEY, BODY)[:-1]
    length = (b"Content-Length", b"%d" % len(BODY))
    traces = [b"00-%032x-%016x-01" % (number + 1, number + 1) for number in range(HEADS)]

    request = parse(
        benchmark,
        [message([*headers, (b"traceparent", trace), length], BODY) for trace in traces],
    )

    assert request.headers.pop(b"traceparent") in traces
    assert request.headers == lowered([*headers, length])


def test_parse_a_request_of_an_sdk(benchmark: BenchmarkFixture) -> None:
    headers = sdk_headers(KEY, BODY)

    request = parse(benchmark, [message(headers, BODY)])

    assert len(request.headers) == 20
    assert request.headers == lowered(headers)


# ---- authenticate ---------------------------------------------------------------------------


def issued(text: bytes, digest: KeyDigest) -> IssuedKey:
    """A key as the state keeps it."""
    key_id = read_id(text)
    assert key_id is not None
    return IssuedKey(
        id=key_id.decode(),
        digest=digest(text).hex(),
        org="acme",
        team="research",
        user="ada",
        created_at_s=int(NOW_S),
    )


@pytest.mark.parametrize("keys", [1, 100, 10_000])
def test_authenticate(benchmark: BenchmarkFixture, keys: int) -> None:
    digest = KeyDigest(bytes(32))
    texts = [new_key_text().encode() for _ in range(keys)]
    keyring = Keyring(digest)
    keyring.apply(issued(text, digest) for text in texts)
    assert len(keyring) == keys
    turns = itertools.cycle(texts)

    principal = benchmark(lambda: keyring.authenticate(next(turns), NOW_S))

    assert (principal.org, principal.team, principal.user) == ("acme", "research", "ada")


# ---- read call ------------------------------------------------------------------------------


def test_read_a_call(benchmark: BenchmarkFixture) -> None:
    call = benchmark(lambda: DIALECT.read_call(Operation.CHAT, BODY))

    assert (call.model, call.stream, call.output_max) == ("gpt-4o", False, 256)


# ---- route ----------------------------------------------------------------------------------


def router(names: Sequence[str]) -> Router:
    """One for models of these names."""
    routes = Routes(Route(name, [deployment()], Weighted) for name in names)
    terms = ModelTerms(models=ModelPatterns(["model-*"]))
    return Router(routes, ModelPolicy({"acme": terms}, {}))


def holder() -> Principal:
    """Whose key opens every model of its org."""
    return Principal(org="acme", team=None, user=None, key_id="k" * 12, models=ModelPatterns())


@pytest.mark.parametrize("models", [1, 100, 1_000])
def test_find_a_route(benchmark: BenchmarkFixture, models: int) -> None:
    """As for nearly every call: the same key has asked for it before."""
    names = [f"model-{number}" for number in range(models)]
    routed, principal = router(names), holder()
    turns = itertools.cycle(names)

    found = benchmark(lambda: routed.find(next(turns), principal))

    assert found.route.name == found.asked
    assert found.asked in names


@pytest.mark.parametrize("models", [1, 100, 1_000])
def test_find_a_route_anew(benchmark: BenchmarkFixture, models: int) -> None:
    """As after each change of a key."""
    names = [f"model-{number}" for number in range(models)]
    routed, principals = router(names), itertools.cycle([holder(), holder()])
    turns = itertools.cycle(name for name in names for _ in range(2))

    found = benchmark(lambda: routed.find(next(turns), next(principals)))

    assert found.route.name == found.asked
    assert found.asked in names


@pytest.mark.parametrize("weights", [(1,), (3, 2, 1)], ids=["one", "three"])
def test_choose_a_deployment(benchmark: BenchmarkFixture, weights: tuple[int, ...]) -> None:
    deployments = fleet(*weights)
    route = Route("gpt-4o", deployments, Weighted)

    chosen = benchmark(lambda: route.choose(NOW_S, NO_FACTS))

    assert chosen in deployments
    turns = [route.choose(NOW_S, NO_FACTS) for _ in range(sum(weights))]
    assert [turns.count(one) for one in deployments] == list(weights)


# ---- pass on an event -----------------------------------------------------------------------


EVENT = (
    b'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1732300000,'
    b'"model":"gpt-4o-2024-08-06","system_fingerprint":"fp_1","choices":[{"index":0,'
    b'"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
TOLD = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}\n\n'
)


def test_scan_an_event(benchmark: BenchmarkFixture) -> None:
    splitter = Splitter()
    tap = DIALECT.tap(DIALECT.read_call(Operation.CHAT, chat(stream=True)))

    passed = benchmark(lambda: tap.feed(splitter.feed(EVENT)))

    assert passed == EVENT
    assert (tap.usage, tap.complete) == (None, False)
    tap.feed(splitter.feed(TOLD + b"data: [DONE]\n\n"))
    assert (tap.usage, tap.complete) == (Usage(prompt_tokens=9, output_tokens=4), True)


# ---- journal --------------------------------------------------------------------------------


def begun(seq: int) -> Begin:
    """A call as the path records it."""
    return Begin(
        seq=seq, at_ms=NOW_MS, request_id=f"req_{seq:020}", org="acme", team="research",
        user="ada@example.com", key_id="k" * 12, model="gpt-4o", deployment="far/gpt-4o",
        upstream="far", dialect="openai", operation="chat", hold_tokens=500,
        hold_nano_usd=3_000_000, rules=1,
    )  # fmt: skip


def ended(seq: int) -> End:
    """Its end."""
    return End(
        seq=seq, at_ms=NOW_MS + 900, request_id=f"req_{seq:020}", status=200, outcome="ok",
        usage=Usage(prompt_tokens=231, output_tokens=142), cost_nano_usd=1_997_500,
        price="2.5/1.25/10", ttft_ms=850, duration_ms=900,
    )  # fmt: skip


def a_journal(directory: Path) -> Journal:
    """One whose writes nobody asks for."""
    files = JournalFiles(directory / "journal", Header(worker="0", boot="b00t", pid=1))
    return Journal(files, call_soon=lambda _: None, call_later=lambda *_: None)


def test_journal_a_call(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """From records that are made; `us_per_call` is what one call of a write costs."""
    journal = a_journal(tmp_path)
    seqs = itertools.count(1)
    went_on = 0

    def goes_on() -> None:
        nonlocal went_on
        went_on += 1

    def fails(error: OSError) -> None:
        raise error

    def records() -> tuple[tuple[list[tuple[Begin, End]]], dict[str, object]]:
        these = [(begun(seq), ended(seq)) for seq in itertools.islice(seqs, A_WRITE)]
        return (these,), {}

    def write(these: list[tuple[Begin, End]]) -> None:
        for begin, end in these:
            journal.begin(begin, goes_on, fails)
            journal.end(end)
        journal.flush()

    benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin has no types
        write, setup=records, rounds=200, warmup_rounds=5
    )
    journal.close()

    found = pair(journal_paths(tmp_path / "journal"))
    assert not found.damaged
    assert len(found.calls) == went_on
    assert went_on % A_WRITE == 0
    assert all(call.end is not None and call.end.outcome == "ok" for call in found.calls)
    if benchmark.stats is not None:  # it is where benchmarks are turned off
        benchmark.extra_info["us_per_call"] = benchmark.stats.stats.min / A_WRITE * 1e6


# ---- heads ----------------------------------------------------------------------------------


async def upstream() -> Upstream:
    """One that is never connected to."""
    deadlines = Deadlines(asyncio.get_running_loop(), 1.0)
    timeouts = UpstreamTimeouts(connect_s=1, first_s=1, idle_s=1, total_s=1)
    pool = Pool(Origin.from_url("http://127.0.0.1:9/v1"), deadlines)
    return Upstream("far", DIALECT, pool, UpstreamTerms(timeouts=timeouts), secret="sk-ours")


@pytest.mark.parametrize("sender", [plain_headers, sdk_headers], ids=["plain", "sdk"])
def test_assemble_the_head_for_upstream(
    benchmark: BenchmarkFixture, sender: Callable[[bytes, bytes], Headers]
) -> None:
    far = asyncio.run(upstream())
    request = Request(PATH)
    request.headers = lowered(sender(KEY, BODY))

    head = benchmark(lambda: far.request_head(Operation.CHAT, request, len(BODY)))

    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:9\r\n")
    assert b"\r\nauthorization: Bearer sk-ours\r\n" in head
    assert head.endswith(b"\r\ncontent-length: %d\r\n\r\n" % len(BODY))
    assert KEY not in head


ANSWER = b'{"choices":[],"usage":{"prompt_tokens":231,"completion_tokens":142}}'
ANSWERED = {
    b"date": b"Thu, 01 Jan 2026 00:00:00 GMT",
    b"content-type": b"application/json",
    b"content-length": b"%d" % len(ANSWER),
    b"openai-processing-ms": b"812",
    b"openai-version": b"2020-10-01",
    b"x-request-id": b"req_theirs",
    b"server": b"elsewhere",
}
LIMIT_HEADERS = b"x-ratelimit-limit-requests: 500\r\nx-ratelimit-remaining-requests: 499\r\n"


class Kept(FakeTransport):
    """Keeps the last write."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes[:] = [bytes(data)]


async def whole_reply() -> Reply:
    """A plain answer that has come."""
    reply = Reply(
        FakeLoop(), nothing_upstream(), opens=lambda _: True, shows_secret=lambda _: False
    )
    reply.response_head(200, ANSWERED)
    reply.response_data(ANSWER)
    reply.response_end(framed=True)
    return reply


def test_assemble_the_head_of_an_answer(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """With all of the last step of a plain answer, but for the system call."""
    exchange = idle_exchange()
    client, kept = exchange.connection, Kept()
    client._transport = kept
    exchange.request.complete = exchange.request.keep_alive = True
    client._respond_to(exchange.request)
    exchange.deployment = "far/gpt-4o"
    exchange.limit_headers = LIMIT_HEADERS
    reply = asyncio.run(whole_reply())
    journal = a_journal(tmp_path)
    meter = Meter(journal, lambda: NOW_S, lambda: NOW_MS, None, exchange, idle_spending())

    def answer() -> None:
        client._responded = False
        step = respond(exchange, reply, meter)
        try:
            step.send(None)  # it has nothing to wait for
        except StopIteration:
            client._server.outbox._write()  # the end of the turn
            return
        raise AssertionError("a whole answer was waited for")

    benchmark(answer)
    journal.close()

    head, body = kept.written.split(b"\r\n\r\n")
    assert body == ANSWER
    first, *fields = head.split(b"\r\n")
    assert first == b"HTTP/1.1 200 OK"
    passed = [b"content-type", b"openai-processing-ms", b"openai-version"]
    assert sorted(fields) == sorted(
        [
            *(b"%b: %b" % (name, ANSWERED[name]) for name in passed),
            b"x-llmrouter-deployment: far/gpt-4o",
            *LIMIT_HEADERS.removesuffix(b"\r\n").split(b"\r\n"),
            b"x-request-id: req_1",
            b"content-length: %d" % len(ANSWER),
        ]
    )
