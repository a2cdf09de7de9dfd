import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.gateway import unrecorded
from llmrouter.gateway.attempt import JOINED_BODY_BYTES_MAX
from llmrouter.http1 import link, upstream
from llmrouter.http1.origin import Origin
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import pair
from llmrouter.quota.estimate import Estimator
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.routes import Policy
from tests.support.application import settings
from tests.support.gateway import CREDENTIAL, At, Stage, asking, error_of, limited, shown, staged
from tests.support.interrupting import Interrupted, interrupted, lose_clients
from tests.support.leaks import Failures
from tests.support.ledger import BOOT, TOKEN_NANO, at_once, money, requests, tokens
from tests.support.plays import BOTH, HALF, ROLE, Delay, delta, plain, refusing, said
from tests.support.upstream import (
    Cut,
    Play,
    Reset,
    Stall,
    Wait,
    answer,
    chunk,
    stream,
    stream_head,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

OK = answer(b'{"usage":{"prompt_tokens":1}}')
STREAM = stream(b"data: {}\n\n", b"data: [DONE]\n\n")
SLOW_MACHINE_S = 2.0
"""By so much a busy machine may be late."""


# ---- what goes upstream ----------------------------------------------------------------------


NOT_UP = [
    b"x-api-key: sk-another",
    b"api-key: sk-another",
    b"cookie: session=1",
    b"openai-organization: org-theirs",
    b"openai-project: proj-theirs",
    b"x-forwarded-for: 10.0.0.1",
    b"x-forwarded-host: inside",
    b"forwarded: for=10.0.0.1",
    b"connection: keep-alive, x-hop",
    b"keep-alive: timeout=5",
    b"x-hop: 1",
    b"te: trailers",
    b"trailer: x-end",
    b"proxy-authorization: Basic eDp5",
    b"proxy-connection: keep-alive",
    b"accept-encoding: gzip, br",
    b"x-stainless-os: Linux",
    b"x-request-id: mine",
    b"origin: http://evil.test",
    b"referer: http://inside.test",
    b"range: bytes=0-5",
    b"upgrade: h2c",
    b"http2-settings: AAMAAABkAAQAAP__",
    b"x-http-method-override: DELETE",
    b"idempotency-key: once",
]
UP = [
    b"Content-Type: application/json; charset=utf-16",
    b"accept: text/event-stream",
    b"User-Agent: test/1.0",
    b"openai-beta: assistants=v2",
]


async def test_only_known_headers_go_up_and_our_credential_in_place_of_the_callers_key(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, [OK]) as stage, stage.connected() as client:
        await client.send(stage.chat(*NOT_UP, *UP))
        assert (await shown(client)).status == 200
        (seen,) = stage.upstream.seen
        host = f"{stage.upstream.address[0]}:{stage.upstream.address[1]}"
        assert seen.headers == {
            b"host": host.encode(),
            b"authorization": b"Bearer " + CREDENTIAL.encode(),
            b"accept-encoding": b"identity",
            b"content-type": b"application/json",
            b"accept": b"text/event-stream",
            b"user-agent": b"test/1.0",
            b"openai-beta": b"assistants=v2",
            b"content-length": b"%d" % len(seen.body),
        }


async def test_a_body_goes_up_as_it_is_but_for_the_model(tmp_path: Path) -> None:
    async with staged(tmp_path, [OK]) as stage:
        await stage.ask(stage.chat(model="same", seed=7))
        await stage.ask(stage.chat(model="gpt", seed=7))
        await stage.ask(stage.chat(model="same", seed=7, stream=True))
        plain, renamed, streamed = [seen.body for seen in stage.upstream.seen]
        assert plain == asking("same", seed=7)
        assert renamed == asking("gpt-real", seed=7)
        assert msgspec.json.decode(streamed) == {
            **msgspec.json.decode(asking("same", seed=7, stream=True)),
            "stream_options": {"include_usage": True},
        }


@pytest.mark.parametrize("size", [JOINED_BODY_BYTES_MAX, JOINED_BODY_BYTES_MAX + 1, 5_000_000])
async def test_a_large_body_goes_up_whole(tmp_path: Path, size: int) -> None:
    limits = settings(body_bytes=10_000_000)
    async with staged(tmp_path, [OK], limits=limits) as stage:
        body = asking("same", pad="")
        pad = "x" * (size - len(body))
        response = await stage.ask(stage.chat(model="same", pad=pad))
        assert response.status == 200
        assert len(stage.upstream.seen[0].body) == size
        assert stage.upstream.seen[0].body == asking("same", pad=pad)


async def test_a_body_in_chunks_goes_up_sized(tmp_path: Path) -> None:
    async with staged(tmp_path, [OK]) as stage, stage.connected() as client:
        head = stage.chat().partition(b"\r\ncontent-length")[0]
        body = asking("same")
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        await client.send(head + b"\r\ntransfer-encoding: chunked\r\n\r\n" + pieces)
        assert (await shown(client)).status == 200
        (seen,) = stage.upstream.seen
        assert (seen.body, b"transfer-encoding" in seen.headers) == (body, False)


async def test_deployments_take_their_turns_by_weight(tmp_path: Path) -> None:
    shares = [
        At(model="heavy", weight=3),
        At(model="light"),
    ]
    async with staged(tmp_path, [OK], routes={"gpt": shares}) as stage, stage.connected() as client:
        for _ in range(8):
            await client.send(stage.chat())
            await shown(client)
        asked = [msgspec.json.decode(seen.body)["model"] for seen in stage.upstream.seen]
        assert (asked.count("heavy"), asked.count("light")) == (6, 2)
        assert asked[:4].count("light") == 1


# ---- the journal comes first -----------------------------------------------------------------


class Witness(asyncio.Protocol):
    """An upstream that looks into the journal at the very first byte of every request."""

    def __init__(self, journal_dir: Path, found: list[list[int]]) -> None:
        self._journal_dir = journal_dir
        self._found = found

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        calls = pair(journal_paths(self._journal_dir)).calls
        self._found.append([call.begin.seq for call in calls])
        self._transport.write(OK)


@pytest.mark.parametrize("at_once", [1, 20])
async def test_a_call_is_in_the_journal_before_the_upstream_sees_its_first_byte(
    tmp_path: Path, at_once: int
) -> None:
    """FR-008: so that no crash can lose it."""
    found: list[list[int]] = []
    loop = asyncio.get_running_loop()
    witness = await loop.create_server(lambda: Witness(tmp_path / "journal", found), "127.0.0.1", 0)
    host, port = witness.sockets[0].getsockname()
    async with staged(tmp_path, [OK], url=f"http://{host}:{port}") as stage:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(stage.ask(stage.chat())) for _ in range(at_once)]
        assert {task.result().status for task in asked} == {200}
        assert len(found) == at_once
        for count, begun in enumerate(found, start=1):
            assert len(begun) >= count
        calls = await stage.calls(at_once)
        assert [call.begin.seq for call in calls] == list(range(1, at_once + 1))
        assert {call.begin.request_id for call in calls} == {
            task.result().headers[b"x-request-id"].decode() for task in asked
        }
    witness.close()


