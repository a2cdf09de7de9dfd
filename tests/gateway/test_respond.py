import asyncio
import gzip
import tracemalloc
from pathlib import Path

import pytest

from llmrouter.contracts.call import Usage
from llmrouter.gateway.reply import PLAIN_BYTES_MAX
from llmrouter.quota.estimate import FIRST_OUTPUT
from tests.support.gateway import CREDENTIAL, Reached, error_of, shown, staged
from tests.support.raw import Ending, chunked
from tests.support.upstream import (
    LAST_CHUNK,
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

JSON = b"content-type: application/json\r\n"
ANSWER = (
    b'{"id":"c-1","choices":[{"message":{"content":"\xc3\xa9 [DONE] }"}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}'
)
USED = Usage(prompt_tokens=9, output_tokens=4)
CHUNKED = JSON + b"transfer-encoding: chunked\r\n"
CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n"


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = chunked(body[at : at + size] for at in range(0, len(body), size))
    return b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n" + pieces


WHOLE: dict[str, Play] = {
    "sized": [answer(ANSWER, headers=JSON)],
    "chunked": [in_chunks(ANSWER, 7)],
    "close-delimited": [CLOSE_DELIMITED + ANSWER, Cut()],
    "http-1.0": [b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n" + ANSWER, Cut()],
    "after-interim": [b"HTTP/1.1 102 Processing\r\n\r\n" + answer(ANSWER, headers=JSON)],
    "with-trailers": [in_chunks(ANSWER, 50)[:-2] + b"x-trailer: 1\r\n\r\n"],
    "with-line-end": [answer(ANSWER + b"\n", headers=JSON)],
    "half-closed": [answer(ANSWER, headers=JSON + b"connection: close\r\n"), Cut()],
}


@pytest.mark.parametrize("play", WHOLE.values(), ids=WHOLE)
async def test_a_plain_answer_keeps_its_bytes(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.body.rstrip(b"\n")) == (200, ANSWER)
        assert response.headers[b"content-type"] == b"application/json"
        assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt-real"
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome, call.end.usage) == (200, "ok", USED)


ERRORS = {
    400: b"",
    403: b"",
    404: b"",
    409: b"",
    422: b"",
    429: b"retry-after: 7\r\nretry-after-ms: 6500\r\n",
    500: b"x-should-retry: true\r\n",
    503: b"retry-after: 20\r\n",
    529: b"",
    599: b"",
}


@pytest.mark.parametrize(("status", "headers"), ERRORS.items(), ids=ERRORS)
async def test_an_error_of_the_upstream_is_passed_on_as_it_is(
    tmp_path: Path, status: int, headers: bytes
) -> None:
    body = b'{"error": {"message": "as it says", "code": "theirs"}}'
    said = answer(body, status=status, headers=JSON + headers + b"x-request-id: theirs\r\n")
    async with staged(tmp_path, [said]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.body) == (status, body)
        assert response.headers[b"x-request-id"] == b"req_1"
        for line in headers.splitlines():
            name, value = line.split(b": ")
            assert response.headers[name] == value
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (status, "upstream_error")
        assert call.end.usage == Usage()


@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_of_the_upstream_need_not_be_json(tmp_path: Path, status: int) -> None:
    page = answer(b"<html>oh", status=status, headers=b"content-type: text/html\r\n")
    async with staged(tmp_path, [page]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.body) == (status, b"<html>oh")
        assert response.headers[b"content-type"] == b"text/html"


async def test_an_error_of_the_upstream_is_no_stream_whatever_it_calls_itself(
    tmp_path: Path,
) -> None:
    said = answer(b'{"error": {}}', status=429, headers=b"content-type: text/event-stream\r\n")
    async with staged(tmp_path, [said]) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert (response.status, response.body) == (429, b'{"error": {}}')


REFUSALS = [
    b"",
    b'{"error":{"message":"Incorrect API key provided: sk-up**********6789, is wrong"}}',
    f"the key {CREDENTIAL} is wrong".encode(),
    b"is wrong" * PLAIN_BYTES_MAX,
]


@pytest.mark.parametrize("said", REFUSALS, ids=["empty", "masked", "plain", "long"])
async def test_a_refusal_of_our_credential_is_not_the_callers(tmp_path: Path, said: bytes) -> None:
    async with staged(tmp_path, [answer(said, status=401, headers=JSON)]) as stage:
        response = await stage.ask(stage.chat())
        error = error_of(response)
        assert (response.status, error["code"]) == (502, "upstream_error")
        assert "credential" in error["message"]
        assert b"www-authenticate" not in response.headers
        assert b"is wrong" not in response.body
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.error_code) == (502, "upstream_error")
        await until(lambda: stage.upstream.open <= 1, "connections pile up")


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
async def test_an_error_that_shows_our_credential_is_not_passed_on(
    tmp_path: Path, status: int
) -> None:
    """Echoing servers and careless proxies repeat the head that they were sent."""
    said = b'{"error":{"message":"no: authorization: Bearer %b"}}' % CREDENTIAL.encode()
    async with staged(tmp_path, [answer(said, status=status, headers=JSON)]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (502, "upstream_error")
        assert str(status) in error_of(response)["message"]
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (502, "upstream_error")


ECHO = b'{"choices":["authorization: Bearer %b"]}' % CREDENTIAL.encode()
ECHO_EVENT = b"data: %b\n\n" % ECHO
GIVEN_AWAY: dict[str, Play] = {
    "plain": [answer(ECHO, headers=JSON)],
    "in-chunks": [in_chunks(ECHO, 5)],
    "coded": [answer(gzip.compress(ECHO), headers=JSON + b"content-encoding: gzip\r\n")],
    "coded-error": [
        answer(gzip.compress(ECHO), status=400, headers=JSON + b"Content-Encoding: GZIP\r\n")
    ],
    "coded-stream": [
        stream_head(headers=b"content-type: text/event-stream\r\ncontent-encoding: br\r\n"),
        chunk(b"coded"),
        LAST_CHUNK,
    ],
    "stream": [stream(ECHO_EVENT, b"data: [DONE]\n\n")],
}


@pytest.mark.parametrize("play", GIVEN_AWAY.values(), ids=GIVEN_AWAY)
async def test_no_answer_in_which_our_credential_may_stand_is_passed_on(
    tmp_path: Path, play: Play
) -> None:
    """SC-002: whatever its status, its length and its coding."""
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(b"connection: close", stream=True))
        sent = await client.read_all()
        assert sent.startswith(b"HTTP/1.1 502 ")
        assert b'"upstream_error"' in sent
        assert CREDENTIAL.encode() not in sent
        assert len(sent) < 2000
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (502, "upstream_error")


