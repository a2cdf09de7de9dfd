import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from llmrouter.contracts.call import Usage
from llmrouter.gateway.relay import _Nesting
from llmrouter.http1 import link, sse
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.quota.estimate import Estimator
from tests.support.application import settings
from tests.support.gateway import Pause, Reached, asking, request, shown, staged
from tests.support.raw import Ending, Response, chunked
from tests.support.upstream import (
    LAST_CHUNK,
    Cut,
    Drip,
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

EVENTS = [
    b'data: {"choices":[{"delta":{"content":"H\xc3\xa9"}}],"usage":null}\n\n',
    b": a comment\n\n",
    b'event: x\r\ndata: {"choices":[{"delta":{"content":"[DONE]"}}]}\r\n\r\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = [*EVENTS, USAGE, DONE]
USED = Usage(prompt_tokens=9, output_tokens=4)
SSE = b"content-type: text/event-stream\r\n"


def is_what_passed(usage: Usage, events: int, *, late: int = 0) -> bool:
    """Whether that is charged for a stream that did not come to tell its usage.

    `late` ones may have passed, and the one of EVENTS that ends in CRLF may be overlooked.
    """
    prompt = Estimator().prompt_tokens("gpt", len(asking(stream=True)))
    least = max(events - 1, 1) if events else 0
    return usage.prompt_tokens == prompt and least <= usage.output_tokens <= events + late


def last_error(response: Response) -> dict[str, Any]:
    """The error object at which SDKs raise; nothing follows it."""
    assert response.status == 200
    assert DONE not in response.body
    assert not response.whole
    *_, last = sse.events(response.body)
    data = sse.data_of(last)
    assert data is not None
    error: dict[str, Any] = msgspec.json.decode(data)["error"]
    assert error["request_id"] == response.headers[b"x-request-id"].decode()
    return error


# ---- whole streams ---------------------------------------------------------------------------


FRAMED: dict[str, Play] = {
    "a-chunk-each": [stream(*WHOLE)],
    "one-chunk": [stream(b"".join(WHOLE))],
    "bytes-in-chunks": [stream_head() + chunked(b"%c" % byte for byte in b"".join(WHOLE))],
    "a-packet-a-byte": [stream_head(), Drip(chunked(WHOLE))],
    "sized": [answer(b"".join(WHOLE), headers=SSE)],
    "close-delimited": [b"HTTP/1.1 200 OK\r\n" + SSE + b"\r\n" + b"".join(WHOLE), Cut()],
    "with-charset": [
        stream_head(headers=b"content-type: text/event-stream; charset=utf-8\r\n") + chunked(WHOLE)
    ],
    "in-other-case": [stream_head(headers=b"Content-Type: Text/Event-Stream\r\n") + chunked(WHOLE)],
    "reset-after-its-end": [stream(*WHOLE), Reset()],
    "last-chunk-missing": [stream(*WHOLE)[: -len(LAST_CHUNK)], Cut()],
}


@pytest.mark.asyncio
@pytest.mark.parametrize("asks_for_usage", [True, False])
@pytest.mark.parametrize("play", FRAMED.values(), ids=FRAMED)
async def test_a_stream_keeps_its_bytes(tmp_path: Path, play: Play, asks_for_usage: bool) -> None:
    """FR-002: all but the usage event, which was asked for by us alone."""
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat(stream=True, **options))
        assert (response.status, response.whole) == (200, True)
        assert response.body == b"".join(WHOLE if asks_for_usage else [*EVENTS, DONE])
        sent = msgspec.json.decode(stage.upstream.seen[0].body)
        assert sent["stream_options"] == {"include_usage": True}
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.begin.stream, call.end.outcome, call.end.usage) == (True, "ok", USED)
        assert not call.end.estimated


@pytest.mark.asyncio
async def test_a_stream_for_a_caller_of_http_1_0_ends_with_its_connection(tmp_path: Path) -> None:
    async with staged(tmp_path, [stream(*WHOLE)]) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        sent = await client.read_all()
        assert client.ending is Ending.CLOSED
        assert sent.partition(b"\r\n\r\n")[2] == b"".join([*EVENTS, DONE])
        assert b"transfer-encoding" not in sent