class Disk:
    """Takes what is written, until it is full."""

    def __init__(self) -> None:
        self.full = False

    def __call__(self, fd: int, data: bytes | memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


async def test_a_call_that_cannot_be_written_down_is_not_sent(tmp_path: Path) -> None:
    """FR-008: and once there is room again, everything goes on by itself."""
    disk = Disk()
    async with staged(tmp_path, [OK], write=disk) as stage, stage.connected() as client:
        for full in (False, True, True, False):
            disk.full = full
            await client.send(stage.chat())
            response = await shown(client)
            assert response.status == (503 if full else 200)
            if full:
                assert error_of(response)["code"] == "overloaded"
                assert response.headers[b"retry-after"] == b"1"
                assert "No space" not in response.body.decode()
        assert len(stage.upstream.seen) == 2
        calls = await stage.calls(2)
        assert [call.begin.request_id for call in calls] == ["req_1", "req_4"]
        await until(lambda: stage.upstream.open <= 1, "connections pile up")


async def test_a_full_device_is_met_by_the_first_call_and_by_every_other(tmp_path: Path) -> None:
    def to_full_device(_fd: int, data: bytes | memoryview) -> int:
        with open("/dev/full", "wb", buffering=0) as full:
            return full.write(data)

    async with staged(tmp_path, [OK], write=to_full_device) as stage:
        for _ in range(3):
            response = await stage.ask(stage.chat(stream=True))
            assert (response.status, error_of(response)["code"]) == (503, "overloaded")
        assert stage.upstream.seen == []
        assert stage.journal().calls == []


async def test_calls_may_go_on_unrecorded_and_what_was_recorded_stays(
    tmp_path: Path, no_leaks: Failures
) -> None:
    """FR-008: `on_disk_full = "serve"`; the log says so, once, and how many there are later."""
    disk = Disk()
    async with (
        staged(tmp_path, [OK], write=disk, serves_unrecorded=True) as stage,
        stage.connected() as client,
    ):
        for full in (False, True, True, True, False):
            disk.full = full
            await client.send(stage.chat())
            assert (await shown(client)).status == 200
        calls = await stage.calls(2)
        assert [call.begin.request_id for call in calls] == ["req_1", "req_5"]
        assert {call.end and call.end.outcome for call in calls} == {"ok"}
        assert (len(stage.upstream.seen), stage.upstream.connections) == (5, 1)
        assert no_leaks.seen == ["calls_unrecorded=1 reason='No space left on device'"]
        no_leaks.seen.clear()


async def test_a_disk_that_stays_full_is_told_of_now_and_again(
    tmp_path: Path, no_leaks: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unrecorded, "TELL_EVERY_S", -1.0)  # so any time at all is later
    disk = Disk()
    disk.full = True
    async with staged(tmp_path, [OK], write=disk, serves_unrecorded=True) as stage:
        for _ in range(3):
            assert (await stage.ask(stage.chat())).status == 200
        told = [f"calls_unrecorded={n} reason='No space left on device'" for n in (1, 2, 3)]
        assert no_leaks.seen == told
        no_leaks.seen.clear()


async def test_an_end_that_found_no_room_is_written_later_though_calls_went_on(
    tmp_path: Path, no_leaks: Failures
) -> None:
    """FR-008: its begin is in the file."""
    disk, go_on = Disk(), asyncio.Event()
    async with staged(
        tmp_path, [Wait(go_on), OK], [OK], write=disk, serves_unrecorded=True
    ) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat())
            await stage.asked(1)
            disk.full = True
            go_on.set()
            assert (await shown(client)).status == 200
            assert (await stage.ask(stage.chat())).status == 200
            assert [call.interrupted for call in stage.journal().calls] == [True]
            disk.full = False
        (call,) = await stage.calls()
        assert (call.begin.request_id, call.end and call.end.outcome) == ("req_1", "ok")
        no_leaks.seen.clear()