LONG_ECHO = b'{"error":"%b %b"}' % (b"x" * 2 * PLAIN_BYTES_MAX, CREDENTIAL.encode())
LONG_ERRORS = {
    "sized": answer(LONG_ECHO, status=400, headers=JSON),
    "chunked": in_chunks(LONG_ECHO, 60_000).replace(b"200 OK", b"500 Said"),
    "close-delimited": CLOSE_DELIMITED.replace(b"200 OK", b"503 Said") + LONG_ECHO,
}


@pytest.mark.parametrize("said", LONG_ERRORS.values(), ids=LONG_ERRORS)
async def test_an_error_too_long_to_be_checked_is_not_passed_on(
    tmp_path: Path, said: bytes
) -> None:
    """SC-002: what shows our credential may come when there is no more holding back."""
    go_on = asyncio.Event()
    play: Play = [said[:-1000], Wait(go_on), said[-1000:], Cut()]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(b"connection: close"))
        begun = await client.read()
        go_on.set()
        sent = begun + await client.read_all()
        assert CREDENTIAL.encode() not in sent
        assert sent.startswith(b"HTTP/1.1 502 ")
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (502, "upstream_error")


async def test_a_coding_that_is_none_passes(tmp_path: Path) -> None:
    headers = JSON + b"content-encoding: Identity\r\n"
    async with staged(tmp_path, [answer(ANSWER, headers=headers)]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.body) == (200, ANSWER)


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed_and_not_passed_on(tmp_path: Path, status: int) -> None:
    where = b"location: http://169.254.169.254/latest\r\n"
    async with staged(
        tmp_path, [answer(b"" if status == 304 else b"{}", status=status, headers=where)]
    ) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (502, "upstream_error")
        assert b"location" not in response.headers
        assert stage.upstream.connections == 1


