"""Every directive, as bare sockets see it."""

import asyncio
from typing import Any

import msgspec
import pytest

from llmrouter.daemon.demo import tokens
from tests.daemon.demo.running import CHAT, Running, chat, client, data, decoded, request, running
from tests.support.raw import Ending, RawClient, connected
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

TEXT = tokens.prose("hello", 0)
EVENT_END = b"\n\n"


def said(body: bytes) -> str:
    text = decoded(body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


async def events_until_the_end(connection: RawClient) -> int:
    """How many whole events came before the connection ended."""
    return (await connection.read_all()).count(EVENT_END)


# ---- sound answers ------------------------------------------------------------------------


async def test_a_connection_serves_plain_and_streamed_answers_in_order() -> None:
    async with client() as connection:
        await connection.send(chat() + chat(stream=True) + chat())
        plain, stream, again = [await connection.response() for _ in range(3)]

    assert said(plain.body) == said(again.body) == TEXT
    assert plain.headers[b"content-type"] == b"application/json"
    assert plain.headers[b"x-request-id"] == b"req_demo0000000001"
    assert b"connection" not in plain.headers
    assert stream.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert stream.whole
    assert data(stream.body)[-1] == "[DONE]"


async def test_a_request_may_come_one_byte_at_a_time() -> None:
    async with client() as connection:
        await connection.drip(chat())

        assert said((await connection.response()).body) == TEXT


async def test_the_header_counts_alone() -> None:
    async with client() as connection:
        await connection.send(chat("demo-reset", x_demo="tokens=2"))

        assert said((await connection.response()).body) == "This is "


async def test_a_slow_answer_comes_after_its_time() -> None:
    loop = asyncio.get_running_loop()
    async with client() as connection:
        start = loop.time()
        await connection.send(chat("demo-slow=0.05"))

        assert said((await connection.response()).body) == TEXT
        assert loop.time() - start >= 0.045


async def test_a_paced_stream_takes_its_time() -> None:
    loop = asyncio.get_running_loop()
    async with client() as connection:
        start = loop.time()
        await connection.send(chat("demo-gap=5,tokens=10", stream=True))

        assert len(data((await connection.response()).body)) == 13
        assert loop.time() - start >= 0.05


@pytest.mark.parametrize(
    ("model", "chars"), [("demo-long", 8_000), ("demo-big", 4 << 20), ("demo-bytes=77", 77)]
)
async def test_a_text_is_as_long_as_asked_for(model: str, chars: int) -> None:
    async with client() as connection:
        await connection.send(chat(model))
        response = await connection.response()

    assert response.whole
    assert len(said(response.body)) == chars


async def test_reasoning_and_cached_tokens_are_told() -> None:
    async with client() as connection:
        await connection.send(chat("demo-reasoning=5,cached=1"))
        usage = decoded((await connection.response()).body)["usage"]

    assert usage["completion_tokens"] == tokens.count(TEXT) + 5
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1


async def test_a_filtered_answer_says_so() -> None:
    async with client() as connection:
        await connection.send(chat("demo-content-filter"))
        (choice,) = decoded((await connection.response()).body)["choices"]

    assert choice["finish_reason"] == "content_filter"


# ---- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 499, 500, 502, 503, 529, 599])
@pytest.mark.parametrize("stream", [False, True])
async def test_any_error_can_be_asked_for(status: int, stream: bool) -> None:
    async with client() as connection:
        await connection.send(chat(f"demo-error-{status}", stream=stream) + chat())
        response, after = await connection.response(), await connection.response()

    assert response.status == status
    assert f"status {status}" in decoded(response.body)["error"]["message"]
    assert response.headers.get(b"retry-after") == (b"1" if status in (429, 503) else None)
    assert after.status == 200


async def test_a_prompt_may_be_found_too_long() -> None:
    async with client() as connection:
        await connection.send(chat("demo-context-length"))
        response = await connection.response()

    assert response.status == 400
    assert decoded(response.body)["error"]["code"] == "context_length_exceeded"


async def test_a_flapping_model_answers_every_nth_call() -> None:
    async with client() as connection:
        await connection.send(chat("demo-flap=3") * 6)

        assert [(await connection.response()).status for _ in range(6)] == [503, 503, 200] * 2


async def test_a_throttled_call_is_told_when_to_come_again() -> None:
    async with client() as connection:
        await connection.send(chat("demo-throttle=30"))
        response = await connection.response()

    assert (response.status, response.headers[b"retry-after"]) == (429, b"30")
    assert decoded(response.body)["error"]["code"] == "rate_limit_exceeded"


async def test_a_prompt_may_be_refused_for_what_it_says() -> None:
    async with client() as connection:
        await connection.send(chat("demo-content-refused"))
        response = await connection.response()

    assert response.status == 400
    assert decoded(response.body)["error"]["code"] == "content_filter"


async def test_some_calls_fail_and_the_others_do_not() -> None:
    async with client() as connection:
        await connection.send(chat("demo-fail-rate=25") * 8)
        statuses = [(await connection.response()).status for _ in range(8)]

    assert statuses == [200, 200, 200, 500] * 2


async def test_some_calls_are_slow_and_the_others_are_not() -> None:
    async with running() as demo:
        async with connected(demo.address) as connection:
            await connection.send(chat("demo-stall-rate=50,slow=3600") * 2)
            assert said((await connection.response()).body) == TEXT
            await until(lambda: demo.counters.open == 1, "the second call is not given")
            await asyncio.sleep(0)
            assert demo.counters.open == 1
        await gone(demo)

    assert (demo.counters.plain, demo.counters.cancelled) == (2, 1)


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_a_prefilled_answer_may_be_refused(path: str) -> None:
    asked = {"role": "user", "content": "hello"}
    begun = {"role": "assistant", "content": "Well,"}
    statuses = []
    async with client() as connection:
        for messages in ([asked], [asked, begun], [asked, begun, asked]):
            name = "messages" if path == CHAT else "input"
            body = msgspec.json.encode({"model": "demo-prefill", name: messages})
            await connection.send(request("POST", path, body))
            statuses.append((await connection.response()).status)

    assert statuses == [200, 400, 200]


async def test_an_unknown_directive_is_refused_with_those_there_are() -> None:
    async with client() as connection:
        await connection.send(chat("demo-nope"))
        response = await connection.response()

    error = decoded(response.body)["error"]
    assert (response.status, error["code"], error["param"]) == (400, "unknown_directive", "model")
    assert "keepalive-close" in error["message"]


async def test_a_body_that_is_no_request_is_refused() -> None:
    async with client() as connection:
        await connection.send(request("POST", CHAT, b"{"))
        response = await connection.response()

    assert response.status == 400
    assert decoded(response.body)["error"]["type"] == "invalid_request_error"


# ---- answers that are none, or not whole ----------------------------------------------------


async def test_reset_ends_the_connection_before_any_answer() -> None:
    async with client() as connection:
        await connection.send(chat("demo-reset"))

        assert await connection.read_all() == b""
        assert connection.ending is Ending.RESET


@pytest.mark.parametrize("events", [0, 1, 5])
async def test_a_cut_stream_has_some_events_and_no_end(events: int) -> None:
    async with client() as connection:
        await connection.send(chat(f"demo-cut={events}", stream=True))
        received = await connection.read_all()

    assert connection.ending is Ending.CLOSED
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding: chunked\r\n" in received
    assert received.count(EVENT_END) == events
    assert not received.endswith(b"0\r\n\r\n")


ANNOUNCED: dict[str, tuple[dict[str, Any], int]] = {
    CHAT: ({"messages": [{"role": "user", "content": "hello"}]}, 1),
    "/v1/completions": ({"prompt": "hello"}, 0),
    "/v1/responses": ({"input": "hello"}, 4),
}


@pytest.mark.parametrize("path", ANNOUNCED)
async def test_a_stream_may_break_off_before_any_text(path: str) -> None:
    members, events = ANNOUNCED[path]
    body = msgspec.json.encode({"model": "demo-role-cut", "stream": True, **members})
    async with client() as connection:
        await connection.send(request("POST", path, body))
        received = await connection.read_all()

    assert connection.ending is Ending.CLOSED
    assert received.count(EVENT_END) == events
    assert TEXT[:4].encode() not in received
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ANNOUNCED)
async def test_an_event_may_be_an_error_and_is_the_last(path: str) -> None:
    members, _ = ANNOUNCED[path]
    body = msgspec.json.encode({"model": "demo-error-event=2", "stream": True, **members})
    async with client() as connection:
        await connection.send(request("POST", path, body))
        response = await connection.response()

    assert response.whole
    events = data(response.body)
    assert len(events) == 3
    assert "asked to fail here" in str(events[-1])


