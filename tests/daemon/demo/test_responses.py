from typing import Any

import msgspec
import pytest

from llmrouter.daemon.demo import answers, tokens
from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.shapes import Answer, BadRequest, Stamp
from tests.daemon.demo.running import data, sdk

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: dict[str, Any] = {"type": "function", "name": "get_weather", "parameters": CITY}
ARGUMENTS = '{"city":"demo city"}'
TEXT = tokens.prose("hello", 0)
STAMP = Stamp(7, 1_760_000_000)


def answer(directives: Directives = NONE, **members: Any) -> Answer:
    body = msgspec.json.encode({"model": "demo", "input": "hello", **members})
    return answers.answer(answers.read(b"/v1/responses", body), STAMP, directives)


def plain(directives: Directives = NONE, **members: Any) -> Any:
    return msgspec.json.decode(answer(directives, **members).body)


def streamed(directives: Directives = NONE, **members: Any) -> list[Any]:
    made = answer(directives, stream=True, **members)
    assert made.events is not None
    return data(b"".join(made.events) + made.last())


def test_a_plain_answer_has_every_member_that_the_reference_lists() -> None:
    """Members and defaults as in recorded traffic of the provider."""
    made = plain()

    assert made == {
        "id": "resp_demo0000000007",
        "object": "response",
        "created_at": 1_760_000_000,
        "status": "completed",
        "background": False,
        "completed_at": 1_760_000_000,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "demo",
        "output": [
            {
                "type": "message",
                "id": "msg_demo0000000007",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
                ],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens.count(TEXT),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2 + tokens.count(TEXT),
        },
        "user": None,
        "metadata": {},
    }


def test_a_stream_has_the_events_of_a_text_in_their_order() -> None:
    events = streamed()
    pieces = list(tokens.pieces(TEXT))

    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(pieces),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["delta"] for event in events if "delta" in event] == pieces
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None
    assert events[2]["item"]["content"] == []
    assert events[-1]["response"] == plain()


def test_a_stream_has_the_events_of_a_call_in_their_order() -> None:
    events = streamed(tools=[WEATHER])
    pieces = list(tokens.pieces(ARGUMENTS))

    assert [event["type"] for event in events[2:]] == [
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * len(pieces),
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[2]["item"]["arguments"] == ""
    assert [event["delta"] for event in events if "delta" in event] == pieces
    assert events[-3]["arguments"] == ARGUMENTS
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


def test_what_was_asked_for_is_repeated() -> None:
    asked: dict[str, Any] = {
        "instructions": "be short",
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_1",
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [WEATHER],
        "top_p": 0.5,
    }
    made = plain(**asked)

    assert {name: made[name] for name in asked} == asked
    assert made["usage"]["input_tokens"] > plain()["usage"]["input_tokens"]


@pytest.mark.parametrize("members", [{}, {"tools": [WEATHER]}])
def test_an_answer_that_is_too_long_is_incomplete(members: dict[str, Any]) -> None:
    made = plain(max_output_tokens=2, **members)

    assert made["status"] == "incomplete"
    assert made["incomplete_details"] == {"reason": "max_output_tokens"}
    assert made["output"][0]["status"] == "incomplete"
    assert made["usage"]["output_tokens"] == 2
    events = streamed(max_output_tokens=2, **members)
    assert (events[-1]["type"], events[-1]["response"]) == ("response.incomplete", made)


def test_a_filtered_answer_is_incomplete_too() -> None:
    made = plain(Directives(content_filter=True))

    assert made["incomplete_details"] == {"reason": "content_filter"}


def test_items_of_every_kind_are_read_and_counted() -> None:
    asked = [
        {"role": "developer", "content": "1234"},
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text"}]},
        {"type": "tool_search_call", "arguments": {"paths": ["a"]}},
        {"type": "reasoning", "id": "r", "summary": [], "content": None},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]
    made = plain(input=asked, tools=[WEATHER])

    assert made["output"][0]["content"][0]["text"] == TEXT
    without = plain(input=asked)["usage"]["input_tokens"]
    assert without == 1 + 2 + 1 + tokens.count('[{"type":"input_text"}]') + 4 + 1


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"tools": [WEATHER]}, "get_weather"),
        ({"tools": [{"type": "web_search"}, WEATHER], "tool_choice": "required"}, "get_weather"),
        (
            {
                "tools": [WEATHER, {"type": "function", "name": "clock"}],
                "tool_choice": {"type": "function", "name": "clock"},
            },
            "clock",
        ),
        ({"tools": [WEATHER], "tool_choice": "none"}, None),
        ({"tools": [{"type": "web_search"}]}, None),
    ],
)
def test_a_function_is_called_where_one_may_be(members: dict[str, Any], name: str | None) -> None:
    (item,) = plain(**members)["output"]

    assert item.get("name") == name


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "json_schema", "name": "x", "schema": CITY}, ARGUMENTS),
        ({"type": "json_object"}, "{}"),
        ({"type": "text"}, TEXT),
    ],
)
def test_the_text_has_the_form_that_was_asked_for(wanted: dict[str, Any], expected: str) -> None:
    (item,) = plain(text={"format": wanted})["output"]

    assert item["content"][0]["text"] == expected


def test_usage_is_not_told_where_that_is_asked_for() -> None:
    assert plain(Directives(no_usage=True))["usage"] is None
    assert streamed(Directives(no_usage=True))[-1]["response"]["usage"] is None


@pytest.mark.parametrize(
    "members",
    [
        {"input": 5},
        {"max_output_tokens": 0},
        {"tools": ["x"]},
        {"text": "plain"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "clock"}},
    ],
)
def test_what_cannot_be_answered_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        plain(**members)


@pytest.mark.asyncio
async def test_the_sdk_reads_plain_and_streamed_answers_alike() -> None:
    async with sdk() as client:
        whole = await client.responses.create(model="demo", input="hello", instructions="be short")
        async with client.responses.stream(
            model="demo", input="hello", instructions="be short"
        ) as stream:
            built = await stream.get_final_response()

    assert whole.output_text == built.output_text == TEXT
    assert whole.status == built.status == "completed"
    assert whole.usage == built.usage


@pytest.mark.asyncio
async def test_the_sdk_reads_calls_and_incomplete_answers() -> None:
    tool: Any = WEATHER
    async with sdk() as client:
        whole = await client.responses.create(model="demo", input="hello", tools=[tool])
        async with client.responses.stream(model="demo", input="hello", tools=[tool]) as stream:
            built = await stream.get_final_response()
        short = await client.responses.create(model="demo", input="hello", max_output_tokens=1)

    for response in (whole, built):
        (call,) = response.output
        assert call.type == "function_call"
        assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
