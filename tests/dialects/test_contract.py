"""What every dialect promises, held against each of them.

A dialect is one line of `DIALECTS`, and a folder of samples beside its own tests (see `recorded`).
"""

import pkgutil
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmrouter.dialects
from llmrouter.contracts.call import Operation, Usage
from llmrouter.contracts.dialect import Dialect, MalformedEvent, RefusedInStream
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import (
    CODES,
    InsufficientQuota,
    InvalidJson,
    InvalidRequest,
    LimitState,
    RouterError,
    UpstreamError,
)
from llmrouter.http1 import sse
from tests.dialects.recorded import Sample, blocks, call, samples

DIALECTS: dict[str, Dialect] = {
    "openai": OpenAI(),
}

SAMPLES = [sample for name in DIALECTS for sample in samples(name)]
PLAIN = [sample for sample in SAMPLES if not sample.stream]
STREAMS = [sample for sample in SAMPLES if sample.stream]

OURS_ALONE = {
    *(b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"proxy-authorization"),
    *(b"cookie", b"set-cookie", b"host", b"content-length", b"transfer-encoding", b"connection"),
    *(b"keep-alive", b"te", b"trailer", b"upgrade", b"expect", b"x-request-id", b"x-forwarded-for"),
    *(b"accept-encoding", b"openai-organization", b"openai-project"),
}
"""Headers that hold credentials, frame a message, or that we write ourselves."""

NASTY = 'no model "a\\b" \r\n\r\ndata: [DONE]\n\n\u2028 é'
"""What a message may hold."""

over_dialects = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
over_errors = pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.code)


