"""What is decoded of answers: counts that can be, and the rest as it came."""

import msgspec
import pytest

from llmrouter.dialects.openai.counts import COUNT_MAX, Answer, Chunk, Counts, PlainChunk


@pytest.mark.parametrize("value", [-1, COUNT_MAX + 1, 1.5, "7", True, [3]])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"prompt_tokens": value}), type=Counts)


def test_counts_have_whatever_name_servers_give_them() -> None:
    counts = msgspec.json.decode(
        b'{"input_tokens": 7, "output_tokens": %d, "new_kind": {}}' % COUNT_MAX, type=Counts
    )

    assert (counts.input_tokens, counts.output_tokens, counts.prompt_tokens) == (7, COUNT_MAX, None)


def test_of_an_answer_all_but_the_usage_stays_text() -> None:
    answer = msgspec.json.decode(b'{"choices": [ {} ], "usage": {"total_tokens": 3}}', type=Answer)

    assert bytes(answer.choices) == b"[ {} ]"
    assert bytes(answer.error) == b"null"
    assert answer.usage == Counts(total_tokens=3)


@pytest.mark.parametrize("usage", [{"total_tokens": 3}, {}, 0])
def test_a_chunk_with_usage_is_no_plain_one(usage: object) -> None:
    event = msgspec.json.encode({"usage": usage, "choices": []})

    assert bytes(msgspec.json.decode(event, type=Chunk).usage) == msgspec.json.encode(usage)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(event, type=PlainChunk)
