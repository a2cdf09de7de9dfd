import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.access.policy import ModelPolicy
from llmrouter.access.principal import Principal
from llmrouter.dialects.openai import OpenAI
from llmrouter.dialects.openai.taps import CompletionTap
from llmrouter.errors import CODES, RouterError
from llmrouter.gateway import meter
from llmrouter.gateway.route import Router
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import Ordered
from tests.support.application import settings
from tests.support.gateway import asking, error_of, request, shown, staged
from tests.support.idle import deployment
from tests.support.leaks import Failures
from tests.support.upstream import LAST_CHUNK, Play, Stall, Wait, answer, chunk, stream_head
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

CHAT = b"/v1/chat/completions"
OK = [answer(b'{"ok": true}')]


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v1",
        b"/v1/",
        b"/v1/chat",
        b"/v1/chat/completions/",
        b"//v1/chat/completions",
        b"/v1/chat/../chat/completions",
        b"/v1/chat%2Fcompletions",
        b"/V1/chat/completions",
        b"/v1/modelsx",
        b"/v1/messages",
        b"/livez",
        b"/%00",
        b"/" + b"x" * 5000,
        b"*",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_an_unknown_path_is_not_found_and_goes_nowhere(
    tmp_path: Path, target: bytes, method: bytes
) -> None:
    if target == b"*":
        method = b"OPTIONS"
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(request(target, stage.key, b"{}", method=method))
        assert (response.status, error_of(response)["code"]) == (404, "unknown_path")
        assert len(response.body) < 1000
        assert stage.upstream.connections == 0


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        (b"GET", CHAT, b"POST"),
        (b"PUT", CHAT, b"POST"),
        (b"DELETE", b"/v1/embeddings", b"POST"),
        (b"OPTIONS", CHAT, b"POST"),
        (b"POST", b"/v1/models", b"GET, HEAD"),
        (b"DELETE", b"/v1/models/gpt", b"GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    tmp_path: Path, method: bytes, target: bytes, allow: bytes
) -> None:
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(request(target, stage.key, b"{}", method=method))
        assert (response.status, error_of(response)["code"]) == (405, "method_not_allowed")
        assert response.headers[b"allow"] == allow
        assert stage.upstream.connections == 0


@pytest.mark.parametrize("target", [b"/v1/models", b"/v1/models/gpt"])
async def test_heads_of_the_list_are_answered_without_a_body(tmp_path: Path, target: bytes) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        whole = await stage.ask(request(target, stage.key, method=b"GET"))
        await client.send(request(target, stage.key, method=b"HEAD"))
        head = await client.response(to=b"HEAD")
        assert head.headers[b"content-length"] == b"%d" % len(whole.body)
        await client.send(stage.chat())
        assert (await shown(client)).status == 200


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        (b"/v1/chat/completions", b"/base/v1/chat/completions"),
        (b"/v1/chat/completions?api-version=7", b"/base/v1/chat/completions"),
        (b"http://router.test/v1/completions", b"/base/v1/completions"),
        (b"/v1/embeddings", b"/base/v1/embeddings"),
        (b"/v1/responses", b"/base/v1/responses"),
    ],
)
async def test_each_path_goes_to_its_own_upstream_path(
    tmp_path: Path, target: bytes, upstream: bytes
) -> None:
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(request(target, stage.key, asking()))
        assert (response.status, response.body) == (200, b'{"ok": true}')
        (seen,) = stage.upstream.seen
        assert (seen.method, seen.target) == (b"POST", upstream)


BAD_BODIES = {
    "empty": (b"", "invalid_json"),
    "not-json": (b"{", "invalid_json"),
    "cut": (asking()[:-1], "invalid_json"),
    "two": (asking() * 2, "invalid_json"),
    "array": (b"[]", "invalid_request"),
    "no-model": (b"{}", "invalid_request"),
    "model-null": (b'{"model": null}', "invalid_request"),
    "model-twice": (b'{"model": "gpt", "model": "any-other"}', "invalid_request"),
    "model-in-other-case": (b'{"model": "gpt", "Model": "any-other"}', "invalid_request"),
    "stream-word": (b'{"model": "gpt", "stream": "yes"}', "invalid_request"),
    "not-utf8": (b'{"model": "gpt", "x": "\xff"}', "invalid_json"),
    "deep": (b'{"model": "gpt", "x": ' + b"[" * 100_000, "invalid_json"),
}