def over(found: list[Sample]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sample", found, ids=lambda one: f"{one.dialect}:{one.name}")


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


def decoded(text: bytes) -> dict[str, object]:
    return msgspec.json.decode(text, type=dict[str, object])


def error_of(body: bytes) -> dict[str, object]:
    error = decoded(body)["error"]
    assert isinstance(error, dict)
    return error


def data_of(events: bytes) -> bytes:
    return b"".join(sse.data_of(event) or b"" for event in sse.events(events))


# ---- what it is called, and what belongs to it ---------------------------------------------------


def test_every_dialect_is_covered_here() -> None:
    assert {module.name for module in pkgutil.iter_modules(llmrouter.dialects.__path__)} == set(
        DIALECTS
    )
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


@over_dialects
def test_every_operation_of_a_dialect_has_a_sample(dialect: Dialect) -> None:
    sampled = {sample.operation for sample in samples(dialect.name)}

    assert sampled == set(dialect.paths.values())


@over_dialects
def test_paths_are_plain_and_distinct(dialect: Dialect) -> None:
    for path in (*dialect.paths, dialect.models_path):
        assert path.startswith(b"/")
        assert path.isascii()
        assert not set(path) & set(b"?# %")
    assert dialect.models_path not in dialect.paths
    assert len(set(dialect.paths.values())) == len(dialect.paths)


@over_dialects
def test_every_operation_has_a_path_upstream(dialect: Dialect) -> None:
    for operation in dialect.paths.values():
        assert dialect.upstream_path(operation).startswith(b"/")


@over_dialects
def test_no_header_passes_that_is_ours_alone(dialect: Dialect) -> None:
    """SC-002: a caller's key stays with us, and what an upstream tells about our account too."""
    passed = dialect.request_headers | dialect.response_headers

    assert not passed & OURS_ALONE
    assert not any(b"ratelimit" in name for name in passed)
    assert all(name == name.lower() for name in passed)
    assert b"content-type" in dialect.response_headers - dialect.request_headers


@over_dialects
def test_no_header_of_a_caller_passes_that_decides_for_others(dialect: Dialect) -> None:
    """Callers share one account, and what is sent is JSON whatever they call it."""
    assert not dialect.request_headers & {b"content-type", b"idempotency-key"}


@over_dialects
def test_a_credential_is_presented_as_a_key_is(dialect: Dialect) -> None:
    """FR-001: what we send upstream as a caller is what a caller of ours sends."""
    sent = dict(dialect.credential_headers("sk-secret"))

    assert dialect.presented_key(sent) == b"sk-secret"
    assert dialect.presented_key({}) is None
    assert all(name == name.lower() for name in sent)


# ---- calls in ------------------------------------------------------------------------------------


@over(SAMPLES)
def test_a_recorded_call_is_read(sample: Sample) -> None:
    """FR-002: what is asked for decides where it goes."""
    read = DIALECTS[sample.dialect].read_call(sample.operation, sample.request)

    assert read.operation is sample.operation
    assert read.model == sample.model
    assert read.stream is sample.stream
    assert read.wants_usage is sample.wants_usage
    assert (read.output_max, read.choices) == (sample.output_max, sample.choices)
    assert read.body == sample.request


@over(SAMPLES)
def test_what_was_answered_is_within_what_the_call_allowed(sample: Sample) -> None:
    """FR-003: a strict budget holds that much, and is never overshot."""
    read = DIALECTS[sample.dialect].read_call(sample.operation, sample.request)

    if read.output_max is not None and sample.usage is not None:
        assert sample.usage.output_tokens <= read.output_max


@over(SAMPLES)
def test_a_prompt_is_bounded_by_the_bytes_that_are_there(sample: Sample) -> None:
    """FR-003: and by nothing once they are gone."""
    dialect = DIALECTS[sample.dialect]
    read = dialect.read_call(sample.operation, sample.request)

    assert dialect.is_prompt_bounded(read) is sample.prompt_bounded
    assert not dialect.is_prompt_bounded(read.without_body())


@over(SAMPLES)
def test_a_member_that_nobody_knows_bounds_nothing(sample: Sample) -> None:
    """FR-003: who knows what it adds to the prompt?"""
    dialect = DIALECTS[sample.dialect]
    body = encoded({**decoded(sample.request), "x-unheard-of": True})

    assert not dialect.is_prompt_bounded(dialect.read_call(sample.operation, body))


@over(SAMPLES)
def test_a_body_keeps_every_member_but_the_model_and_the_usage_option(sample: Sample) -> None:
    dialect = DIALECTS[sample.dialect]
    read = dialect.read_call(sample.operation, sample.request)

    sent = dialect.upstream_body(read, "another")

    again = dialect.read_call(sample.operation, sent)
    assert (again.model, again.stream) == ("another", sample.stream)
    old, new = decoded(sample.request), decoded(sent)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert changed - {"stream_options"} == {"model"}


@over(SAMPLES)
def test_a_body_that_needs_no_change_is_the_very_same(sample: Sample) -> None:
    dialect = DIALECTS[sample.dialect]
    read = dialect.read_call(sample.operation, sample.request)
    sent = dialect.upstream_body(read, "another")
    asked_for_usage = dialect.read_call(sample.operation, sent)

    assert dialect.upstream_body(asked_for_usage, "another") == sent


@over(SAMPLES)
@pytest.mark.parametrize(
    "name",
    ["", " m", "m ", "m\r\nset-cookie: a=b", "m\x00", "m\x7f", "modèle", "m\u2028", "x" * 10_000],
    ids=ascii,
)
def test_a_model_name_that_no_header_can_carry_is_refused(sample: Sample, name: str) -> None:
    body = encoded({**decoded(sample.request), "model": name})

    with pytest.raises(InvalidRequest) as caught:
        DIALECTS[sample.dialect].read_call(sample.operation, body)

    assert caught.value.param == "model"
    assert len(caught.value.message) < 600
    assert caught.value.message.isprintable()


@over(SAMPLES)
def test_half_a_body_is_no_json(sample: Sample) -> None:
    dialect = DIALECTS[sample.dialect]
    whole = sample.request.rstrip()
    for cut in range(0, len(whole), max(1, len(whole) // 200)):
        with pytest.raises(InvalidJson):
            dialect.read_call(sample.operation, whole[:cut])


@over_dialects
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_calls(dialect: Dialect, body: bytes) -> None:
    for operation in dialect.paths.values():
        with pytest.raises((InvalidJson, InvalidRequest)):
            dialect.read_call(operation, body)


@over(SAMPLES)
def test_no_changed_byte_breaks_the_reader_of_calls(sample: Sample) -> None:
    """Whatever it says of it, it answers with a refusal of ours or a call, never with a fault."""
    dialect, source = DIALECTS[sample.dialect], random.Random(sample.name)
    for _ in range(300):
        body = bytearray(sample.request)
        for _ in range(source.randint(1, 3)):
            body[source.randrange(len(body))] = source.randrange(256)
        try:
            read = dialect.read_call(sample.operation, bytes(body))
        except (InvalidJson, InvalidRequest):
            continue
        assert decoded(dialect.upstream_body(read, "other-model"))["model"] == "other-model"
        assert dialect.is_prompt_bounded(read) in (True, False)
        assert read.choices >= 1
        assert read.output_max is None or read.output_max >= 0


# ---- plain answers -------------------------------------------------------------------------------


@over(PLAIN)
def test_usage_is_read_from_a_plain_answer(sample: Sample) -> None:
    """FR-004: tokens, and the cost where the upstream tells it."""
    assert DIALECTS[sample.dialect].read_usage(sample.answer) == sample.usage


@over(PLAIN)
def test_usage_is_read_from_the_tail_of_a_plain_answer(sample: Sample) -> None:
    dialect, answer = DIALECTS[sample.dialect], sample.answer

    assert dialect.read_usage_tail(answer[-4096:]) == sample.usage
    assert dialect.read_usage_tail(answer[-12:]) is None


@over(PLAIN)
def test_a_plain_answer_cut_at_any_byte_is_not_whole(sample: Sample) -> None:
    """A cut answer is never passed off as whole."""
    dialect, whole = DIALECTS[sample.dialect], sample.answer.rstrip()
    for cut in range(len(whole)):
        with pytest.raises(UpstreamError):
            dialect.read_usage(whole[:cut])


@over(PLAIN)
def test_white_space_behind_an_answer_is_fine_and_more_is_not(sample: Sample) -> None:
    dialect, whole = DIALECTS[sample.dialect], sample.answer.rstrip()

    assert dialect.read_usage(whole + b" \r\n\t\n") == sample.usage
    for more in (b"\n{}", b"\n" + whole, b"}", b"\x00", b"\ndata: [DONE]\n\n"):
        with pytest.raises(UpstreamError):
            dialect.read_usage(whole + more)


@over_dialects
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_answers(dialect: Dialect, body: bytes) -> None:
    try:
        usage = dialect.read_usage(body)
    except UpstreamError:
        usage = None
    assert usage is None
    assert dialect.read_usage_tail(body) is None


# ---- streamed answers ----------------------------------------------------------------------------


def downstream(sample: Sample, *, wants_usage: bool) -> bytes:
    events = enumerate(sse.events(sample.answer))
    taken_out = () if wants_usage else sample.taken_out
    return b"".join(event for index, event in events if index not in taken_out)


@over(STREAMS)
@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_a_stream_passes_but_for_what_only_we_asked_for(
    sample: Sample, wants_usage: bool, seed: int | None
) -> None:
    """FR-004: fed whole or in blocks of events, it comes out the same and its usage is known."""
    tap = DIALECTS[sample.dialect].tap(call(sample.operation, wants_usage=wants_usage))

    fed = [sample.answer] if seed is None else blocks(sample.answer, seed)
    passed = b"".join(tap.feed(block) for block in fed)

    assert passed == downstream(sample, wants_usage=wants_usage)
    assert tap.usage == sample.usage
    assert tap.complete


@over(STREAMS)
def test_a_stream_is_complete_at_its_last_event_and_not_before(sample: Sample) -> None:
    """A cut answer is never passed off as whole."""
    tap = DIALECTS[sample.dialect].tap(call(sample.operation))
    *before, last = sse.events(sample.answer)

    for event in before:
        tap.feed(event)
        assert not tap.complete
    tap.feed(last)
    assert tap.complete

    tap.feed(b": a comment behind it\n\n")
    assert tap.complete


@over(STREAMS)
def test_lines_may_end_as_the_format_allows(sample: Sample) -> None:
    for end in (b"\r\n", b"\r"):
        tap = DIALECTS[sample.dialect].tap(call(sample.operation, wants_usage=True))
        stream = sample.answer.replace(b"\n", end)

        assert b"".join(tap.feed(block) for block in blocks(stream, 1)) == stream
        assert tap.complete
        assert tap.usage == sample.usage


@over(STREAMS)
def test_comments_pass_and_mean_nothing(sample: Sample) -> None:
    tap = DIALECTS[sample.dialect].tap(call(sample.operation, wants_usage=True))
    ping = b': ping "usage" "response" "error" [DONE]\n\n'

    assert tap.feed(ping) == ping
    assert not tap.complete
    assert tap.usage is None


@over(STREAMS)
def test_a_malformed_event_is_refused_and_what_came_before_it_passes(sample: Sample) -> None:
    """No caller is left with an event that cannot be read."""
    *before, cut, _ = [event for event in sse.events(sample.answer) if sse.data_of(event)]
    for at in range(1, len(cut.rstrip())):
        broken = cut[:at].rstrip() + b"\n\n"
        if not sse.data_of(broken):
            continue  # without data, it is no event
        for fed in ([*before, broken], [b"".join((*before, broken))]):
            tap = DIALECTS[sample.dialect].tap(call(sample.operation, wants_usage=True))
            passed = b"".join(map(tap.feed, fed[:-1]))

            with pytest.raises(MalformedEvent) as caught:
                tap.feed(fed[-1])

            assert passed + caught.value.sound == b"".join(before)
            assert not tap.complete


@over(STREAMS)
def test_nobody_reads_on_behind_the_end(sample: Sample) -> None:
    tap = DIALECTS[sample.dialect].tap(call(sample.operation, wants_usage=True))
    behind = b"data: {\n\n"

    assert tap.feed(sample.answer + behind) == sample.answer + behind
    assert tap.feed(behind) == behind
    assert tap.complete


@over_dialects
@given(data=st.lists(st.binary(max_size=60), max_size=6))
def test_no_events_break_a_tap(dialect: Dialect, data: list[bytes]) -> None:
    block = b"".join(b'data: {"usage":%b}\n\ndata: %b\n\n' % (part, part) for part in data)
    for operation in dialect.paths.values():
        tap = dialect.tap(call(operation, wants_usage=True))
        try:
            passed = tap.feed(block)
        except UpstreamError:
            continue
        assert passed == block


# ---- where a streamed answer begins --------------------------------------------------------------

HELD_EVENTS_MAX = 4
"""Of a sample: what announces its answer."""


@over(STREAMS)
def test_a_stream_opens_soon_and_what_is_before_does_not(sample: Sample) -> None:
    """A start that fails can be given by another deployment, unseen."""
    dialect = DIALECTS[sample.dialect]
    events = [event for event in sse.events(sample.answer) if sse.data_of(event)]

    opening = next(at for at, one in enumerate(events) if dialect.opens(sample.operation, one))

    assert opening <= HELD_EVENTS_MAX
    assert not dialect.opens(sample.operation, b"".join(events[:opening]))
    assert dialect.opens(sample.operation, b"".join(events[: opening + 1]))
    assert dialect.opens(sample.operation, sample.answer)
    assert dialect.opens(sample.operation, events[-1])


@over_dialects
def test_nothing_and_comments_do_not_open_a_stream(dialect: Dialect) -> None:
    for operation in dialect.paths.values():
        assert not dialect.opens(operation, b"")
        assert not dialect.opens(operation, b": ping\n\n: ping\n\n")


@over_dialects
def test_a_stream_that_begins_with_an_error_or_is_malformed_is_refused(dialect: Dialect) -> None:
    for operation in dialect.paths.values():
        event = dialect.error_event(call(operation), UpstreamError(NASTY), "req-1")

        with pytest.raises(RefusedInStream) as caught:
            dialect.opens(operation, b": ping\n\n" + event)
        assert caught.value.objection is None
        with pytest.raises(UpstreamError):
            dialect.opens(operation, event.rstrip()[:-1] + b"\n\n")


@over_dialects
@given(data=st.lists(st.binary(max_size=60), max_size=4))
def test_no_events_break_the_reader_of_openings(dialect: Dialect, data: list[bytes]) -> None:
    block = b"".join(b"data: %b\n\n" % part for part in data)
    for operation in dialect.paths.values():
        try:
            opened = dialect.opens(operation, block)
        except UpstreamError:
            continue
        assert opened in (True, False)


# ---- why an answer is none -----------------------------------------------------------------------


@over_dialects
def test_what_is_no_refusal_of_a_model_is_no_objection(dialect: Dialect) -> None:
    """Among these all of ours, for a router that asks a router."""
    for kind in CODES:
        body = dialect.error_body(kind(NASTY, retry_after_s=7), "req-1")
        assert dialect.objection(body) is None


@over(PLAIN)
def test_a_sound_answer_is_no_objection_and_not_filtered(sample: Sample) -> None:
    dialect = DIALECTS[sample.dialect]

    assert dialect.objection(sample.answer) is None
    assert not dialect.is_filtered(sample.answer)


@over_dialects
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_readers_of_refusals(dialect: Dialect, body: bytes) -> None:
    assert dialect.objection(body) is None
    assert not dialect.is_filtered(body)


@over(SAMPLES)
def test_the_same_call_is_the_same_conversation_whatever_model_it_is_sent_to(
    sample: Sample,
) -> None:
    dialect = DIALECTS[sample.dialect]
    read = dialect.read_call(sample.operation, sample.request)
    sent = dialect.read_call(sample.operation, dialect.upstream_body(read, "another"))

    assert dialect.conversation(read) == dialect.conversation(sent)
    assert dialect.conversation(read.without_body()) == b""


@over_dialects
def test_conversations_are_told_apart(dialect: Dialect) -> None:
    """Samples that were asked the same thing count once."""
    found = samples(dialect.name)
    calls = [dialect.read_call(sample.operation, sample.request) for sample in found]

    assert len({dialect.conversation(read) for read in calls} - {b""}) > len(found) / 2


# ---- refusals ------------------------------------------------------------------------------------


@over_dialects
@over_errors
def test_a_refusal_says_what_and_why(dialect: Dialect, kind: type[RouterError]) -> None:
    """FR-007: the same content in every dialect's shape."""
    error = error_of(dialect.error_body(kind(NASTY, retry_after_s=7), "req-1"))

    assert error["message"] == NASTY
    assert error["code"] == kind.code
    assert error["request_id"] == "req-1"
    assert error["retry_after_s"] == 7
    assert error["type"]


@over_dialects
def test_what_is_not_known_is_not_made_up(dialect: Dialect) -> None:
    error = error_of(dialect.error_body(InvalidJson("the body is not JSON"), "req-1"))

    assert "retry_after_s" not in error


@over_dialects
def test_a_limit_is_told_in_refusals_and_in_streams(dialect: Dialect) -> None:
    """FR-003."""
    limit = LimitState(
        scope="org", name="acme", kind="usd", limit=5, per="day", used=5.5, resets_at=None
    )
    error = InsufficientQuota("5.50 USD of 5.00 are spent", limit=limit)

    calls = map(call, dialect.paths.values())
    events = [data_of(dialect.error_event(refused, error, "req-1")) for refused in calls]

    for said in map(error_of, [dialect.error_body(error, "req-1"), *events]):
        assert said["limit"] == decoded(encoded(limit))
        assert "retry_after_s" not in said
    assert "limit" not in error_of(dialect.error_body(InsufficientQuota("spent"), "req-1"))


@over_dialects
@over_errors
def test_an_error_ends_a_stream_and_never_looks_like_its_end(
    dialect: Dialect, kind: type[RouterError]
) -> None:
    """A cut answer is never passed off as whole, also by a router that asks a router."""
    for operation in dialect.paths.values():
        refused = call(operation)
        event = dialect.error_event(refused, kind(NASTY, retry_after_s=7), "req-1")
        tap = dialect.tap(refused)

        assert event.endswith(b"\n\n")
        assert len(list(sse.events(event))) == 1
        assert b"\r" not in event
        assert tap.feed(event) == event
        assert not tap.complete
        said = error_of(data_of(event))
        assert (said["message"], said["code"], said["request_id"]) == (NASTY, kind.code, "req-1")


# ---- lists of models -----------------------------------------------------------------------------

NAMES = ["gpt-4o", "meta-llama/Llama-3:70b", 'odd "name"', "x" * 256]


@over_dialects
def test_the_list_has_every_model_in_order(dialect: Dialect) -> None:
    listed = decoded(dialect.models_body(NAMES, 1_700_000_000))["data"]

    assert isinstance(listed, list)
    assert [model["id"] for model in listed] == NAMES
    for name, model in zip(NAMES, listed, strict=True):
        assert decoded(dialect.model_body(name, 1_700_000_000)) == model


@over_dialects
def test_a_key_that_may_use_nothing_gets_an_empty_list(dialect: Dialect) -> None:
    assert decoded(dialect.models_body([], 1_700_000_000))["data"] == []


def test_the_samples_are_worth_something() -> None:
    """A table that lost its rows would prove nothing."""
    for name in DIALECTS:
        found = samples(name)
        assert {sample.stream for sample in found} == {True, False}
        assert any(sample.usage not in (None, Usage()) for sample in found)
        assert {sample.operation for sample in found} <= set(Operation)