@pytest.mark.asyncio
async def test_streams_and_plain_calls_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    plays: list[Play] = [[stream(*WHOLE)], [answer(b"{}")], [stream(*WHOLE)]]
    async with staged(tmp_path, *plays) as stage, stage.connected() as client:
        for wants_stream in (True, False, True):
            await client.send(stage.chat(stream=wants_stream))
            assert (await shown(client)).whole
        assert stage.upstream.connections == 1


@pytest.mark.asyncio
async def test_head_and_first_event_leave_in_one_write(tmp_path: Path) -> None:
    held = asyncio.Event()
    play: Play = [stream_head(), chunk(EVENTS[0]), Wait(held), *map(chunk, [DONE, b""])]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        first = await client.read()
        assert first.endswith(b"\r\n\r\n" + chunk(EVENTS[0]))
        held.set()
        assert (await client.read_until(LAST_CHUNK)).startswith(chunk(DONE))


@pytest.mark.asyncio
async def test_every_event_leaves_before_the_next_one_comes(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in EVENTS]
    play: list[Any] = [stream_head()]
    for event, gate in zip(EVENTS, gates, strict=True):
        play += [chunk(event), Wait(gate)]
    async with (
        staged(tmp_path, [*play, chunk(DONE), LAST_CHUNK]) as stage,
        stage.connected() as client,
    ):
        await client.send(stage.chat(stream=True))
        await client.read_until(b"\r\n\r\n")
        for event, gate in zip(EVENTS, gates, strict=True):
            assert await client.read_until(chunk(event)) == chunk(event)
            gate.set()
        assert await client.read_until(LAST_CHUNK) == chunk(DONE) + LAST_CHUNK


@pytest.mark.asyncio
async def test_half_an_event_is_held_until_it_is_whole(tmp_path: Path) -> None:
    held, half_sent = asyncio.Event(), Reached()
    half: Play = [chunk(EVENTS[3][:20]), Wait(half_sent), Wait(held), chunk(EVENTS[3][20:])]
    play: Play = [stream_head(), chunk(EVENTS[0]), *half, chunk(DONE), LAST_CHUNK]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        await client.read_until(chunk(EVENTS[0]))
        await half_sent.wait()
        held.set()
        sent = await client.read_until(LAST_CHUNK)
        assert EVENTS[3] in sent


@pytest.mark.asyncio
async def test_a_stream_nobody_asked_for_is_passed_on_as_one(tmp_path: Path) -> None:
    async with staged(tmp_path, [stream(*WHOLE)]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.whole) == (200, True)
        assert response.body.endswith(DONE)


@pytest.mark.asyncio
async def test_a_plain_answer_to_who_asked_for_a_stream_is_passed_on_as_one(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, [answer(b'{"usage":{"prompt_tokens":3}}')]) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert (response.status, response.body) == (200, b'{"usage":{"prompt_tokens":3}}')
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.usage == Usage(prompt_tokens=3)


@pytest.mark.asyncio
async def test_the_prompt_is_forgotten_while_a_stream_lasts(tmp_path: Path) -> None:
    prompt = "x" * 4_000_000
    play: Play = [stream_head(), chunk(EVENTS[0]), Stall()]
    async with staged(tmp_path, play, limits=settings(body_bytes=8_000_000)) as stage:
        message = stage.chat(stream=True, user=prompt)
        async with stage.connected() as client:
            tracemalloc.start()
            try:
                await client.send(message)
                await client.read_until(chunk(EVENTS[0]))
                stage.upstream.seen.clear()
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert held < 1_000_000
            client.reset()
            await stage.calls()


# ---- cut streams -----------------------------------------------------------------------------


