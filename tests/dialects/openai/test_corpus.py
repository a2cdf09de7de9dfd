"""Every recorded call of an OpenAI-shaped API, read a second time by a plain reader.

Not the reader's mirror image: it knows nothing but the shapes, and decodes whole documents.
"""

from collections.abc import Iterator
from functools import cache
from json import JSONDecoder

import pytest

from llmrouter.contracts.call import Operation, Usage
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import InvalidJson, UnsupportedParameter, UpstreamError
from llmrouter.http1 import sse
from tests.dialects.recorded import Exchange, blocks, call, corpus

ENDINGS = {
    "/chat/completions": Operation.CHAT,
    "/completions": Operation.COMPLETION,
    "/embeddings": Operation.EMBEDDING,
    "/responses": Operation.RESPONSE,
}
OVERHEAD_TOKENS_MAX = 1_024
"""What servers put around a prompt: the recorded ones up to 331 tokens, with tools."""
SEARCHES_BY_ITSELF = "compound-beta"
"""A model that adds what it finds to the prompt, whoever asks."""
TERMINAL = ("response.completed", "response.incomplete", "response.failed")

parse = JSONDecoder().decode
dialect = OpenAI()


def operation_of(uri: str) -> Operation | None:
    path = uri.partition("?")[0]
    return next((found for ending, found in ENDINGS.items() if path.endswith(ending)), None)


@cache
def recorded() -> list[tuple[Operation, Exchange]]:
    """Those of the recorded exchanges that are calls in this dialect."""
    found = ((operation_of(exchange.uri), exchange) for exchange in corpus())
    return [(operation, exchange) for operation, exchange in found if operation is not None]


def is_in_background(exchange: Exchange) -> bool:
    return bool(exchange.request) and parse(exchange.request.decode()).get("background") is True


@cache
def calls() -> list[tuple[Operation, Exchange]]:
    """Those that are served here."""
    return [each for each in recorded() if not is_in_background(each[1])]


def answered(*, stream: bool) -> Iterator[tuple[Operation, Exchange]]:
    return (
        (operation, exchange)
        for operation, exchange in calls()
        if exchange.status == 200 and exchange.is_stream is stream
    )


def count(*values: object) -> int:
    return next((value for value in values if isinstance(value, int) and value), 0)


def reference(told: dict[str, object] | None) -> Usage | None:
    """What a document's `usage` says."""
    if not told:
        return None
    details: dict[str, object] = {}
    for name, inner in told.items():
        if name.endswith("_details") and isinstance(inner, dict):
            details |= inner
    prompt = count(told.get("prompt_tokens"), told.get("input_tokens"))
    output = count(told.get("completion_tokens"), told.get("output_tokens"))
    output = max(output, count(told.get("total_tokens")) - prompt)
    elsewhere = [told.get(name) for name in ("num_cached_tokens", "cached_tokens")]
    cost = told.get("cost")
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=count(details.get("cached_tokens"), *elsewhere),
        output_tokens=output,
        reasoning_tokens=min(count(details.get("reasoning_tokens")), output),
        cost_nano_usd=round(cost * 1e9) if isinstance(cost, int | float) else None,
    )


def documents(stream: bytes) -> Iterator[tuple[bytes, dict[str, object]]]:
    """Each event, and what it carries; an empty document where it carries none."""
    for event in sse.events(stream):
        data = [line[5:] for line in event.decode().splitlines() if line.startswith("data:")]
        text = "\n".join(data).strip()
        yield event, parse(text) if text.startswith("{") else {}


def usage_in(document: dict[str, object]) -> Usage | None:
    response = document.get("response")
    inner = response if isinstance(response, dict) else document
    return reference(inner.get("usage"))  # type: ignore[arg-type]  # a document is what it is


def ends(event: bytes, document: dict[str, object]) -> bool:
    return document.get("type") in TERMINAL or event.strip() == b"data: [DONE]"


def test_there_is_something_to_read() -> None:
    assert sum(1 for _ in answered(stream=False)) > 600
    assert sum(1 for _ in answered(stream=True)) > 150


