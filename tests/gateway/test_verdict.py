"""An attempt judged by what arrived, and what an upstream says to wait."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import (
    Overloaded,
    RouterError,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.upstream import Upstream, UpstreamTerms
from llmrouter.gateway.verdict import Failure, filtered, judge, retry_after_s, unreachable
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    ResponseError,
    ResponseTimeout,
)
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.routing.failure import FailureKind
from tests.support.gateway import CREDENTIAL, PATIENT, asking
from tests.support.idle import nothing_upstream
from tests.support.plays import ROLE, delta, event

SSE = {b"content-type": b"text/event-stream"}
NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)


def http(moment: datetime) -> bytes:
    return format_datetime(moment, usegmt=True).encode()


AFTER: list[tuple[dict[bytes, bytes], float | None]] = [
    ({}, None),
    ({b"retry-after": b"0"}, 0),
    ({b"retry-after": b"7"}, 7),
    ({b"retry-after": b" 7 "}, 7),
    ({b"retry-after": b"1.5"}, 1.5),
    ({b"retry-after": b"7."}, 7),
    ({b"retry-after": b"3600000"}, 3_600_000),
    ({b"retry-after-ms": b"1500"}, 1.5),
    ({b"retry-after-ms": b"20", b"retry-after": b"1"}, 0.02),
    ({b"retry-after-ms": b"soon", b"retry-after": b"1"}, 1),
    ({b"retry-after": b"-1"}, None),
    ({b"retry-after": b"+1"}, None),
    ({b"retry-after": b""}, None),
    ({b"retry-after": b"."}, None),
    ({b"retry-after": b"1.2.3"}, None),
    ({b"retry-after": b"1e9"}, None),
    ({b"retry-after": b"nan"}, None),
    ({b"retry-after": b"inf"}, None),
    ({b"retry-after": b"soon"}, None),
    ({b"retry-after": b"7, 8"}, None),
    ({b"retry-after": "²".encode("latin-1")}, None),
    ({b"retry-after": b"\xff\xfe"}, None),
    ({b"retry-after": http(NOW + timedelta(seconds=90)), b"date": http(NOW)}, 90),
    ({b"retry-after": http(NOW - timedelta(seconds=90)), b"date": http(NOW)}, 0),
    ({b"retry-after": http(NOW)}, None),
    ({b"retry-after": http(NOW), b"date": b"today"}, None),
    ({b"retry-after": b"Fri, 27 Nov 2026 08:00:00", b"date": http(NOW)}, None),
    ({b"retry-after": b"Fri, 27 Nov 99999 08:00:00 GMT", b"date": http(NOW)}, None),
    ({b"retry-after": b"Fri, 27 Nov 2026 08:00:00 +9999999999999999999", b"date": http(NOW)}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), AFTER)
def test_retry_after_is_read_in_every_form_and_nothing_is_read_into_it(
    headers: dict[bytes, bytes], seconds: float | None
) -> None:
    assert retry_after_s(headers) == seconds


def test_an_endless_number_is_a_long_time_and_no_more() -> None:
    found = retry_after_s({b"retry-after": b"9" * 5_000})
    assert found is not None
    assert found >= 10**9


PARTS = [
    "Fri, ",
    "27 Nov ",
    "2026 ",
    "08:00:00 ",
    "GMT",
    "+0000",
    "-99999999999",
    "1" * 30,
    ":",
    "é",
]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.booleans())
def test_no_date_of_an_upstream_is_a_fault_of_ours(text: str, is_date: bool) -> None:
    garbled = text.encode("latin-1")
    headers = {b"retry-after": http(NOW), b"date": http(NOW)}
    headers[b"date" if is_date else b"retry-after"] = garbled
    found = retry_after_s(headers)
    assert found is None or found >= 0


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_no_header_of_an_upstream_is_a_fault_of_ours(ms: bytes, after: bytes, date: bytes) -> None:
    found = retry_after_s({b"retry-after-ms": ms, b"retry-after": after, b"date": date})
    assert found is None or found >= 0


# ---- judging ---------------------------------------------------------------------------------


def a_reply(
    status: int = 200,
    body: bytes = b"",
    headers: dict[bytes, bytes] | None = None,
    *,
    ended: bool = True,
    error: HttpError | OSError | UpstreamError | None = None,
) -> Reply:
    dialect = OpenAI()
    reply = Reply(
        asyncio.get_running_loop(),
        nothing_upstream(),
        lambda block: dialect.opens(Operation.CHAT, block),
        lambda _: False,
    )
    if status:
        reply.response_head(status, headers or {})
    if body:
        reply.response_data(body)
    if error is not None:
        reply.fail(error)
    elif ended and reply.error is None:
        reply.response_end(framed=True)
    return reply


def error_body(code: str | None) -> bytes:
    return b'{"error":{"code":%b}}' % (b"null" if code is None else b'"%b"' % code.encode())


K = FailureKind
ZIP = {b"content-encoding": b"gzip"}
LONG = b"x" * 2_000_000
JUDGED: list[tuple[str, dict[str, Any], FailureKind | None]] = [
    ("answer", {"body": b"{}"}, None),
    ("answer-201", {"status": 201, "body": b"{}"}, None),
    ("identity", {"body": b"{}", "headers": {b"content-encoding": b"Identity"}}, None),
    ("long", {"body": LONG, "ended": False}, None),
    ("empty", {}, K.BROKEN),
    ("no-json", {"body": b"<html>"}, K.BROKEN),
    ("half-json", {"body": b'{"a":'}, K.BROKEN),
    ("gzip", {"body": b"{}", "headers": ZIP}, K.BROKEN),
    ("gzip-error", {"status": 400, "body": b"{}", "headers": ZIP}, K.BROKEN),
    ("secret", {"body": b'{"a":"%b"}' % CREDENTIAL.encode()}, K.BROKEN),
    ("secret-401", {"status": 401, "body": CREDENTIAL.encode()}, K.DISOWNED),
    ("secret-400", {"status": 400, "body": CREDENTIAL.encode()}, K.BROKEN),
    ("stream", {"headers": SSE, "body": ROLE + delta(content="x"), "ended": False}, None),
    ("stream-done", {"headers": SSE, "body": b"data: [DONE]\n\n"}, None),
    ("stream-empty", {"headers": SSE}, K.BROKEN),
    ("stream-role", {"headers": SSE, "body": ROLE}, K.BROKEN),
    ("stream-bad", {"headers": SSE, "body": b"data: {\n\n"}, K.BROKEN),
    ("stream-error", {"headers": SSE, "body": event({"error": {"code": "x"}})}, K.BROKEN),
    (
        "stream-too-long",
        {"headers": SSE, "body": event({"error": {"code": "context_length_exceeded"}})},
        K.TOO_LONG,
    ),
    (
        "stream-filtered",
        {"headers": SSE, "body": event({"error": {"code": "content_filter"}})},
        K.FILTERED,
    ),
    *[(f"{status}", {"status": status, "body": b"{}"}, kind) for status, kind in {
        300: K.BROKEN, 301: K.BROKEN, 304: K.BROKEN, 307: K.BROKEN,
        400: K.UNFIT, 405: K.UNFIT, 409: K.UNFIT, 413: K.UNFIT, 415: K.UNFIT, 418: K.UNFIT,
        422: K.UNFIT, 401: K.DISOWNED, 402: K.DISOWNED, 403: K.ABSENT, 404: K.ABSENT,
        408: K.BROKEN, 429: K.THROTTLED, 500: K.BROKEN, 501: K.BROKEN, 502: K.BROKEN,
        503: K.BROKEN, 504: K.BROKEN, 520: K.BROKEN, 529: K.BROKEN, 599: K.BROKEN,
    }.items()],
    ("too-long", {"status": 400, "body": error_body("context_length_exceeded")}, K.TOO_LONG),
    ("too-long-413", {"status": 413, "body": error_body("context_length_exceeded")}, K.TOO_LONG),
    ("filtered", {"status": 400, "body": error_body("content_filter")}, K.FILTERED),
    ("other-code", {"status": 400, "body": error_body("invalid_value")}, K.UNFIT),
    ("only-said", {"status": 400, "body": b'{"error":{"message":"content_filter"}}'}, K.UNFIT),
    ("500-says-so", {"status": 500, "body": error_body("content_filter")}, K.BROKEN),
    ("error-unended", {"status": 400, "body": LONG, "ended": False}, K.BROKEN),
    ("refused", {"status": 0, "error": ConnectError("refused")}, K.UNREACHABLE),
    ("connect-timeout", {"status": 0, "error": ConnectTimeout("late")}, K.UNREACHABLE),
    ("lost", {"status": 0, "error": ConnectionLost("lost", stale=False)}, K.LOST),
    ("lost-in-answer", {"body": b"{", "error": ConnectionLost("lost", stale=False)}, K.LOST),
    ("silent", {"status": 0, "error": ResponseTimeout("silent")}, K.SILENT),
    ("no-http", {"status": 0, "error": ResponseError("no HTTP")}, K.BROKEN),
]  # fmt: skip


def an_upstream() -> Upstream:
    """One that nothing is sent to."""
    deadlines = Deadlines(asyncio.get_running_loop(), 1)
    pool = Pool(Origin.from_url("http://up.test/v1"), deadlines)
    deadlines.close()
    return Upstream("up", OpenAI(), pool, UpstreamTerms(timeouts=PATIENT), secret=CREDENTIAL)


def judged(came: dict[str, Any]) -> Failure | None:
    call = OpenAI().read_call(Operation.CHAT, asking(stream=True))
    return judge(a_reply(**came), an_upstream(), call)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("came", "kind"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED]
)
async def test_an_attempt_is_judged_by_what_came(
    came: dict[str, Any], kind: FailureKind | None
) -> None:
    failure = judged(came)
    assert (failure and failure.kind) == kind
    assert CREDENTIAL not in str(failure and failure.error)


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 429, 500, 503, 529])
async def test_a_refusal_of_the_upstream_s_own_is_kept_for_the_caller(status: int) -> None:
    failure = judged({"status": status, "body": b"{}", "headers": {b"retry-after": b"7"}})
    assert failure is not None
    assert (failure.answer and failure.answer.body, failure.retry_after_s) == (b"{}", 7)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "came",
    [
        {"status": 401, "body": b"{}"},
        {"status": 402, "body": b"{}"},
        {"status": 400, "body": CREDENTIAL.encode()},
        {"status": 500, "body": b"{}", "headers": ZIP},
        {"status": 500, "body": LONG, "ended": False},
        {"status": 302, "body": b"{}"},
        {"body": b"{"},
    ],
)
async def test_what_the_caller_must_not_see_is_not_kept(came: dict[str, Any]) -> None:
    failure = judged(came)
    assert failure is not None
    assert failure.answer is None
    assert isinstance(failure.error, UpstreamError)


@pytest.mark.asyncio
async def test_a_journal_that_cannot_be_written_is_no_failure_of_the_upstream() -> None:
    with pytest.raises(Overloaded):
        judged({"status": 0, "error": OSError("no space")})


@pytest.mark.asyncio
async def test_the_usage_of_a_plain_answer_is_read_as_it_is_judged() -> None:
    reply = a_reply(body=b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    call = OpenAI().read_call(Operation.CHAT, asking())
    assert judge(reply, an_upstream(), call) is None
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.output_tokens) == (3, 4)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionLost("lost", stale=False), UpstreamUnreachable),
        (ResponseTimeout("silent"), UpstreamTimeout),
        (ResponseError("no HTTP"), UpstreamError),
    ],
)
async def test_what_broke_is_told_by_its_kind(error: HttpError, told: type[RouterError]) -> None:
    failure = judged({"status": 0, "error": error})
    assert failure is not None
    assert type(failure.error) is told
    assert "'up'" in str(failure.error)


@pytest.mark.asyncio
async def test_no_connection_is_a_failure_of_its_own_kind() -> None:
    failure = unreachable(ConnectError("refused"), an_upstream())
    assert (failure.kind, failure.error.code) == (K.UNREACHABLE, "upstream_unreachable")


@pytest.mark.asyncio
async def test_an_answer_that_a_filter_cut_is_kept_as_it_is() -> None:
    reply = a_reply(body=b'{"choices":[{"finish_reason":"content_filter"}]}')
    failure = filtered(reply, an_upstream())
    assert (failure.kind, failure.answer) == (K.FILTERED, reply)