CUT = [EVENTS[0], EVENTS[2], USAGE, DONE]
SAID = {
    "chunked": stream(*CUT),
    "sized": answer(b"".join(CUT), headers=SSE),
    "close-delimited": b"HTTP/1.1 200 OK\r\n" + SSE + b"\r\n" + b"".join(CUT),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_a_stream_cut_anywhere_never_looks_whole(
    tmp_path: Path, said: bytes, ending: Cut | Reset
) -> None:
    """SC-006: every byte of it up to its end marker, by an orderly close and by a reset."""
    end_marker_at = said.index(DONE) + len(DONE)
    async with staged(tmp_path, [Stall()]) as stage:
        for end in range(end_marker_at):
            stage.upstream.plays = [[said[:end], ending]]
            response = await stage.ask(stage.chat(stream=True))
            if response.status == 200:
                error = last_error(response)
                passed = response.body[: response.body.rindex(b"data: ")]
                assert (EVENTS[0] + EVENTS[2]).startswith(passed)
            else:
                assert response.status == 502
                assert response.whole
                error = msgspec.json.decode(response.body)["error"]
            assert error["code"] in ("upstream_error", "upstream_unreachable"), end
        calls = await stage.calls(end_marker_at)
        assert {call.end and call.end.outcome for call in calls} == {"upstream_error"}
        codes = {call.end and call.end.error_code for call in calls}
        assert codes <= {"upstream_error", "upstream_unreachable"}
        assert {line.code for line in stage.log} == codes


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("events", range(len(EVENTS) + 1))
async def test_a_caller_of_http_1_0_sees_a_reset_where_a_stream_was_cut(
    tmp_path: Path, events: int, ending: Cut | Reset
) -> None:
    """SC-006: a close would look like the end to who knows no chunks."""
    play: Play = [stream(*WHOLE[:events], EVENTS[3])[: -len(LAST_CHUNK)], ending]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        sent = await client.read_all()
        assert client.ending is Ending.RESET
        assert DONE not in sent


@pytest.mark.asyncio
@pytest.mark.parametrize("with_usage", [True, False])
async def test_a_stream_without_its_end_marker_is_not_whole(
    tmp_path: Path, with_usage: bool
) -> None:
    """SC-006: the sixteen faults, no. 11; what was used is counted all the same."""
    said = [*EVENTS, USAGE] if with_usage else EVENTS
    async with staged(tmp_path, [stream(*said)]) as stage:
        response = await stage.ask(stage.chat(stream=True))
        error = last_error(response)
        assert (error["code"], error["type"]) == ("upstream_error", "server_error")
        assert response.body.startswith(b"".join(EVENTS))
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (200, "upstream_error")
        assert call.end.error_code == "upstream_error"
        assert call.end.estimated is not with_usage
        usage = call.end.usage
        assert usage == USED if with_usage else is_what_passed(usage, len(EVENTS))


MALFORMED = {
    "usage-cut": USAGE[:-4] + b"\n\n",
    "usage-in-garbage": b'data: {"usage"\n\n',
    "deep": b'data: {"usage":{},"choices":' + b"[" * 100_000 + b"\n\n",
}


@pytest.mark.asyncio
@pytest.mark.parametrize("event", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_event_near_usage_ends_the_stream(tmp_path: Path, event: bytes) -> None:
    """The sixteen faults, no. 10."""
    play: Play = [stream_head(), *map(chunk, [*EVENTS, event, DONE]), Stall()]
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert last_error(response)["code"] == "upstream_error"
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


@pytest.mark.asyncio
async def test_an_event_without_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100_000)
    play: Play = [stream_head(), chunk(EVENTS[0]), *[chunk(b"data: " + b"x" * 50_000)] * 9, Stall()]
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat(stream=True))
        error = last_error(response)
        assert (error["code"], "too long" in error["message"]) == ("upstream_error", True)
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


NOT_AS_FRAMED = {
    "bad-chunk": [stream_head(), chunk(EVENTS[0]), b"zz\r\n", Stall()],
    "chunk-too-short": [stream_head(), chunk(EVENTS[0]), b"5\r\nxy\r\n\r\n\r\n", Stall()],
    "another-answer": [answer(EVENTS[0], headers=SSE) + answer(DONE, headers=SSE), Stall()],
}