NO_ANSWERS: dict[str, Play] = {
    "empty": [answer(b"", headers=JSON)],
    "blank": [answer(b" \n", headers=JSON)],
    "no-content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "html": [answer(b"<html></html>")],
    "half": [answer(ANSWER[:-1], headers=JSON)],
    "two": [answer(ANSWER * 2, headers=JSON)],
    "events": [answer(b"data: {}\n\ndata: [DONE]\n\n", headers=JSON)],
    "compressed": [answer(b"\x1f\x8b\x08", headers=JSON + b"content-encoding: gzip\r\n")],
    "deep": [answer(b"[" * 200_000, headers=JSON)],
    "empty-chunked": [b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n"],
    "empty-closed": [CLOSE_DELIMITED, Cut()],
    "empty-stream": [stream_head() + b"0\r\n\r\n"],
    "not-http": [b"220 smtp ready\r\n"],
    "http-0.9": [b"{}", Cut()],
    "head-too-long": [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000, Stall()],
    "two-lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"],
    "length-and-chunks": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + CHUNKED + b"\r\n{}"],
    "bad-chunk": [b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\nzz\r\n{}\r\n"],
    "other-protocol": [b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
    "only-interim": [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", Cut()],
    "folded": [b"HTTP/1.1 200 OK\r\ncontent-type: a\r\n b: c\r\ncontent-length: 2\r\n\r\n{}"],
    "control": [b"HTTP/1.1 200 OK\r\ncontent-type: a\x00b\r\ncontent-length: 2\r\n\r\n{}"],
    "bare-cr": [b"HTTP/1.1 200 OK\r\ncontent-type: a\rx: y\r\ncontent-length: 2\r\n\r\n{}"],
}


@pytest.mark.parametrize("play", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_is_not_passed_on_as_one(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat())
        error = error_of(response)
        assert response.status == 502
        assert error["code"] in ("upstream_error", "upstream_unreachable")
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.status, call.end.outcome) == (502, "upstream_error")


FRAMED = {
    "sized": answer(ANSWER, headers=JSON),
    "chunked": in_chunks(ANSWER, 60),
    "close-delimited": CLOSE_DELIMITED + ANSWER,
}


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("said", FRAMED.values(), ids=FRAMED)
async def test_a_plain_answer_cut_anywhere_is_never_a_clean_one(
    tmp_path: Path, said: bytes, ending: Cut | Reset
) -> None:
    """SC-006: every byte of it."""
    async with staged(tmp_path, [Stall()]) as stage, stage.connected() as client:
        for end in range(len(said)):
            stage.upstream.plays = [[said[:end], ending]]
            await client.send(stage.chat())
            response = await shown(client)
            assert (response.status, response.whole) == (502, True), end
        calls = await stage.calls(len(said))
        assert {call.end and call.end.outcome for call in calls} == {"upstream_error"}


async def test_an_answer_that_was_reset_after_its_end_is_whole(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(ANSWER), Reset()]) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.body) == (200, ANSWER)


# ---- headers ---------------------------------------------------------------------------------


NOT_DOWN = (
    b"set-cookie: session=1\r\n"
    b"openai-organization: org-ours\r\n"
    b"openai-project: proj-ours\r\n"
    b"x-ratelimit-remaining-requests: 5\r\n"
    b"x-ratelimit-limit-tokens: 5\r\n"
    b"server: hidden\r\n"
    b"connection: x-hop\r\n"
    b"keep-alive: timeout=5\r\n"
    b"x-hop: 1\r\n"
    b"via: 1.1 hidden\r\n"
    b"alt-svc: h3\r\n"
    b"proxy-authenticate: Basic\r\n"
    b"www-authenticate: Bearer\r\n"
    b"x-llmrouter-deployment: theirs\r\n"
    b"x-request-id: theirs\r\n"
    b"strict-transport-security: max-age=1\r\n"
    b"access-control-allow-origin: *\r\n"
    b"date: then\r\n"
)
DOWN = b"Cache-Control: no-cache\r\nOpenAI-Model: m\r\nopenai-processing-ms: 12\r\n"


@pytest.mark.parametrize("status", [200, 429, 500])
async def test_only_known_headers_go_down(tmp_path: Path, status: int) -> None:
    said = answer(b"{}", status=status, headers=JSON + NOT_DOWN + DOWN)
    async with staged(tmp_path, [said]) as stage:
        response = await stage.ask(stage.chat())
        assert response.headers == {
            b"content-type": b"application/json",
            b"cache-control": b"no-cache",
            b"openai-model": b"m",
            b"openai-processing-ms": b"12",
            b"x-llmrouter-deployment": b"up/gpt-real",
            b"x-request-id": b"req_1",
            b"content-length": b"2",
        }


