"""What a line of a journal holds, and what it must never hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Usage
from llmrouter.metering.records import FORMAT, Attempt, Begin, End, Header, Hold, Record

HEADER = Header(worker="0", boot="b00t", pid=42)
DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def a_begin(seq: int = 1) -> Begin:
    return Begin(
        seq=seq,
        at_ms=1_763_880_000_000,
        request_id=f"req_{seq}",
        org="acme",
        key_id="Ab12",
        model="gpt-4o",
        deployment="openai/gpt-4o",
        dialect="openai",
        operation="chat",
    )


def an_end(seq: int = 1) -> End:
    return End(
        seq=seq,
        at_ms=1_763_880_002_000,
        request_id=f"req_{seq}",
        status=200,
        outcome="ok",
        usage=Usage(prompt_tokens=9, output_tokens=3),
        duration_ms=2_000,
    )


def an_attempt() -> Attempt:
    return Attempt(deployment="azure/gpt-4o", upstream="azure", outcome="upstream_error")


def a_hold(seq: int = 1, tokens: int = 500, nano_usd: int = 70_000) -> Hold:
    return Hold(seq=seq, tokens=tokens, nano_usd=nano_usd)


@given(st.from_type(Header) | st.from_type(Begin) | st.from_type(Hold) | st.from_type(End))
def test_every_record_is_one_line_that_reads_back_as_the_same_record(record: Record) -> None:
    line = msgspec.json.encode(record)

    assert b"\n" not in line
    assert DECODER.decode(line) == record


def test_members_at_their_default_are_left_out_of_the_line() -> None:
    assert msgspec.json.encode(a_begin()) == (
        b'{"t":"begin","seq":1,"at_ms":1763880000000,"request_id":"req_1","org":"acme",'
        b'"key_id":"Ab12","model":"gpt-4o","deployment":"openai/gpt-4o","dialect":"openai",'
        b'"operation":"chat"}'
    )
    assert msgspec.json.encode(an_end()) == (
        b'{"t":"end","seq":1,"at_ms":1763880002000,"request_id":"req_1","status":200,'
        b'"outcome":"ok","usage":{"prompt_tokens":9,"output_tokens":3},"duration_ms":2000}'
    )


def test_a_header_always_states_the_format() -> None:
    assert msgspec.json.encode(HEADER) == (
        b'{"t":"journal","format":%d,"worker":"0","boot":"b00t","pid":42}' % FORMAT
    )


@pytest.mark.parametrize("record", [HEADER, a_begin(), a_hold(), an_end()])
def test_members_that_a_later_version_added_are_ignored(record: Record) -> None:
    line = msgspec.json.encode(record)
    later = line[:-1] + b',"hold":{"nano_usd":5},"tiers":[1,2]}'

    assert DECODER.decode(later) == record


def test_a_hold_states_both_of_its_totals() -> None:
    assert msgspec.json.encode(a_hold(seq=7, tokens=0, nano_usd=0)) == (
        b'{"t":"hold","seq":7,"tokens":0,"nano_usd":0}'
    )


def test_other_attempts_stand_in_the_end_of_their_call() -> None:
    hedged = Attempt(
        deployment="azure/gpt-4o",
        upstream="azure",
        outcome="hedged",
        usage=Usage(prompt_tokens=9),
        estimated=True,
        cost_nano_usd=7,
        price="2.5/1.25/10",
        duration_ms=80,
    )
    end = msgspec.structs.replace(
        an_end(), attempts=3, upstream="openai", others=(an_attempt(), hedged), replaced=True
    )

    line = msgspec.json.encode(end)

    assert line.endswith(
        b'"duration_ms":2000,"others":['
        b'{"deployment":"azure/gpt-4o","upstream":"azure","outcome":"upstream_error"},'
        b'{"deployment":"azure/gpt-4o","upstream":"azure","outcome":"hedged",'
        b'"usage":{"prompt_tokens":9},"estimated":true,"cost_nano_usd":7,"price":"2.5/1.25/10",'
        b'"duration_ms":80}],"replaced":true}'
    )
    assert DECODER.decode(line) == end


def test_records_of_format_1_are_of_calls_with_one_attempt_and_one_model() -> None:
    begin, end = (DECODER.decode(msgspec.json.encode(one)) for one in (a_begin(), an_end()))

    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    assert begin.instead_of == ()
    assert (end.others, end.upstream, end.replaced) == ((), None, False)


def test_a_begin_of_a_version_without_holds_and_rules_reads_as_holding_nothing() -> None:
    begin = DECODER.decode(msgspec.json.encode(a_begin()))

    assert isinstance(begin, Begin)
    assert (begin.hold_tokens, begin.hold_nano_usd, begin.rules) == (0, 0, 0)


def test_an_end_without_a_cost_has_no_price_and_is_not_free() -> None:
    free = msgspec.structs.replace(an_end(), cost_nano_usd=0)
    read = DECODER.decode(msgspec.json.encode(an_end()))

    assert isinstance(read, End)
    assert read.cost_nano_usd is None
    assert DECODER.decode(msgspec.json.encode(free)) == free != read


def test_an_end_without_usage_used_nothing() -> None:
    line = (
        b'{"t":"end","seq":1,"at_ms":2,"request_id":"r","status":0,"outcome":"x","duration_ms":3}'
    )

    end = DECODER.decode(line)

    assert isinstance(end, End)
    assert end.usage == Usage()
    assert (end.attempts, end.estimated, end.ttft_ms, end.error_code) == (1, False, None, None)
    assert end.price is None  # as in the files of versions that wrote none


def test_no_member_can_hold_a_secret_a_prompt_or_an_answer() -> None:
    """Free text has no place here: a new text member has to be added to this list knowingly."""
    texts = {
        field.name
        for record in (Header, Begin, Hold, End, Attempt, Usage)
        for field in msgspec.structs.fields(record)
        if field.type not in (int, bool, int | None, Usage, tuple[Attempt, ...])
    }

    assert texts == {
        "worker", "boot",
        "request_id", "org", "team", "user", "key_id",
        "model", "instead_of", "deployment", "upstream", "dialect", "operation",
        "outcome", "error_code", "price",
    }  # fmt: skip