async def test_what_goes_unrecorded_still_counts_as_long_as_the_worker_lives(
    tmp_path: Path, no_leaks: Failures
) -> None:
    """FR-003: in its leases; nothing else knows of it."""
    said = stream(*[b'data: {"choices":[{}]}\n\n'] * 1_500, b"data: [DONE]\n\n")
    disk = Disk()
    disk.full = True
    quota = limited(requests(3), tokens(10**6), at_once(1), money(10**6))
    async with staged(tmp_path, [said], write=disk, quota=quota, serves_unrecorded=True) as stage:
        for status in (200, 200, 200, 429):
            assert (await stage.ask(stage.chat(stream=True))).status == status
        stage.node.settle()
        standing = stage.node.standing()
        assert {name: found.used for name, found in standing.items() if found.used} == {}
        claimed = {name: found.claimed for name, found in standing.items()}
        prompt = Estimator().prompt_tokens("gpt", len(asking(stream=True)))
        assert claimed["org/acme/requests/day"] == 3
        assert claimed["org/acme/concurrent"] == 0
        assert claimed["org/acme/tokens/day"] == 3 * (prompt + 1_501)
        assert claimed["org/acme/usd/total"] == 3 * (prompt + 1_501) * TOKEN_NANO
        stage.node.ledger.ended(BOOT)
        disk.full = False
        no_leaks.seen.clear()
    assert stage.journal().calls == []


# ---- connections -----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """A listener whose queue is full: connecting to it never ends."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        host, port = listener.getsockname()
        yield f"http://{host}:{port}"