def test_every_recorded_call_is_read_and_written_for_another_model() -> None:
    """FR-002: tools, pictures, JSON mode and all that we know nothing of."""
    for operation, exchange in calls():
        body = exchange.request
        if not body:
            continue
        document = parse(body.decode())
        read = dialect.read_call(operation, body)
        sent = parse(dialect.upstream_body(read, "another").decode())

        assert (read.model, read.stream) == (document["model"], bool(document.get("stream")))
        options = {"include_usage": True}
        if read.stream and operation in (Operation.CHAT, Operation.COMPLETION):
            document["stream_options"] = {**document.get("stream_options", {}), **options}
        assert sent == {**document, "model": "another"}
        assert dialect.upstream_body(read, read.model).startswith(body[: body.rindex(b"}")])


def test_recorded_calls_in_the_background_are_refused() -> None:
    """FR-003: nobody here would ever hear what they used."""
    refused = [each for each in recorded() if is_in_background(each[1])]
    assert refused
    for operation, exchange in refused:
        with pytest.raises(UnsupportedParameter):
            dialect.read_call(operation, exchange.request)


def limit_in(operation: Operation, document: dict[str, object]) -> int | None:
    """What a document allows each of its choices; the recorded ones say it once at most."""
    if operation is Operation.EMBEDDING:
        return 0
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    found = (document.get(name) for name in names)
    return next((value for value in found if isinstance(value, int)), None)


def test_what_every_recorded_call_may_say_is_what_a_plain_reader_finds() -> None:
    """FR-003."""
    limited = 0
    for operation, exchange in calls():
        if not exchange.request:
            continue
        document = parse(exchange.request.decode())
        read = dialect.read_call(operation, exchange.request)
        prompt = document.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
        choices = (document.get("n") or 1) * prompts
        limit = limit_in(operation, document)

        assert read.choices == choices, exchange.file
        assert read.output_max == (None if limit is None else limit * choices), exchange.file
        limited += bool(limit)
    assert limited > 40


def used(operation: Operation, exchange: Exchange) -> Usage | None:
    if not exchange.is_stream:
        return dialect.read_usage(exchange.answer)
    tap = dialect.tap(call(operation))
    tap.feed(exchange.answer)
    return tap.usage


def test_every_recorded_answer_is_within_what_its_call_bounds() -> None:
    """FR-003: what a strict budget holds was never used up by real servers."""
    held = 0
    for operation, exchange in [*answered(stream=False), *answered(stream=True)]:
        if not exchange.request or (usage := used(operation, exchange)) is None:
            continue
        read = dialect.read_call(operation, exchange.request)
        if read.output_max is not None:
            assert usage.output_tokens <= read.output_max, exchange.file
        if dialect.is_prompt_bounded(read) and read.model != SEARCHES_BY_ITSELF:
            assert usage.prompt_tokens <= len(read.body) + OVERHEAD_TOKENS_MAX, exchange.file
            held += 1
    assert held > 600


def refers_elsewhere(value: object) -> bool:
    """A walk over the whole document, for what no text is."""
    match value:
        case dict():
            kind = value.get("type")
            return (
                (isinstance(kind, str) and kind.endswith(("_url", "_image", "_file", "_search")))
                or any(value.get(name) for name in ("previous_response_id", "conversation"))
                or any(map(refers_elsewhere, value.values()))
            )
        case list():
            return any(map(refers_elsewhere, value))
        case _:
            return False


def test_no_recorded_call_that_refers_elsewhere_is_bounded() -> None:
    """FR-003."""
    unbounded = 0
    for operation, exchange in calls():
        if exchange.request and refers_elsewhere(parse(exchange.request.decode())):
            read = dialect.read_call(operation, exchange.request)
            assert not dialect.is_prompt_bounded(read), exchange.file
            unbounded += 1
    assert unbounded > 40


