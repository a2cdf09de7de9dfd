import base64
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon.demo import answers
from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.embeddings import DIMENSIONS, unit_vector
from llmrouter.daemon.demo.shapes import BadRequest, Stamp
from tests.daemon.demo.running import sdk


def answer(directives: Directives = NONE, **members: Any) -> Any:
    body = msgspec.json.encode({"model": "demo", "input": "hello", **members})
    asked = answers.read(b"/v1/embeddings", body)
    assert not asked.stream
    return msgspec.json.decode(answers.answer(asked, Stamp(1, 1), directives).body)


@given(st.text() | st.lists(st.integers(0, 200_000)), st.integers(1, 64))
def test_a_vector_has_length_one_and_depends_on_nothing_but_its_input(
    item: str | list[int], dimensions: int
) -> None:
    packed = unit_vector(item, dimensions)

    vector = struct.unpack(f"<{dimensions}f", packed)
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)
    assert packed == unit_vector(item, dimensions)


def test_other_inputs_have_other_vectors() -> None:
    assert len({unit_vector(item, 8) for item in ("a", "b", [1], [1, 2], "[1]x")}) == 5


@pytest.mark.parametrize(
    ("given", "items", "prompt_tokens"),
    [
        ("hello", 1, 2),
        (["hello", "x"], 2, 3),
        ([1, 2, 3], 1, 3),
        ([[1, 2], [3]], 2, 3),
    ],
)
def test_inputs_come_alone_in_lists_and_as_tokens(
    given: Any, items: int, prompt_tokens: int
) -> None:
    made = answer(input=given)

    assert [item["index"] for item in made["data"]] == list(range(items))
    assert {len(item["embedding"]) for item in made["data"]} == {DIMENSIONS}
    assert made["usage"] == {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}


def test_base64_holds_the_same_numbers() -> None:
    numbers = answer(dimensions=16)["data"][0]["embedding"]
    packed = base64.b64decode(
        answer(dimensions=16, encoding_format="base64")["data"][0]["embedding"]
    )

    assert list(struct.unpack("<16f", packed)) == numbers


def test_usage_is_not_told_where_that_is_asked_for() -> None:
    assert "usage" not in answer(Directives(no_usage=True))


@pytest.mark.parametrize(
    "members",
    [
        {"input": []},
        {"input": ["a"] * 2_049},
        {"input": 5},
        {"dimensions": 0},
        {"dimensions": 5_000},
        {"encoding_format": "hex"},
    ],
)
def test_what_cannot_be_answered_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        answer(**members)


@pytest.mark.asyncio
async def test_the_sdk_reads_both_encodings_alike() -> None:
    async with sdk() as client:
        floats = await client.embeddings.create(
            model="demo", input=["hello", "x"], encoding_format="float"
        )
        default = await client.embeddings.create(model="demo", input=["hello", "x"])

    assert [item.embedding for item in floats.data] == [item.embedding for item in default.data]
    assert floats.usage.prompt_tokens == 3