async def test_an_upstream_that_refuses_connections_is_unreachable(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with staged(tmp_path, [OK], url=url) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert "refused" in error_of(response)["message"]
        assert stage.journal().calls == []


async def test_an_upstream_without_address_is_unreachable(tmp_path: Path) -> None:
    async with staged(tmp_path, [OK], url="http://no-such-host.invalid") as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")


async def test_connecting_is_given_up_in_time(tmp_path: Path) -> None:
    timeouts = UpstreamTimeouts(connect_s=0.05, first_s=30, idle_s=30, total_s=60)
    with deaf() as url:
        async with staged(tmp_path, [OK], url=url, timeouts=timeouts) as stage:
            response = await stage.ask(stage.chat())
            assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
            assert "0.05 s" in error_of(response)["message"]
            assert stage.journal().calls == []


@pytest.mark.parametrize("said", [b"", stream_head(), OK[:-1]], ids=["nothing", "head", "half"])
async def test_a_silent_upstream_is_given_up_before_anything_was_sent(
    tmp_path: Path, said: bytes
) -> None:
    """The sixteen faults, no. 6 and 7."""
    timeouts = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=0.05, total_s=60)
    async with staged(tmp_path, [said, Stall()], timeouts=timeouts) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert (response.status, error_of(response)["code"]) == (504, "upstream_timeout")
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (504, "upstream_error")


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
async def test_an_upstream_that_hangs_up_without_a_word_is_not_asked_again(
    tmp_path: Path, ending: Cut | Reset
) -> None:
    """On a connection made for this call nothing says that it was not read."""
    async with staged(tmp_path, [ending]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert stage.upstream.connections == 1


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("second", [OK, STREAM], ids=["plain", "stream"])
async def test_a_stale_connection_is_replaced_once(
    tmp_path: Path, ending: Cut | Reset, second: bytes
) -> None:
    async with staged(tmp_path, [OK], [ending], [second]) as stage, stage.connected() as client:
        for _ in range(2):
            await client.send(stage.chat(stream=second is STREAM))
            response = await shown(client)
            assert (response.status, response.whole) == (200, True)
        _, stale, fresh = stage.upstream.seen
        assert [seen.connection for seen in stage.upstream.seen] == [0, 0, 1]
        assert (stale.headers, stale.body) == (fresh.headers, fresh.body)
        assert [call.end and call.end.attempts for call in await stage.calls(2)] == [1, 2]


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
async def test_a_stale_connection_is_replaced_only_once(
    tmp_path: Path, ending: Cut | Reset
) -> None:
    async with staged(tmp_path, [OK], [ending]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        await client.send(stage.chat())
        response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert len(stage.upstream.seen) == 3
        assert [call.end and call.end.status for call in await stage.calls(2)] == [200, 502]


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_replacing_a_stale_connection_counts_as_an_attempt(
    tmp_path: Path, attempts: int
) -> None:
    """However many idle connections turn out to be closed; a single attempt may have one anew."""
    policy = {"gpt": Policy(attempts_max=attempts, repeats_share=1.0)}
    go_on = asyncio.Event()
    plays: list[Play] = [[Wait(go_on), OK] for _ in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged(tmp_path, *plays, [Cut()], policies=policy))
        clients = [await stack.enter_async_context(stage.connected()) for _ in range(4)]
        for client in clients:
            await client.send(stage.chat())
        await until(lambda: len(stage.upstream.seen) == 4, "they are not four at once")
        go_on.set()
        for client in clients:
            assert (await shown(client)).status == 200
        await clients[0].send(stage.chat())
        assert (await shown(clients[0])).status == 502
        assert len(stage.upstream.seen) - 4 == max(2, attempts)


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("said", [b"H", OK[:20], OK[:-1], b"HTTP/1.1 102 Working\r\n\r\n"])
async def test_a_connection_over_which_a_byte_came_back_is_not_replaced(
    tmp_path: Path, said: bytes, ending: Cut | Reset
) -> None:
    async with staged(tmp_path, [OK], [said, ending]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        await client.send(stage.chat())
        assert (await shown(client)).status == 502
        assert len(stage.upstream.seen) == 2


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
async def test_a_connection_that_was_lost_late_is_not_replaced(
    tmp_path: Path, ending: Cut | Reset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upstream may have worked on the call, which would then be paid for twice."""
    monkeypatch.setattr(upstream, "STALE_S", -1.0)  # so any time at all is later
    async with staged(tmp_path, [OK], [ending], [OK]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        await client.send(stage.chat())
        response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert len(stage.upstream.seen) == 2
        assert [call.end and call.end.attempts for call in await stage.calls(2)] == [1, 1]


async def test_an_upstream_that_promises_to_wait_for_ages_ends_its_call(tmp_path: Path) -> None:
    promise = b"keep-alive: timeout=" + b"9" * 5000 + b"\r\n"
    async with staged(tmp_path, [answer(b"{}", headers=promise)]) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "ok"


async def test_a_connection_that_timed_out_is_not_replaced(tmp_path: Path) -> None:
    timeouts = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
    async with staged(tmp_path, [OK], [Stall()], timeouts=timeouts) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat())
            assert (await shown(client)).status == 200
            await client.send(stage.chat())
            assert (await shown(client)).status == 504
        assert len(stage.upstream.seen) == 2


async def test_a_stale_connection_whose_upstream_has_gone_is_unreachable(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with staged(tmp_path, [OK], url=url) as stage, stage.connected() as client:
        gone = asyncio.Event()

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.readuntil(b"\r\n\r\n")
            server.close()
            writer.close()
            gone.set()

        server = await asyncio.start_server(once, "127.0.0.1", port)
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        await client.send(stage.chat())
        response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert gone.is_set()


# ---- cancellation ----------------------------------------------------------------------------


EVENT = chunk(b"data: {}\n\n")
LONG = b"x" * 2_000_000
WAITS: dict[str, tuple[int, list[int], Play]] = {
    "plain-connecting": (1, [], [OK]),
    "plain-waiting": (2, [0], [OK]),
    "silent-waiting": (2, [0], [Stall()]),
    "half-head-waiting": (2, [0], [b"HTTP/1.1 200", Stall()]),
    "half-answer-waiting": (2, [0], [OK[:-1], Stall()]),
    "stream-passing-on": (3, [200], [stream_head(), EVENT, Stall()]),
    "half-event-waiting": (2, [0], [stream_head(), EVENT[:10], Stall()]),
    "long-plain-passing-on": (3, [200], [answer(LONG)[:-1], Stall()]),
}


@pytest.mark.parametrize(("at", "statuses", "play"), WAITS.values(), ids=WAITS)
async def test_a_call_may_be_cancelled_wherever_it_waits(
    tmp_path: Path, at: int, statuses: list[int], play: Play
) -> None:
    """While it connects, while it waits for the answer, and while that is passed on."""
    async with interrupted(tmp_path, at, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        await client.read_all()
        calls = await stage.calls(len(statuses))
        found = [(call.end.status, call.end.outcome) for call in calls if call.end]
        assert found == [(status, "client_gone") for status in statuses]
        assert [line.code for line in stage.log] == [None]


@pytest.mark.parametrize("at", [2, 3])
async def test_a_call_may_be_cancelled_while_it_replaces_a_stale_connection(
    tmp_path: Path, at: int
) -> None:
    async with staged(
        tmp_path, [OK], [Cut()], [Stall()], spawning=(spawning := Interrupted(99))
    ) as stage:
        spawning.interrupt = lambda: lose_clients(stage)
        async with stage.connected() as client:
            await client.send(stage.chat())
            assert (await shown(client)).status == 200
            spawning.left = at
            await client.send(stage.chat())
            await client.read_all()
        assert spawning.happened
        outcomes = [call.end and call.end.outcome for call in await stage.calls(2)]
        assert outcomes == ["ok", "client_gone"]
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


async def test_it_may_be_cancelled_while_it_connects(tmp_path: Path) -> None:
    with deaf() as url:
        async with interrupted(tmp_path, 1, [OK], url=url) as stage, stage.connected() as client:
            await client.send(stage.chat())
            await client.read_all()
            await stage.at_rest()
            assert stage.journal().calls == []


@pytest.mark.parametrize("plays", [[OK], [STREAM], [Stall()]], ids=["plain", "stream", "silent"])
@pytest.mark.parametrize("orderly", [True, False], ids=["reset", "closed"])
async def test_a_caller_may_leave_in_any_turn_of_the_loop(
    tmp_path: Path, plays: Play, orderly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, between and after the waits above, also in the very turn in which they end."""
    monkeypatch.setattr(link, "PROBE_EVERY_S", 0.01)
    async with staged(tmp_path, plays) as stage:
        pool = stage.upstreams["up"].pool
        for turns in range(40):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not orderly:
                    client.reset()
            await stage.at_rest()
            await until(lambda: len(pool._open) == len(pool._idle), "a connection is left")
        begun = stage.journal().calls
        outcomes = {call.end and call.end.outcome for call in await stage.calls(len(begun))}
        assert outcomes <= {"ok", "client_gone"}
        assert "client_gone" in outcomes or orderly


# ---- how often, and when ---------------------------------------------------------------------


async def asked_of_all(stage: Stage) -> int:
    """How many requests the upstreams have seen."""
    return sum(len(script.seen) for script in stage.scripts.values())


FAILING: Play = [refusing(500)]
THREE = (At("up"), At("up2"), At("up3"))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("hedge_after", [None, 0.01])
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6])
async def test_a_call_never_makes_more_attempts_than_it_may(
    tmp_path: Path, most: int, hedge_after: float | None, stream: bool
) -> None:
    """Retries, failovers, fallbacks and second attempts together."""
    late: Play = [Wait(Delay(0.03)), refusing(500)]
    policy = Policy(
        attempts_max=most, repeats_share=1.0, fallbacks=("other",), hedge_after=hedge_after
    )
    async with staged(
        tmp_path,
        late,
        others={"up2": [late], "up3": [FAILING], "else": [FAILING]},
        routes={"gpt": THREE, "other": [At("else"), At("up2", model="o")]},
        policies={"gpt": policy, "other": Policy(attempts_max=9, hedge_after=hedge_after)},
        strategy="ordered",
    ) as stage:
        assert (await stage.ask(stage.chat(stream=stream))).status >= 500
        assert await asked_of_all(stage) == most
        calls = await stage.calls(1 if most <= len(THREE) else 2)
        last = calls[-1].end
        assert last is not None
        assert last.attempts == most


@pytest.mark.parametrize(("share", "repeats"), [(0.0, 0), (0.001, 10), (0.5, 30)])
async def test_only_so_many_calls_of_a_model_are_repeated(
    tmp_path: Path, share: float, repeats: int
) -> None:
    """A share of the calls, and a few that need not be earned."""
    policies = {"gpt": Policy(attempts_max=2, repeats_share=share)}
    async with staged(tmp_path, FAILING, routes={"gpt": At("up")}, policies=policies) as stage:
        async with stage.connected() as client:
            for _ in range(40):
                await client.send(stage.chat())
                assert (await shown(client)).status == 500
        assert len(stage.upstream.seen) == 40 + repeats


async def test_another_deployment_comes_before_the_same_one_again(tmp_path: Path) -> None:
    drawn = []

    def random() -> float:
        drawn.append(1)
        return 0.0

    async with staged(
        tmp_path,
        FAILING,
        [plain("at last")],
        others={"up2": [FAILING]},
        routes={"gpt": BOTH},
        policies={"gpt": Policy(attempts_max=3, repeats_share=1.0)},
        strategy="ordered",
        random=random,
    ) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, b"at last" in response.body) == (200, True)
        assert [len(script.seen) for script in stage.scripts.values()] == [2, 1]
        assert drawn == [1], "only before the same one again is there a pause"


async def test_the_same_deployment_is_tried_again_after_a_pause_that_is_drawn(
    tmp_path: Path,
) -> None:
    """0.1 s, then 0.2 s: that part of it which was drawn."""
    async with staged(
        tmp_path,
        FAILING,
        FAILING,
        [plain()],
        routes={"gpt": At("up")},
        policies={"gpt": Policy(attempts_max=3, repeats_share=1.0)},
        random=lambda: 0.5,
    ) as stage:
        began = stage.now()
        assert (await stage.ask(stage.chat())).status == 200
        assert stage.now() - began >= 0.145
        (call,) = await stage.calls()
        assert call.end is not None
        assert [other.deployment for other in call.end.others] == ["up/gpt", "up/gpt"]


AGAIN = {"gpt": Policy(attempts_max=3, repeats_share=1.0)}


async def test_a_deployment_that_says_when_it_has_room_again_is_waited_for(tmp_path: Path) -> None:
    throttled = [refusing(429, headers=b"retry-after-ms: 120\r\n")]
    async with staged(
        tmp_path, throttled, [plain()], routes={"gpt": At("up")}, policies=AGAIN
    ) as stage:
        began = stage.now()
        assert (await stage.ask(stage.chat())).status == 200
        assert stage.now() - began >= 0.115
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.attempts, call.end.others[0].error_code) == (2, "upstream_error")


