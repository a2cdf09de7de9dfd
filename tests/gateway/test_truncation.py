"""Recorded answers, cut at every byte in every framing: what was cut never looks whole.

One deployment stands alone, so that nothing is hidden by another attempt.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from llmrouter.access.policy import ModelPolicy
from llmrouter.gateway import reply
from llmrouter.gateway.route import Router
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Policy, Route, Routes
from llmrouter.routing.strategy import Ordered
from tests.dialects.recorded import Sample, samples
from tests.support.gateway import Stage, request, staged
from tests.support.raw import Response, chunked
from tests.support.upstream import Cut, Reset

pytestmark = pytest.mark.asyncio

Framing = Literal["sized", "chunked", "closing"]
RECORDED = {sample.name: sample for sample in samples("openai")}
PLAIN = RECORDED["chat-image-usage-first"]
STREAMED = RECORDED["chat-stream-comments"]
DONE = b"data: [DONE]\n\n"
NEVER_OPENS = BreakerTerms(failures=10**9, error_rate=2.0)
FRAMINGS = pytest.mark.parametrize("framing", ["sized", "chunked", "closing"])
ENDINGS = pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["fin", "rst"])
STRIDE = 7
"""Of the ordinary run, where not every byte is cut; it meets all phases of lines and of chunks."""


class Wire(NamedTuple):
    """An answer as the upstream sends it."""

    bytes: bytes
    matters: int
    """So many of its bytes are needed for the whole answer."""


def wire(sample: Sample, framing: Framing) -> Wire:
    body = sample.answer
    kind = b"text/event-stream" if sample.stream else b"application/json"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind
    if framing == "sized":
        sent = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    elif framing == "closing":
        sent = head + b"connection: close\r\n\r\n" + body
    else:
        pieces = body.split(b"\n\n") if sample.stream else [body[:100], body[100:]]
        ended = b"\n\n" if sample.stream else b""
        sent = head + b"transfer-encoding: chunked\r\n\r\n"
        sent += chunked([piece + ended for piece in pieces if piece])
    end = DONE if sample.stream else b"}"
    return Wire(sent, sent.rindex(end) + len(end))


def only_one() -> Router:
    """One deployment, no second attempt, and no end of its patience."""
    condition = Condition("up/m", NEVER_OPENS, now_s=0.0)
    deployment = Deployment(upstream="up", model="m", condition=condition)
    route = Route("gpt", [deployment], Ordered, policy=Policy(attempts_max=1))
    return Router(Routes([route]), ModelPolicy({}, {}))


async def answered(stage: Stage, sample: Sample, *play: bytes | Cut | Reset) -> Response:
    """The answer to the recorded call, when the upstream plays this."""
    stage.upstream.plays = [play]
    body = sample.request.replace(sample.model.encode(), b"gpt", 1)
    return await stage.ask(request(b"/v1/chat/completions", stage.key, body))


def looks_whole(sample: Sample, response: Response) -> bool:
    """Whether a caller takes it for the answer."""
    if response.status != 200:
        return False
    return DONE.strip() in response.body if sample.stream else response.whole


def assert_explicit(sample: Sample, response: Response, whole: Response) -> None:
    """An error that nobody can mistake for an answer; what passed before it was the answer's."""
    if response.status != 200:
        assert response.status in {502, 504}
        assert response.whole
        assert b'"error"' in response.body
        return
    assert sample.stream
    assert not response.whole
    passed, _, error = response.body.rpartition(b"data: ")
    assert b'"error"' in error
    assert error.endswith(b"\n\n")
    assert whole.body.startswith(passed)


@FRAMINGS
@ENDINGS
@pytest.mark.parametrize("sample", [PLAIN, STREAMED], ids=["plain", "streamed"])
@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.slow)])
async def test_an_answer_cut_at_any_byte_never_looks_whole(
    tmp_path: Path, framing: Framing, ending: Cut | Reset, sample: Sample, stride: int
) -> None:
    # Each way to end has its own share of the bytes, but the commonest of each kind has all.
    sent = wire(sample, framing)
    if isinstance(ending, Cut) and framing == ("chunked" if sample.stream else "sized"):
        stride = 1
    async with staged(tmp_path, router=only_one()) as stage:
        whole = await answered(stage, sample, sent.bytes, Cut())
        assert looks_whole(sample, whole)
        assert whole.whole
        for cut in range(0, len(sent.bytes), stride):
            response = await answered(stage, sample, sent.bytes[:cut], ending)
            if looks_whole(sample, response):
                assert cut >= sent.matters, (cut, response)
                assert response.whole
                assert response.body == whole.body
            else:
                assert_explicit(sample, response, whole)


@FRAMINGS
@ENDINGS
async def test_a_long_answer_that_is_passed_on_as_it_comes_is_cut_visibly(
    tmp_path: Path, framing: Framing, ending: Cut | Reset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is held back of an answer that is longer than may be held."""
    monkeypatch.setattr(reply, "PLAIN_BYTES_MAX", 50)
    sent = wire(PLAIN, framing)
    async with staged(tmp_path, router=only_one()) as stage:
        for cut in range(1, len(sent.bytes) + 1, STRIDE):
            response = await answered(stage, PLAIN, sent.bytes[:cut], ending)
            if looks_whole(PLAIN, response):
                assert cut >= sent.matters
                assert response.body == PLAIN.answer


@FRAMINGS
async def test_what_is_cut_is_booked_as_no_more_than_passed(
    tmp_path: Path, framing: Framing
) -> None:
    """At the end of each event of the stream: what passed is counted, and said to be a count."""
    sent = wire(STREAMED, framing)
    ends = [at for at in range(1, sent.matters) if sent.bytes[:at].endswith(b"\n\n")]
    async with staged(tmp_path, router=only_one()) as stage:
        for end in ends:
            await answered(stage, STREAMED, sent.bytes[:end], Cut())
        calls = await stage.calls(len(ends))
    for call in calls:
        assert call.end is not None
        assert call.end.outcome == "upstream_error"
        assert call.end.attempts == 1
        assert call.end.usage.output_tokens <= 5
