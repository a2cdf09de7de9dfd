"""What upstreams play in tests of attempts: answers that tell who gave them, and every way to fail.

Whatever a failing play says has FIRST in it, so that it can be looked for in what a caller gets.
"""

import asyncio
from typing import Any, Literal, NamedTuple

import msgspec

from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.prices import Price
from llmrouter.routing.routes import Policy
from tests.support.gateway import At
from tests.support.upstream import (
    Cut,
    Play,
    Reset,
    Stall,
    answer,
    chunk,
    stream,
    stream_head,
)

PROMPT_TOKENS, OUTPUT_TOKENS = 30, 20
"""What each answer says that it used."""
USED = PROMPT_TOKENS + OUTPUT_TOKENS
HASTY = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
"""Time-outs of an upstream that never says anything."""
BOTH = (At("up"), At("up2"))
TWICE = Policy(attempts_max=2, repeats_share=1.0)
_USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
_MARK = b"openai-version: FIRST\r\nx-request-id: FIRST\r\n"


def event(document: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def delta(**members: Any) -> bytes:
    """An event with one choice."""
    return event({"choices": [{"index": 0, "delta": members}]})


ROLE = delta(role="assistant", content="")
END = event({"choices": [], "usage": _USAGE})
DONE = b"data: [DONE]\n\n"


def plain(text: str = "second", *, finish: str = "stop", headers: bytes = b"") -> bytes:
    """A plain answer."""
    choice = {"message": {"content": text}, "finish_reason": finish}
    return answer(msgspec.json.encode({"choices": [choice], "usage": _USAGE}), headers=headers)


def streamed(text: str = "second") -> bytes:
    """A streamed answer."""
    return stream(ROLE, delta(content=text), END, DONE)


def said(text: str = "second", *, stream: bool) -> bytes:
    """An answer of either kind."""
    return streamed(text) if stream else plain(text)


def refusing(status: int, code: str | None = None, headers: bytes = b"") -> bytes:
    """An error of an upstream's own."""
    body = msgspec.json.encode({"error": {"message": "FIRST", "type": "any", "code": code}})
    return answer(body, status=status, headers=_MARK + headers)


class Delay(asyncio.Event):
    """For a `Wait` that ends after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def wait(self) -> Literal[True]:
        await asyncio.sleep(self._seconds)
        return True


class Fault(NamedTuple):
    """One way to give no answer."""

    play: Play
    code: str = "upstream_error"
    """What its caller would be told."""
    is_silent: bool = False
    """So it may be billed."""


_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + _MARK
HALF = stream_head(headers=b"content-type: text/event-stream\r\n" + _MARK)
GZIP = b"content-encoding: gzip\r\n"
EITHER: dict[str, Fault] = {
    "500": Fault([refusing(500)]),
    "503": Fault([refusing(503)]),
    "529": Fault([refusing(529)]),
    "408": Fault([refusing(408)]),
    "429": Fault([refusing(429, headers=b"retry-after: 30\r\n")]),
    "401": Fault([refusing(401)]),
    "402": Fault([refusing(402)]),
    "403": Fault([refusing(403)]),
    "404": Fault([refusing(404, "model_not_found")]),
    "reset": Fault([Reset()], "upstream_unreachable"),
    "closed": Fault([Cut()], "upstream_unreachable"),
    "half-head": Fault([b"HTTP/1.1 200 OK\r\nx-fir", Cut()], "upstream_unreachable"),
    "no-http": Fault([b"SSH-2.0-FIRST\r\n\r\n"]),
    "redirect": Fault([answer(b"FIRST", status=307, headers=b"location: http://x.test/\r\n")]),
    "coded": Fault([answer(b"FIRST", headers=GZIP + _MARK)]),
    "malformed": Fault([answer(b'{"choices":[{"message":{"content":"FIRST', headers=_MARK)]),
    "page": Fault([answer(b"<html>FIRST", headers=b"content-type: text/html\r\n")]),
    "cut-error": Fault([refusing(500)[:-1], Cut()], "upstream_unreachable"),
    "silent": Fault([Stall()], "upstream_timeout", is_silent=True),
    "silent-head": Fault([HALF, Stall()], "upstream_timeout", is_silent=True),
}
PLAIN: dict[str, Fault] = {
    **EITHER,
    "cut": Fault([plain("FIRST")[:-1], Cut()], "upstream_unreachable"),
    "reset-within": Fault([plain("FIRST")[:-1], Reset()], "upstream_unreachable"),
}
STREAMED: dict[str, Fault] = {
    **EITHER,
    "head": Fault([HALF, Cut()], "upstream_unreachable"),
    "role-cut": Fault([HALF, chunk(ROLE), Cut()], "upstream_unreachable"),
    "role-reset": Fault([HALF, chunk(ROLE), Reset()], "upstream_unreachable"),
    "role-ended": Fault([_SSE + b"\r\n" + ROLE, Cut()]),
    "role-silent": Fault([HALF, chunk(ROLE), Stall()], "upstream_timeout", is_silent=True),
    "pings-silent": Fault([HALF, chunk(b": ping\n\n"), Stall()], "upstream_timeout", True),
    "error-event": Fault([HALF, chunk(event({"error": {"message": "FIRST"}})), Stall()]),
    "malformed-event": Fault([HALF, chunk(b'data: {"choices":[{"FIRST\n\n'), Stall()]),
    "half-event": Fault([HALF, chunk(b'data: {"choices":[{"FIRST'), Cut()], "upstream_unreachable"),
    "empty": Fault([stream(b"")]),
}
CASES = [
    *[(name, fault, False) for name, fault in PLAIN.items()],
    *[(name, fault, True) for name, fault in STREAMED.items()],
]
NAMES = [f"{name}-{'streamed' if stream else 'plain'}" for name, _, stream in CASES]
CHEAP, DEAR = Price.of_usd(1, 1, 1), Price.of_usd(10, 10, 10)
CHEAP_NANO, DEAR_NANO = 1_000, 10_000
"""What a token costs at these."""