@pytest.mark.parametrize(
    ("headers", "shown_as"),
    [(b"retry-after: 6\r\n", b"6"), (b"retry-after-ms: 5001\r\n", None)],
)
async def test_a_deployment_that_rests_for_longer_is_not_waited_for(
    tmp_path: Path, headers: bytes, shown_as: bytes | None
) -> None:
    """The caller gets the upstream's own answer, and waits for itself."""
    throttled = [refusing(429, headers=headers)]
    async with staged(
        tmp_path, throttled, [plain()], routes={"gpt": At("up")}, policies=AGAIN
    ) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.headers.get(b"retry-after")) == (429, shown_as)
        assert b"FIRST" in response.body
        assert len(stage.upstream.seen) == 1


async def test_a_deployment_that_rests_is_not_waited_for_where_another_can_serve(
    tmp_path: Path,
) -> None:
    throttled = [refusing(429, headers=b"retry-after-ms: 4900\r\n")]
    async with staged(
        tmp_path,
        throttled,
        others={"up2": [[plain()]]},
        routes={"gpt": BOTH},
        policies=AGAIN,
        strategy="ordered",
    ) as stage:
        for _ in range(3):
            response = await stage.ask(stage.chat())
            assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        assert len(stage.upstream.seen) == 1


@pytest.mark.parametrize("kind", [401, 403, 404])
async def test_a_deployment_that_will_not_serve_is_not_asked_again(
    tmp_path: Path, kind: int
) -> None:
    async with staged(
        tmp_path, [refusing(kind)], [plain()], routes={"gpt": At("up")}, policies=AGAIN
    ) as stage:
        assert (await stage.ask(stage.chat())).status in (502, kind)
        assert len(stage.upstream.seen) == 1