@pytest.mark.parametrize(("body", "code"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_body_that_is_no_call_goes_nowhere(tmp_path: Path, body: bytes, code: str) -> None:
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(request(CHAT, stage.key, body))
        assert (response.status, error_of(response)["code"]) == (400, code)
        assert stage.upstream.connections == 0
        assert stage.journal().calls == []


async def test_bytes_that_are_no_request_are_refused_in_the_same_shape(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
        assert (response.status, error_of(response)["code"]) == (400, "invalid_request")
        assert response.headers[b"connection"] == b"close"


async def test_a_head_too_large_is_refused_in_the_same_shape(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, limits=settings(head_bytes=1000)) as stage:
        response = await stage.ask(stage.chat(b"x: " + b"y" * 1000))
        assert (response.status, error_of(response)["code"]) == (431, "head_too_large")
        assert stage.upstream.connections == 0


async def test_a_body_that_stays_away_is_refused_in_the_same_shape(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, limits=settings(body_s=0.05)) as stage:
        response = await stage.ask(stage.chat()[:-5])
        assert (response.status, error_of(response)["code"]) == (408, "request_timeout")
        assert stage.upstream.connections == 0


@pytest.mark.parametrize("error", CODES)
async def test_every_refusal_without_an_exchange_is_a_whole_head(
    tmp_path: Path, error: type[RouterError]
) -> None:
    async with staged(tmp_path, OK) as stage:
        dialect = stage.upstreams["up"].dialect
        head, body = stage.gateway.refusal(dialect, error("why", retry_after_s=3))
        lines = head.split(b"\r\n")
        assert lines[0].split(b" ")[:2] == [b"HTTP/1.1", b"%d" % error.status]
        assert b"retry-after: 3" in lines
        assert lines[-1] == b""
        assert msgspec.json.decode(body)["error"]["code"] == error.code


async def test_a_connection_too_many_is_told_so(tmp_path: Path) -> None:
    async with (
        staged(tmp_path, OK, limits=settings(connections=1)) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        await first.send(stage.chat())
        assert (await shown(first)).status == 200
        sent = await second.read_all()
        assert sent.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in sent


async def test_ids_are_never_given_twice_and_stand_in_the_log(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        messages = [
            stage.chat(),
            request(CHAT, None, asking()),
            request(b"/", stage.key, method=b"GET"),
            request(b"/v1/models", stage.key, method=b"GET"),
        ]
        await client.send(*messages)
        told = [(await shown(client)).headers[b"x-request-id"].decode() for _ in messages]
        assert len(set(told)) == len(messages)
        assert [line.request_id for line in stage.log] == told
        assert [line.status for line in stage.log] == [200, 401, 404, 200]


async def test_an_id_that_the_caller_chose_is_not_taken_over(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage:
        response = await stage.ask(stage.chat(b"x-request-id: mine"))
        assert response.headers[b"x-request-id"] == b"req_1"


async def test_pipelined_calls_are_answered_in_order(tmp_path: Path) -> None:
    plays: list[Play] = [[answer(b'{"n": %d}' % n)] for n in range(20)]
    async with staged(tmp_path, *plays) as stage, stage.connected() as client:
        await client.send(b"".join(stage.chat() for _ in plays))
        for n in range(20):
            assert (await shown(client)).body == b'{"n": %d}' % n
        assert stage.upstream.connections == 1
        assert [call.begin.seq for call in await stage.calls(20)] == list(range(1, 21))


# ---- draining --------------------------------------------------------------------------------


async def test_while_draining_what_is_in_flight_is_finished_and_nothing_new_begun(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()
    async with staged(tmp_path, [Wait(go_on), *OK]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        await until(lambda: len(stage.upstream.seen) == 1, "the call did not arrive")
        stage.gateway.draining = True
        stage.server.drain()
        async with stage.connected() as late:
            await late.send(stage.chat())
            refused = await shown(late)
            assert (refused.status, error_of(refused)["code"]) == (503, "draining")
            assert refused.headers[b"retry-after"] == b"1"
            assert refused.headers[b"connection"] == b"close"
        go_on.set()
        last = await shown(client)
        assert (last.status, last.headers[b"connection"]) == (200, b"close")
        assert await client.read() == b""
        assert len(stage.upstream.seen) == 1


async def test_a_drained_node_refuses_whoever_asks_and_whatever(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage:
        stage.gateway.draining = True
        for message in (
            request(CHAT, None, asking()),
            request(b"/nowhere", stage.key, method=b"GET"),
            request(b"/v1/models", stage.key, method=b"GET"),
            request(CHAT, stage.key, b"x" * 500_000)[:1000],
        ):
            response = await stage.ask(message)
            assert (response.status, error_of(response)["code"]) == (503, "draining")
        assert stage.upstream.connections == 0


# ---- bugs ------------------------------------------------------------------------------------


class Broken(ModelPolicy):
    """A policy with bugs."""

    def mapped(self, principal: Principal, asked: str) -> str:
        raise KeyError(f"a bug with {asked}")

    def mapped_names(self, principal: Principal) -> set[str]:
        raise RecursionError("another bug")


@pytest.mark.parametrize("what", ["call", "list"])
async def test_a_bug_is_answered_logged_and_costs_no_connection(
    tmp_path: Path, no_leaks: Failures, what: str
) -> None:
    router = Router(Routes([Route("gpt", [deployment()], Ordered)]), Broken({}, {}))
    async with staged(tmp_path, OK, router=router) as stage, stage.connected() as client:
        listing = request(b"/v1/models", stage.key, method=b"GET")
        for n in (1, 2):
            await client.send(stage.chat() if what == "call" else listing)
            response = await shown(client)
            error = error_of(response)
            assert (response.status, error["code"], error["type"]) == (
                500,
                "internal_error",
                "server_error",
            )
            assert "bug" not in error["message"]
            (logged,) = no_leaks.seen
            no_leaks.seen.clear()
            assert logged.startswith(f"exchange req_{n} failed\nTraceback")
            assert "bug" in logged
        assert stage.upstream.connections == 0
        assert stage.journal().calls == []


async def test_a_bug_while_a_head_is_looked_at_is_answered_too(
    tmp_path: Path, no_leaks: Failures
) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        stage.now_s = "not a time"  # type: ignore[assignment]  # the bug
        key = stage.keys[0]
        await client.send(request(CHAT, key, b"x" * 100_000)[:1000])
        response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (500, "internal_error")
        assert response.headers[b"connection"] == b"close"
        (logged,) = no_leaks.seen
        no_leaks.seen.clear()
        assert "TypeError" in logged
        assert key not in logged.encode()


async def test_a_bug_before_an_upstream_is_known_costs_no_connection(
    tmp_path: Path, no_leaks: Failures
) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        known = dict(stage.upstreams)
        stage.upstreams.clear()
        await client.send(stage.chat())
        assert (await shown(client)).status == 500
        stage.upstreams.update(known)
        no_leaks.seen.clear()
        assert stage.admission.inflight == 0
        assert stage.upstream.connections == 0


def broken(*_: object, **__: object) -> Any:
    raise LookupError("a bug")


@pytest.mark.parametrize(
    ("owner", "name", "begun", "sent"),
    [
        (OpenAI, "upstream_body", 0, 0),
        (meter, "Begin", 0, 0),
        (OpenAI, "read_usage", 1, 1),
    ],
)
async def test_a_bug_on_the_way_gives_back_what_was_taken(
    tmp_path: Path,
    no_leaks: Failures,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    begun: int,
    sent: int,
) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            await client.send(stage.chat())
            response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (500, "internal_error")
        (logged,) = no_leaks.seen
        no_leaks.seen.clear()
        assert "LookupError: a bug" in logged
        await until(lambda: stage.upstream.open <= 1, "a connection is left")
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        outcomes = [call.end and call.end.outcome for call in await stage.calls(begun + 1)]
        assert outcomes == ["router_error"] * begun + ["ok"]
        assert len(stage.upstream.seen) == sent + 1
        pool = stage.upstreams["up"].pool
        assert len(pool._open) == len(pool._idle) == 1


@pytest.mark.parametrize("at", [0, 1])
async def test_a_bug_in_the_middle_of_a_stream_cuts_it(
    tmp_path: Path, no_leaks: Failures, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    event, go_on = b"data: {}\n\n", asyncio.Event()
    play: Play = [stream_head(), chunk(event), Wait(go_on), chunk(event), Stall()]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        if at == 0:
            monkeypatch.setattr(CompletionTap, "feed", broken)
        await client.send(stage.chat(stream=True))
        if at == 1:
            await client.read_until(chunk(event))
            monkeypatch.setattr(CompletionTap, "feed", broken)
        go_on.set()
        sent = await (client.read_all() if at else client.read_until(b"}}"))
        assert not sent.endswith(LAST_CHUNK)
        await stage.at_rest()
        assert "a bug" in "".join(no_leaks.seen)
        no_leaks.seen.clear()
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome in ("router_error", "upstream_error")