@pytest.mark.asyncio
@pytest.mark.parametrize("play", NOT_AS_FRAMED.values(), ids=NOT_AS_FRAMED)
async def test_a_stream_that_is_not_framed_as_it_says_ends(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert DONE not in response.body
        assert response.status == 502 or last_error(response)["code"] == "upstream_error"
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


@pytest.mark.asyncio
@pytest.mark.parametrize("events", [1, len(EVENTS)])
async def test_a_stream_that_stalls_ends_with_an_error_event(tmp_path: Path, events: int) -> None:
    """The sixteen faults, no. 9."""
    timeouts = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=0.05, total_s=60)
    play: Play = [stream_head(), *map(chunk, EVENTS[:events]), Stall()]
    async with staged(tmp_path, play, timeouts=timeouts) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert last_error(response)["code"] == "upstream_timeout"
        assert response.body.startswith(b"".join(EVENTS[:events]))
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.error_code) == ("upstream_error", "upstream_timeout")


@pytest.mark.asyncio
async def test_a_stream_never_lasts_longer_than_it_may(tmp_path: Path) -> None:
    timeouts = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=10, total_s=0.1)
    play: Play = [stream_head(), *[chunk(EVENTS[0])] * 3, Stall()]
    async with staged(tmp_path, play, timeouts=timeouts) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert last_error(response)["code"] == "upstream_timeout"


@pytest.mark.asyncio
async def test_a_stream_that_does_not_end_after_its_marker_is_whole(tmp_path: Path) -> None:
    timeouts = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=0.05, total_s=60)
    play: Play = [stream_head(), *map(chunk, WHOLE), Stall()]
    async with staged(tmp_path, play, timeouts=timeouts) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert (response.body, response.whole) == (b"".join([*EVENTS, DONE]), True)
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.usage) == ("ok", USED)


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", [Cut(), Reset(), Stall()], ids=["fin", "rst", "stall"])
async def test_the_official_sdk_raises_where_a_stream_was_cut(
    tmp_path: Path, ending: Cut | Reset | Stall
) -> None:
    timeouts = UpstreamTimeouts(connect_s=10, first_s=10, idle_s=0.05, total_s=60)
    play: Play = [stream_head(), *map(chunk, EVENTS[:1]), ending]
    async with staged(tmp_path, play, timeouts=timeouts) as stage:
        host, port = stage.address
        async with openai.AsyncOpenAI(
            base_url=f"http://{host}:{port}/v1", api_key=stage.key.decode(), max_retries=0
        ) as client:
            answered = await client.chat.completions.create(
                model="gpt", messages=[{"role": "user", "content": "x"}], stream=True
            )
            first = await anext(answered)
            assert first.choices[0].delta.content == "H\xe9"
            with pytest.raises(openai.APIError) as caught:
                await anext(answered)
            assert isinstance(caught.value.body, dict)
            assert caught.value.body["request_id"] == "req_1"


@pytest.mark.asyncio
async def test_a_cut_stream_of_the_responses_api_ends_with_its_own_error_event(
    tmp_path: Path,
) -> None:
    begun = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n'
    async with staged(tmp_path, [stream(begun)]) as stage:
        body = asking(stream=True)
        response = await stage.ask(request(b"/v1/responses", stage.key, body))
        *_, last = sse.events(response.body)
        assert last.startswith(b"event: error\n")
        assert not response.whole
        assert msgspec.json.decode(sse.data_of(last) or b"")["code"] == "upstream_error"
        assert b"stream_options" not in stage.upstream.seen[0].body


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_events_are_counted_however_their_lines_end_and_they_come(
    tmp_path: Path, end: bytes, at_once: bool
) -> None:
    events = [b'data: {"choices":[{}]}' + end] * 20
    come = chunk(b"".join(events)) if at_once else chunked(events)[: -len(LAST_CHUNK)]
    async with staged(tmp_path, [stream_head() + come, Cut()]) as stage:
        last_error(await stage.ask(stage.chat(stream=True)))
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.usage.output_tokens == 20


# ---- slow readers and callers that leave -----------------------------------------------------