async def test_a_breaker_that_opens_during_a_pause_keeps_the_call_away(tmp_path: Path) -> None:
    """Another call's failure may open it, and an open one is left alone."""
    async with staged(
        tmp_path,
        FAILING,
        routes={"gpt": At("up")},
        policies={"gpt": Policy(attempts_max=2, repeats_share=1.0)},
        breaker=BreakerTerms(failures=2, error_rate=2.0, rest_s=60),
        random=lambda: 0.999,
    ) as stage:
        first = stage.begin(stage.chat())
        await stage.asked(1)
        condition = stage.conditions.of("up/gpt")
        await until(lambda: condition.inflight == 0, "it does not pause")
        condition.failed("another call's", stage.now(), condition.breaker.spell)
        assert condition.breaker.state is State.OPEN
        assert (await first).status == 500
        assert len(stage.upstream.seen) == 1


async def test_all_attempts_share_the_time_of_one(tmp_path: Path) -> None:
    limits = UpstreamTimeouts(connect_s=10, first_s=0.15, idle_s=10, total_s=0.25)
    async with staged(
        tmp_path,
        [Stall()],
        others={"up2": [[Stall()]], "up3": [[plain()]]},
        routes={"gpt": THREE},
        policies={"gpt": Policy(attempts_max=3, repeats_share=1.0)},
        strategy="ordered",
        timeouts=limits,
    ) as stage:
        began = stage.now()
        assert (await stage.ask(stage.chat())).status == 504
        assert 0.24 <= stage.now() - began < 0.30 + SLOW_MACHINE_S
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1, 0]