async def test_comments_may_come_first() -> None:
    async with client() as connection:
        await connection.send(chat("demo-ping=2,cut=1", stream=True))
        received = await connection.read_all()

    assert received.count(b": ping\n\n") == 2
    assert received.index(b": ping") < received.index(b"data: ")
    assert received.count(EVENT_END) == 3


async def test_a_cut_body_is_half_of_what_was_promised() -> None:
    async with client() as connection:
        await connection.send(chat("demo-cut"))
        response = await connection.response()

    assert not response.whole
    assert len(response.body) == int(response.headers[b"content-length"]) // 2
    assert connection.ending is Ending.CLOSED


@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_answer_is_whole_but_not_json(stream: bool) -> None:
    async with client() as connection:
        await connection.send(chat("demo-malformed=2", stream=stream))
        response = await connection.response()

    assert response.whole
    pieces = response.body.split(EVENT_END)[:-1] if stream else [response.body]
    broken = 0
    for piece in pieces[:-1] if stream else pieces:
        try:
            msgspec.json.decode(piece.removeprefix(b"data: "))
        except msgspec.DecodeError:
            broken += 1
    assert broken == 1
    assert not stream or pieces[-1] == b"data: [DONE]"


async def test_a_stream_without_its_end_is_whole_as_http() -> None:
    async with client() as connection:
        await connection.send(chat("demo-no-done", stream=True))
        response = await connection.response()

    assert response.whole
    events = data(response.body)
    assert "[DONE]" not in events
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_may_never_be_told(stream: bool) -> None:
    options: dict[str, Any] = (
        {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    )
    async with client() as connection:
        await connection.send(chat("demo-no-usage", **options))
        response = await connection.response()

    assert response.whole
    assert b"usage" not in response.body.replace(b"demo-no-usage", b"")


async def test_a_body_may_be_empty_or_not_json() -> None:
    async with client() as connection:
        await connection.send(chat("demo-empty"))
        empty = await connection.response()
        await connection.send(chat("demo-not-json", stream=True))
        page = await connection.response()

    assert (empty.status, empty.body) == (200, b"")
    assert page.headers[b"content-type"] == b"text/html; charset=utf-8"
    assert page.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_drip_is_whole_in_the_end(stream: bool) -> None:
    async with client() as connection:
        await connection.send(chat("demo-drip,tokens=3", stream=stream))
        response = await connection.response()

    assert response.whole
    if stream:
        assert data(response.body)[-1] == "[DONE]"
    else:
        assert said(response.body) == "This is the "


@pytest.mark.parametrize("stream", [False, True])
async def test_a_promise_to_keep_the_connection_is_broken(stream: bool) -> None:
    async with client() as connection:
        await connection.send(chat("demo-keepalive-close", stream=stream))
        response = await connection.response()

        assert response.whole
        assert response.headers[b"connection"] == b"keep-alive"
        assert await connection.read_all() == b""
        assert connection.ending is Ending.CLOSED


# ---- answers that do not come, and clients that go ------------------------------------------


async def gone(demo: Running) -> None:
    await until(lambda: demo.counters.open == 0, "the answer is still given")


async def test_a_silent_answer_never_comes_and_ends_with_its_client() -> None:
    async with running() as demo:
        async with connected(demo.address) as connection:
            await connection.send(chat("demo-silent"))
            await until(lambda: demo.counters.open == 1, "it was never asked")
            assert demo.counters.cancelled == 0
        await gone(demo)

    assert demo.counters.cancelled == 1


@pytest.mark.parametrize(
    ("stream", "events"), [(True, 0), (True, 3), (False, 0)], ids=["head", "events", "plain"]
)
async def test_a_stalled_answer_stays_open_until_its_client_goes(stream: bool, events: int) -> None:
    async with running() as demo:
        async with connected(demo.address) as connection:
            await connection.send(chat(f"demo-stall={events}", stream=stream))
            head = await connection.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            for _ in range(events):
                await connection.read_until(EVENT_END)
            assert demo.counters.open == 1
        await gone(demo)

    assert demo.counters.cancelled == 1
    assert demo.counters.events_sent == events


@pytest.mark.parametrize("model", ["demo-slow=60", "demo-gap=60000", "demo-drip,gap=60000"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_goes_cancels_its_answer(model: str, reset: bool) -> None:
    async with running() as demo:
        async with connected(demo.address) as connection:
            await connection.send(chat(model, stream=True))
            await until(lambda: demo.counters.open == 1, "it was never asked")
            if reset:
                connection.reset()
        await gone(demo)

    assert demo.counters.cancelled == 1


async def test_an_answer_that_was_read_to_its_end_is_not_cancelled() -> None:
    async with running() as demo:
        for stream in (True, False):
            async with connected(demo.address) as connection:
                await connection.send(chat(stream=stream))
                assert (await connection.response()).whole
        await gone(demo)

    assert demo.counters.cancelled == 0
    assert (demo.counters.streams, demo.counters.plain) == (1, 1)


async def test_nothing_is_made_for_a_client_that_does_not_read() -> None:
    tokens_wanted = 50_000  # some 10 MB of events: more than any buffer between us holds
    async with (
        running(send_buffer_bytes=16_384) as demo,
        connected(demo.address, receive_buffer_bytes=4_096) as connection,
    ):
        await connection.send(chat(f"demo-tokens={tokens_wanted}", stream=True))
        await connection.read_until(EVENT_END)
        sent = [-1]

        def stands_still() -> bool:
            sent.append(demo.counters.events_sent)
            return len(sent) > 20 and len(set(sent[-20:])) == 1

        await until(stands_still, "it goes on producing")
        assert sent[-1] < tokens_wanted / 10
        connection.reset()
        await gone(demo)


async def test_events_are_counted_as_they_are_sent() -> None:
    async with running() as demo, connected(demo.address) as connection:
        await connection.send(chat("demo-tokens=10", stream=True))
        await connection.response()

        assert demo.counters.events_sent == 10 + 3
