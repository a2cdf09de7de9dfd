import asyncio

import pytest

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.upstream import Upstream, UpstreamTerms
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.request import Request
from tests.support.gateway import CREDENTIAL, PATIENT

pytestmark = pytest.mark.asyncio


def upstream(
    url: str = "https://api.example.com/v1",
    *,
    secret: str | None = CREDENTIAL,
    also_passes: frozenset[bytes] = frozenset(),
) -> Upstream:
    pool = Pool(Origin.from_url(url), Deadlines(asyncio.get_running_loop(), 1))
    terms = UpstreamTerms(timeouts=PATIENT, also_passes=also_passes)
    return Upstream("up", OpenAI(), pool, terms, secret=secret)


def request(**headers: bytes) -> Request:
    made = Request(b"/v1/chat/completions")
    made.headers = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return made


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("https://api.example.com/v1", b"/v1/chat/completions", b"api.example.com"),
        ("https://api.example.com/v1/", b"/v1/chat/completions", b"api.example.com"),
        ("http://127.0.0.1:8000", b"/chat/completions", b"127.0.0.1:8000"),
        ("http://[::1]:8000/a/b", b"/a/b/chat/completions", b"[::1]:8000"),
    ],
)
async def test_a_head_is_addressed_to_its_host(url: str, target: bytes, host: bytes) -> None:
    lines = upstream(url).request_head(Operation.CHAT, request(), 7).split(b"\r\n")
    assert lines[0] == b"POST %b HTTP/1.1" % target
    assert b"host: " + host in lines
    assert lines[-3:] == [b"content-length: 7", b"", b""]


async def test_each_operation_has_a_path_of_its_own() -> None:
    up = upstream()
    targets = [up.request_head(op, request(), 0).split(b" ")[1] for op in (*Operation, *Operation)]
    assert targets[: len(Operation)] == targets[len(Operation) :]
    assert len(set(targets)) == len(Operation)


async def test_only_listed_headers_pass_and_ours_cannot_be_replaced() -> None:
    asked = request(
        authorization=b"Bearer sk-callers",
        host=b"evil.test",
        content_length=b"99",
        accept_encoding=b"gzip",
        cookie=b"a=b",
        user_agent=b"them",
        content_type=b"application/json; charset=utf-16",
        idempotency_key=b"once",
    )
    head = upstream().request_head(Operation.CHAT, asked, 7)
    lines = head.split(b"\r\n")[1:-2]
    assert sorted(lines) == [
        b"accept-encoding: identity",
        b"authorization: Bearer " + CREDENTIAL.encode(),
        b"content-length: 7",
        b"content-type: application/json",
        b"host: api.example.com",
        b"user-agent: them",
    ]


async def test_an_upstream_without_credential_gets_none() -> None:
    head = upstream(secret=None).request_head(
        Operation.CHAT, request(authorization=b"Bearer sk-callers"), 0
    )
    assert b"authorization" not in head


async def test_headers_named_for_it_pass_too() -> None:
    asked = request(x_trace=b"1", x_other=b"2")
    head = upstream(also_passes=frozenset({b"x-trace"})).request_head(Operation.CHAT, asked, 0)
    assert b"\r\nx-trace: 1\r\n" in head
    assert b"x-other" not in head


async def test_it_knows_its_own_credential_in_what_it_is_shown() -> None:
    shown = b'{"key": "%b"}' % CREDENTIAL.encode()
    assert upstream().is_given_away_by(shown)
    assert not upstream().is_given_away_by(shown[:-3])
    assert not upstream(secret=None).is_given_away_by(shown)


async def test_its_repr_shows_no_credential() -> None:
    assert repr(upstream()) == "<Upstream up <Pool <Origin api.example.com:443> open=0 idle=0>>"