async def test_where_no_time_is_left_no_other_model_is_asked(tmp_path: Path) -> None:
    limits = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=10, total_s=0.1)
    async with staged(
        tmp_path,
        [Stall()],
        others={"else": [[plain()]]},
        routes={"gpt": At("up"), "other": At("else")},
        policies={"gpt": Policy(repeats_share=1.0, fallbacks=("other",))},
        timeouts={"up": limits},
    ) as stage:
        assert (await stage.ask(stage.chat())).status == 504
        assert stage.scripts["else"].seen == []


async def test_time_that_a_call_has_queued_for_is_no_time_of_its_attempts(tmp_path: Path) -> None:
    """Else calls that had to wait for their limit could not fail over."""
    go_on = asyncio.Event()
    limits = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=10, total_s=0.3)
    one = limited(at_once(1, at_limit="queue", wait_ms=5_000))
    async with staged(
        tmp_path,
        [Wait(go_on), plain()],
        FAILING,
        others={"up2": [[plain()]]},
        routes={"gpt": BOTH, "same": At("up")},
        policies=AGAIN,
        strategy="ordered",
        timeouts={"up2": limits},
        model_timeouts={"gpt": {"total_s": 0.3}},
        quota=one,
    ) as stage:
        before = stage.begin(stage.chat(model="same"))
        await stage.asked(1)
        waiting = stage.begin(stage.chat())
        await Delay(0.35).wait()
        go_on.set()
        assert (await before).status == 200
        response = await waiting
        assert (response.status, stage.upstream.plays) == (200, [FAILING])
        assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"


# ---- what is charged for calls that went on --------------------------------------------------


async def test_a_call_that_nobody_had_room_for_at_last_is_charged_with_nothing(
    tmp_path: Path,
) -> None:
    """Its first attempt was refused, and its second was never sent."""
    go_on = asyncio.Event()
    async with staged(
        tmp_path,
        FAILING,
        others={"up2": [[Wait(go_on), plain()]]},
        routes={"gpt": BOTH, "same": At("up2")},
        policies={"gpt": Policy(attempts_max=2, repeats_share=1.0, fallbacks=("none",))},
        strategy="ordered",
        concurrent={"up2": 1},
        quota=limited(tokens(10**6), requests(100), money(10**6)),
    ) as stage:
        other = stage.begin(stage.chat(model="same"))
        await stage.asked(1, "up2")
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (503, "no_deployment_available")
        go_on.set()
        assert (await other).status == 200
        _, call = await stage.calls(2)
        assert call.end is not None
        assert (call.end.usage.prompt_tokens, call.end.others[0].usage.prompt_tokens) == (0, 0)