async def test_the_same_holds_for_streams(tmp_path: Path) -> None:
    head = stream_head(headers=b"content-type: text/event-stream\r\n" + NOT_DOWN + DOWN)
    async with staged(tmp_path, [head + chunked([b"data: [DONE]\n\n"])]) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert response.headers == {
            b"content-type": b"text/event-stream",
            b"cache-control": b"no-cache",
            b"openai-model": b"m",
            b"openai-processing-ms": b"12",
            b"x-llmrouter-deployment": b"up/gpt-real",
            b"x-request-id": b"req_1",
            b"transfer-encoding": b"chunked",
        }


# ---- long plain answers ----------------------------------------------------------------------


def long_answer(byte_count: int = 3 * PLAIN_BYTES_MAX) -> bytes:
    vector = b'{"embedding":[' + b"0.25," * 200 + b"1]}"
    vectors = b",".join([vector] * (byte_count // len(vector)))
    return b'{"data":[' + vectors + b'],"usage":{"prompt_tokens":9,"completion_tokens":4}}'


LONG = long_answer()
LONG_FRAMED: dict[str, Play] = {
    "sized": [answer(LONG, headers=JSON)],
    "chunked": [in_chunks(LONG, 60_000)],
    "close-delimited": [CLOSE_DELIMITED + LONG, Cut()],
}


@pytest.mark.parametrize("play", LONG_FRAMED.values(), ids=LONG_FRAMED)
async def test_a_long_plain_answer_passes_and_its_usage_is_read(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.whole) == (200, True)
        assert response.body == LONG
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.usage, call.end.estimated) == ("ok", USED, False)


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
@pytest.mark.parametrize("said", ["sized", "chunked", "close-delimited"])
@pytest.mark.parametrize("after", [b"0.25,", b"1]}", b"1]},", b"],", b'"usage"', b"9", b"4}"])
async def test_a_long_plain_answer_cut_anywhere_is_visibly_cut(
    tmp_path: Path, said: str, after: bytes, ending: Cut | Reset
) -> None:
    """SC-006: also where what came could be the end, and no framing says that it is not."""
    whole = LONG_FRAMED[said][0]
    assert isinstance(whole, bytes)
    part = whole[: whole.rindex(after) + len(after)]
    async with staged(tmp_path, [part, ending]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        response = await shown(client)
        assert not (response.status == 200 and response.whole)
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "upstream_error"
        if response.status == 200:  # most of it has passed
            assert call.end.estimated
            assert call.end.usage.output_tokens == FIRST_OUTPUT
        else:
            assert call.end.usage == Usage()


@pytest.mark.parametrize("text", [b"1", b"x", b" "], ids=["number", "words", "white"])
async def test_a_long_answer_without_any_bracket_is_never_ended_as_whole(
    tmp_path: Path, text: bytes
) -> None:
    """SC-006: only a close ends it, and nothing in it says that this is its end."""
    play: Play = [CLOSE_DELIMITED + text * (2 * PLAIN_BYTES_MAX), Cut()]
    async with staged(tmp_path, play) as stage:
        response = await stage.ask(stage.chat())
        assert not (response.status == 200 and response.whole)
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "upstream_error"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_long_plain_answer_that_was_cut_ends_in_a_reset_where_nothing_else_shows_it(
    tmp_path: Path, version: bytes
) -> None:
    part = answer(LONG, headers=JSON)[: 2 * PLAIN_BYTES_MAX]
    async with staged(tmp_path, [part, Cut()]) as stage, stage.connected() as client:
        await client.send(stage.chat().replace(b"HTTP/1.1", b"HTTP/" + version))
        sent = await client.read_all()
        if version == b"1.0":
            assert client.ending is Ending.RESET
        else:
            assert client.ending is Ending.CLOSED
            assert not sent.endswith(b"0\r\n\r\n")


async def test_a_long_plain_answer_is_not_held_in_memory(tmp_path: Path) -> None:
    count = 30
    head = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n"
    piece = b"%x\r\n%b\r\n" % (PLAIN_BYTES_MAX, b" " * PLAIN_BYTES_MAX)
    play = [head, *[piece] * count, chunked([ANSWER])]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        tracemalloc.start()
        try:
            await client.send(stage.chat())
            await client.read_until(b"\r\n\r\n")
            while ANSWER[-20:] not in await client.read():
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.usage == USED
        assert peak < 8 * PLAIN_BYTES_MAX


async def test_a_long_plain_answer_waits_for_a_slow_reader(tmp_path: Path) -> None:
    count = 64
    pieces = [b"%x\r\n%b\r\n" % (PLAIN_BYTES_MAX, b" " * PLAIN_BYTES_MAX)] * count
    all_sent = Reached()
    head = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n"
    play: Play = [head, *pieces, Wait(all_sent), Stall()]
    async with (
        staged(tmp_path, play, send_buffer_bytes=65_536) as stage,
        stage.connected(receive_buffer_bytes=4096) as client,
    ):
        tracemalloc.start()
        try:
            await client.send(stage.chat())
            await client.read_until(b"\r\n\r\n")
            await stage.upstream_paused()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not all_sent.is_set()
        assert held < 8 * PLAIN_BYTES_MAX
        client.reset()
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.outcome == "client_gone"


# ---- answers that nobody can be given any more -----------------------------------------------


ENDED: dict[str, tuple[Play, bytes]] = {
    "plain": ([], answer(ANSWER, headers=JSON)),
    "error": ([], answer(b"{}", status=500, headers=JSON)),
    "stream": ([], stream(b"data: {}\n\n", b"data: [DONE]\n\n")),
    "stream-begun": (
        [stream_head(), chunk(b"data: {}\n\n")],
        chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["aborted-after", "aborted-before"])
@pytest.mark.parametrize(("begun", "rest"), ENDED.values(), ids=ENDED)
async def test_the_server_may_be_aborted_in_the_turn_in_which_an_answer_ends(
    tmp_path: Path, begun: Play, rest: bytes, at_once: bool
) -> None:
    """Nothing fails that nobody looks at: see `no_leaks`."""
    never = Wait(asyncio.Event())
    async with staged(tmp_path, [*begun, never]) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
        if begun:
            await client.read_until(b"data: {}\n\n")
        (asked,) = stage.upstreams["up"].pool._open
        if at_once:
            asked.data_received(rest)
            stage.server.abort()
        else:
            stage.server.abort()
            asked.data_received(rest)
        await stage.server.emptied()
        assert len(await stage.calls()) == 1


EVENT_OF_ECHO = b"data: %b\n\n" % ECHO
LATE_ECHOES: dict[str, tuple[bytes, bytes]] = {
    "a later event": (
        stream_head() + chunk(b"data: {}\n\n"),
        chunk(EVENT_OF_ECHO) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ),
    "an event in two reads": (
        stream_head() + chunk(b"data: {}\n\n" + EVENT_OF_ECHO[:30]),
        chunk(EVENT_OF_ECHO[30:]) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ),
    "the end of a long answer": (
        answer(LONG_ECHO, headers=JSON)[:-1000],
        answer(LONG_ECHO, headers=JSON)[-1000:],
    ),
}


@pytest.mark.parametrize("said", LATE_ECHOES.values(), ids=LATE_ECHOES)
async def test_an_answer_that_has_begun_is_cut_before_our_credential(
    tmp_path: Path, said: tuple[bytes, bytes]
) -> None:
    """SC-002: it ends visibly incomplete, and in a stream with an error."""
    go_on = asyncio.Event()
    async with staged(tmp_path, [said[0], Wait(go_on), said[1]]) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=said[0].startswith(stream_head())))
            sent = await client.read()
            go_on.set()
            sent += await client.read_all()
        assert sent.startswith(b"HTTP/1.1 200 ")
        assert CREDENTIAL.encode() not in sent
        assert not sent.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in sent
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.error_code) == ("upstream_error", "upstream_error")


async def test_a_header_that_shows_our_credential_is_not_passed_on(tmp_path: Path) -> None:
    said = answer(ANSWER, headers=JSON + b"openai-model: %b\r\n" % CREDENTIAL.encode())
    async with staged(tmp_path, [said]) as stage, stage.connected() as client:
        await client.send(stage.chat(b"connection: close"))
        sent = await client.read_all()
        assert sent.startswith(b"HTTP/1.1 502 ")
        assert CREDENTIAL.encode() not in sent