@pytest.mark.asyncio
async def test_a_slow_reader_pauses_its_upstream_and_then_gets_everything(tmp_path: Path) -> None:
    event = b'data: "' + b"x" * 65_000 + b'"\n\n'
    count, all_sent = 300, Reached()
    play: Play = [stream_head(), *[chunk(event)] * count, Wait(all_sent), chunk(DONE), LAST_CHUNK]
    async with staged(tmp_path, play, send_buffer_bytes=65_536) as stage:
        async with stage.connected(receive_buffer_bytes=65_536) as client:
            tracemalloc.start()
            try:
                await client.send(stage.chat(stream=True))
                await client.read_until(b"\r\n\r\n")
                await stage.upstream_paused()
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert not all_sent.is_set()
            assert held < 3_000_000
            pieces = [await client.read()]
            while not pieces[-1].endswith(LAST_CHUNK):
                pieces.append(await client.read())
            assert b"".join(pieces).count(event) == count
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "ok"


@pytest.mark.asyncio
async def test_a_reader_that_takes_nothing_loses_its_stream_and_the_upstream_is_closed(
    tmp_path: Path,
) -> None:
    event = b'data: "' + b"x" * 65_000 + b'"\n\n'
    play: Play = [stream_head(), *[chunk(event)] * 300, Stall()]
    limits = settings(idle_s=0.2)
    async with (
        staged(tmp_path, play, limits=limits, send_buffer_bytes=65_536) as stage,
        stage.connected(receive_buffer_bytes=4096) as client,
    ):
        await client.send(stage.chat(stream=True))
        await client.read_until(b"\r\n\r\n")
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "client_gone"
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


@pytest.mark.asyncio
@pytest.mark.parametrize("leaves", ["reset", "closed"])
@pytest.mark.parametrize("events", range(len(WHOLE)))
async def test_who_leaves_at_any_event_ends_the_upstream_too(
    tmp_path: Path, events: int, leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SC-007: at every event index; after an orderly close it shows with what comes next."""
    monkeypatch.setattr(link, "PROBE_EVERY_S", 0.01)
    gone = asyncio.Event()
    sent = [event for event in WHOLE[:events] if event is not USAGE]
    # The first is answered by a reset, at which the next one fails.
    more: Play = [chunk(EVENTS[0]), Wait(Pause()), chunk(EVENTS[0])] if leaves == "closed" else []
    play: Play = [
        stream_head() if events else b"",
        *map(chunk, WHOLE[:events]),
        Wait(gone),
        *(more if events else []),
    ]
    async with staged(tmp_path, [*play, Stall()]) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            if sent:
                await client.read_until(sent[-1])
            else:
                await until(lambda: len(stage.upstream.seen) == 1, "the call did not arrive")
            if leaves == "reset":
                client.reset()
            else:
                client.close()
        gone.set()
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")
        await stage.at_rest()
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.error_code) == ("client_gone", None)
        assert call.end.status == (200 if sent else 0)
        usage, late = call.end.usage, sum(isinstance(step, bytes) for step in more)
        if USAGE in WHOLE[:events]:
            assert usage == USED
        else:
            assert is_what_passed(usage, events, late=late)
        assert [line.code for line in stage.log] == [None]


@pytest.mark.asyncio
async def test_who_has_said_all_but_still_reads_gets_its_stream(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [stream_head(), chunk(EVENTS[0]), Wait(go_on), chunk(DONE), LAST_CHUNK]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        client.shutdown()
        await client.read_until(chunk(EVENTS[0]))
        go_on.set()
        assert await client.read_all() == chunk(DONE) + LAST_CHUNK
        assert client.ending is Ending.CLOSED


# ---- where a long plain answer ends ----------------------------------------------------------


TEXT = rb'{"a":["\\\"}]",{"b":"\u0022{\\"}],"c":1}'


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_nesting_is_closed_only_at_the_end_however_it_is_fed(cut: int) -> None:
    nesting = _Nesting()
    nesting.feed(TEXT[:cut])
    assert not nesting.closed
    nesting.feed(TEXT[cut:])
    assert nesting.closed


@pytest.mark.parametrize("text", [b"", b"1" * 1000, b'"text"', b"null", b"<html>"])
def test_a_text_without_any_bracket_never_closes(text: bytes) -> None:
    nesting = _Nesting()
    nesting.feed(text)
    assert not nesting.closed