async def test_a_client_that_leaves_between_two_attempts_is_charged_with_nothing(
    tmp_path: Path,
) -> None:
    async with staged(
        tmp_path,
        FAILING,
        routes={"gpt": At("up")},
        policies=AGAIN,
        random=lambda: 0.999,
        quota=limited(tokens(10**6), requests(100)),
    ) as stage:
        condition = stage.conditions.of("up/gpt")
        async with stage.connected() as client:
            await client.send(stage.chat())
            await stage.asked(1)
            await until(lambda: condition.inflight == 0, "it does not pause")
            client.reset()
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.usage.prompt_tokens) == ("client_gone", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("at", range(1, 10))
async def test_a_call_may_be_cancelled_wherever_it_waits_on_its_way_from_one_to_another(
    tmp_path: Path, at: int, stream: bool
) -> None:
    """A silent one, a pause, a retry, and an answer, with a place to be had and a hold for each."""
    spawning = Interrupted(at)
    hasty = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
    async with staged(
        tmp_path,
        FAILING,
        [Stall()],
        others={"up2": [[Stall()], [said(stream=stream)]], "up3": [FAILING]},
        routes={"gpt": THREE},
        policies={"gpt": Policy(attempts_max=6, repeats_share=1.0)},
        strategy="ordered",
        timeouts={"up": hasty, "up2": hasty},
        concurrent={"up": 1, "up2": 1, "up3": 1},
        spawning=spawning,
        random=lambda: 0.1,
        quota=limited(requests(10), tokens(10**6), money(10**6, strict=True), at_once(1)),
    ) as stage:
        spawning.interrupt = lambda: lose_clients(stage)
        async with stage.connected() as client:
            await client.send(stage.chat(b"connection: close", stream=stream, max_tokens=100))
            await client.read_all()
        await stage.at_rest()
        begun = stage.journal().calls
        for call in await stage.calls(len(begun)):
            assert call.end is not None
            others = call.end.others
            assert len(others) < call.end.attempts <= await asked_of_all(stage) + 1
            assert sum(one.usage.prompt_tokens > 0 for one in others) <= 2
        await stage.upstreams_left()


async def test_what_a_silent_attempt_is_charged_with_is_charged_once(tmp_path: Path) -> None:
    """The next was never sent, as its upstream was full."""
    go_on = asyncio.Event()
    hasty = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
    async with staged(
        tmp_path,
        [Stall()],
        others={"up2": [[Wait(go_on), plain()]]},
        routes={"gpt": BOTH, "same": At("up2")},
        policies={"gpt": Policy(attempts_max=2, repeats_share=1.0, fallbacks=("none",))},
        strategy="ordered",
        timeouts={"up": hasty},
        concurrent={"up2": 1},
        quota=limited(tokens(10**6)),
    ) as stage:
        other = stage.begin(stage.chat(model="same"))
        await stage.asked(1, "up2")
        assert (await stage.ask(stage.chat())).status == 503
        go_on.set()
        assert (await other).status == 200
        _, call = await stage.calls(2)
        assert call.end is not None
        assert [one.usage.prompt_tokens > 0 for one in call.end.others] == [True]
        assert call.end.usage.prompt_tokens == 0


@pytest.mark.parametrize("begun", [b"", HALF + chunk(ROLE + delta(content="some"))])
async def test_a_client_that_leaves_a_second_attempt_is_charged_with_that(
    tmp_path: Path, begun: bytes
) -> None:
    async with staged(
        tmp_path,
        FAILING,
        others={"up2": [[begun, Stall()]]},
        routes={"gpt": BOTH},
        policies=AGAIN,
        strategy="ordered",
        quota=limited(tokens(10**6)),
    ) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await stage.asked(1, "up2")
            if begun:
                await client.read_until(b"some")
            client.reset()
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.deployment) == ("client_gone", "up2/gpt")
        assert (call.end.usage.prompt_tokens > 0, call.end.estimated) == (True, True)


async def test_a_client_that_leaves_while_the_next_is_connected_to_is_charged_once(
    tmp_path: Path,
) -> None:
    """With what the silent one before it may have used."""
    hasty = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
    with deaf() as url:
        async with staged(
            tmp_path,
            [Stall()],
            others={"up2": [[plain()]]},
            routes={"gpt": BOTH},
            policies=AGAIN,
            strategy="ordered",
            timeouts={"up": hasty},
            quota=limited(tokens(10**6)),
        ) as stage:
            stage.upstreams["up2"].pool.origin = Origin.from_url(url)
            async with stage.connected() as client:
                await client.send(stage.chat())
                condition = stage.conditions.of("up2/gpt")
                await until(lambda: condition.inflight == 1, "it is not connected to")
                client.reset()
            (call,) = await stage.calls()
            assert call.end is not None
            assert (call.end.outcome, call.end.usage.prompt_tokens) == ("client_gone", 0)
            assert [one.usage.prompt_tokens > 0 for one in call.end.others] == [True]