def test_no_recorded_call_is_read_where_it_was_cut() -> None:
    for operation, exchange in calls():
        body = exchange.request
        for cut in (1, len(body) // 2, len(body) - 1):
            with pytest.raises(InvalidJson):
                dialect.read_call(operation, body[:cut])


def test_usage_of_every_recorded_plain_answer_is_what_a_plain_reader_finds() -> None:
    """FR-004, SC-005."""
    for _, exchange in answered(stream=False):
        document = parse(exchange.answer.decode())
        expected = reference(document.get("usage"))

        assert dialect.read_usage(exchange.answer) == expected, exchange.file
        if list(document)[-1] == "usage":
            assert dialect.read_usage_tail(exchange.answer[-4096:]) == expected, exchange.file


def test_no_recorded_plain_answer_is_whole_where_it_was_cut() -> None:
    for _, exchange in answered(stream=False):
        whole = exchange.answer.rstrip()
        for cut in {*range(0, len(whole), 997), len(whole) // 2, len(whole) - 1}:
            with pytest.raises(UpstreamError):
                dialect.read_usage(whole[:cut])


@pytest.mark.parametrize("wants_usage", [True, False])
def test_every_recorded_stream_passes_but_for_its_usage_event(wants_usage: bool) -> None:
    """FR-004: fed event by event, in blocks, and whole."""
    for seed, (operation, exchange) in enumerate(answered(stream=True)):
        found = list(documents(exchange.answer))
        kept = b"".join(
            event
            for event, document in found
            if wants_usage or not (document.get("usage") and document.get("choices") == [])
        )
        usages = [usage for _, document in found if (usage := usage_in(document))]
        whole = any(ends(*one) for one in found)
        events = [event for event, _ in found]
        for fed in (events, blocks(exchange.answer, seed), [exchange.answer]):
            tap = dialect.tap(call(operation, wants_usage=wants_usage))

            assert b"".join(map(tap.feed, fed)) == kept, exchange.file
            assert tap.usage == (usages[-1] if usages else None), exchange.file
            assert tap.complete is whole, exchange.file


def test_every_recorded_stream_is_complete_at_its_end_and_not_before() -> None:
    """A cut answer is never passed off as whole."""
    for operation, exchange in answered(stream=True):
        tap = dialect.tap(call(operation))
        ended = False
        for event, document in documents(exchange.answer):
            tap.feed(event)
            ended = ended or ends(event, document)
            assert tap.complete is ended, exchange.file


def test_recorded_streams_that_broke_are_not_complete() -> None:
    """Two of them end in an error event, and one caller of ours must not take that for an end."""
    broken = [
        exchange for _, exchange in answered(stream=True) if b"event: error" in exchange.answer
    ]
    assert broken
    for exchange in broken:
        tap = dialect.tap(call(Operation.CHAT))
        tap.feed(exchange.answer)
        assert not tap.complete


HELD_EVENTS_MAX = {Operation.CHAT: 2, Operation.COMPLETION: 0, Operation.RESPONSE: 4}
"""What the recorded servers send before the first of an answer, comments aside."""


def test_every_recorded_stream_opens_soon() -> None:
    """Only announcements are held back, and at the most so many."""
    held = dict.fromkeys(HELD_EVENTS_MAX, 0)
    for operation, exchange in answered(stream=True):
        events = [event for event, document in documents(exchange.answer) if document]
        opening = next(at for at, one in enumerate(events) if dialect.opens(operation, one))
        held[operation] = max(held[operation], opening)

        assert not dialect.opens(operation, b"".join(events[:opening])), exchange.file
        assert dialect.opens(operation, exchange.answer), exchange.file
    assert held == HELD_EVENTS_MAX


def test_no_recorded_refusal_is_taken_for_one_that_another_model_may_accept() -> None:
    """None of them is about the length of a prompt or a filter, whatever their words are."""
    refusals = [exchange for _, exchange in recorded() if exchange.status >= 400]
    assert len(refusals) > 10
    assert not any(dialect.objection(exchange.answer) for exchange in refusals)


def test_every_recorded_answer_that_was_filtered_says_so() -> None:
    filtered = [one for _, one in answered(stream=False) if dialect.is_filtered(one.answer)]
    for _, exchange in answered(stream=False):
        document = parse(exchange.answer.decode())
        choices = document.get("choices") or []
        reasons = [choice.get("finish_reason") for choice in choices]
        reasons.append((document.get("incomplete_details") or {}).get("reason"))

        assert (exchange in filtered) is ("content_filter" in reasons), exchange.file


def test_the_turns_of_a_recorded_conversation_are_one_conversation() -> None:
    """A call whose messages go on from another's belongs to it."""
    begun: dict[str, bytes] = {}
    continued = 0
    for operation, exchange in calls():
        if operation is not Operation.CHAT or not exchange.request:
            continue
        messages = parse(exchange.request.decode())["messages"]
        named = dialect.conversation(dialect.read_call(operation, exchange.request))
        for end in range(1, len(messages)):
            if (first := begun.get(str(messages[:end]))) is not None:
                assert named == first, exchange.file
                continued += 1
        if any(message["role"] == "user" for message in messages):
            begun[str(messages)] = named
    assert continued > 20
