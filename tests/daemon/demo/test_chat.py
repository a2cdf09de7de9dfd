"""Chat: the plain form by the SDK, and what only the bytes show."""

from typing import Any

import msgspec
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from llmrouter.daemon.demo import answers, tokens
from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.shapes import Answer, BadRequest, Stamp
from tests.daemon.demo.running import CHAT, SAYS_HELLO, data, sdk

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 2},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
ARGUMENTS = '{"city":"demo city","days":2,"unit":"celsius"}'
TEXT = tokens.prose("hello", 0)
STAMP = Stamp(7, 1_760_000_000)


def answer(directives: Directives = NONE, **members: Any) -> Answer:
    body = msgspec.json.encode({"model": "demo", "messages": SAYS_HELLO, **members})
    return answers.answer(answers.read(CHAT.encode(), body), STAMP, directives)


def plain(directives: Directives = NONE, **members: Any) -> Any:
    return msgspec.json.decode(answer(directives, **members).body)


def streamed(directives: Directives = NONE, **members: Any) -> list[Any]:
    made = answer(directives, stream=True, **members)
    assert made.events is not None
    return data(b"".join(made.events) + made.last())


def contents(events: list[Any]) -> list[str]:
    return [
        choice["delta"]["content"]
        for event in events[:-1]
        for choice in event["choices"]
        if choice["delta"].get("content")
    ]


def test_a_plain_answer_has_every_member_that_the_reference_lists() -> None:
    assert plain() == {
        "id": "chatcmpl-demo0000000007",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": TEXT,
                    "refusal": None,
                    "annotations": [],
                },
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": tokens.count(TEXT),
            "total_tokens": 2 + tokens.count(TEXT),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }


def test_a_stream_is_a_role_a_token_an_event_a_reason_and_done() -> None:
    events = streamed()

    assert events[0]["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert contents(events) == list(tokens.pieces(TEXT))
    assert events[-2]["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert events[-1] == "[DONE]"
    assert len(events) == tokens.count(TEXT) + 3


def test_a_stream_tells_usage_only_where_it_was_asked_to() -> None:
    assert all("usage" not in event for event in streamed()[:-1])
    *events, last, _done = streamed(stream_options={"include_usage": True})

    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == plain()["usage"]
    assert last["usage"]["completion_tokens"] == len(contents([*events, "[DONE]"]))


def test_usage_is_not_told_where_that_is_asked_for() -> None:
    none = Directives(no_usage=True)

    assert "usage" not in plain(none)
    events = streamed(none, stream_options={"include_usage": True})
    assert all("usage" not in event for event in events[:-1])


def test_choices_come_in_turns_and_are_all_counted() -> None:
    whole = plain(n=3)
    events = streamed(n=3, stream_options={"include_usage": True})

    assert [event["choices"][0]["index"] for event in events[:6]] == [0, 1, 2, 0, 1, 2]
    for index, choice in enumerate(whole["choices"]):
        parts = [event for event in events[:-2] if event["choices"][0]["index"] == index]
        assert "".join(contents([*parts, None])) == choice["message"]["content"]
    assert events[-2]["usage"] == whole["usage"]
    assert whole["usage"]["prompt_tokens"] == 2


def test_every_text_of_the_prompt_counts() -> None:
    messages = [
        {"role": "system", "content": "12345"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "1234"},
                {"type": "image_url", "image_url": {"url": "data:"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"a": 1}]},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
    ]

    assert plain(messages=messages)["usage"]["prompt_tokens"] == 2 + 1 + 85 + 2 + 1
    assert plain(tools=[CLOCK])["usage"]["prompt_tokens"] == 2 + tokens.count_raw(
        [msgspec.Raw(msgspec.json.encode(CLOCK))]
    )


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_text_ends_at_max_tokens(limit: str) -> None:
    limited: dict[str, Any] = {limit: 3}
    made = plain(**limited)

    assert made["choices"][0]["message"]["content"] == "This is the "
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 3


def test_the_text_ends_at_a_stop_sequence() -> None:
    choice = plain(stop=["upstream"])["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == ("This is the demo ", "stop")


@pytest.mark.parametrize("tool_choice", [None, "auto", "required", "unset"])
def test_a_user_with_tools_gets_a_call_of_the_first(tool_choice: str | None) -> None:
    chosen: dict[str, Any] = {} if tool_choice == "unset" else {"tool_choice": tool_choice}
    choice = plain(tools=[WEATHER, CLOCK], **chosen)["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}


def test_a_named_function_is_called() -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    (call,) = plain(tools=[WEATHER, CLOCK], tool_choice=named)["choices"][0]["message"][
        "tool_calls"
    ]

    assert call["function"] == {"name": "clock", "arguments": "{}"}


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "none"},
        {"messages": [*SAYS_HELLO, {"role": "tool", "content": "rain", "tool_call_id": "x"}]},
        {"tools": []},
        {"tools": [{"type": "custom", "custom": {"name": "shell"}}]},
    ],
)
def test_otherwise_the_answer_is_text(members: dict[str, Any]) -> None:
    choice = plain(**{"tools": [WEATHER], **members})["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == (TEXT, "stop")


def test_a_streamed_call_is_a_name_and_pieces_of_arguments() -> None:
    events = streamed(tools=[WEATHER])
    first, *pieces = [
        choice["delta"]["tool_calls"][0]
        for event in events[:-1]
        for choice in event["choices"]
        if "tool_calls" in choice["delta"]
    ]

    assert events[0]["choices"][0]["delta"]["content"] is None
    assert first == {
        "index": 0,
        "id": "call_demo0000000007_0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": ""},
    }
    assert [piece["function"]["arguments"] for piece in pieces] == list(tokens.pieces(ARGUMENTS))
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "text"}, TEXT),
        ({"type": "json_object"}, "{}"),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": WEATHER["function"]["parameters"]},
            },
            ARGUMENTS,
        ),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "{}"),
    ],
)
def test_the_text_has_the_form_that_was_asked_for(
    response_format: dict[str, Any], expected: str
) -> None:
    assert plain(response_format=response_format)["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize(
    "members",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": 5}]},
        {"model": None},
        {"n": 0},
        {"n": 129},
        {"max_tokens": 0},
        {"stream": "yes"},
        {"tools": [5]},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
    ],
)
def test_what_cannot_be_answered_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        plain(**members)


@pytest.mark.asyncio
async def test_the_sdk_reads_plain_and_streamed_answers_alike() -> None:
    async with sdk() as client:
        whole = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "hello"}],
            n=2,
            logprobs=True,
            top_logprobs=2,
        )
        async with client.chat.completions.stream(
            model="demo",
            messages=[{"role": "user", "content": "hello"}],
            n=2,
            logprobs=True,
            top_logprobs=2,
            stream_options={"include_usage": True},
        ) as stream:
            built = await stream.get_final_completion()

    assert whole.choices[0].message.content == TEXT
    for one, other in zip(whole.choices, built.choices, strict=True):
        assert one.message.content == other.message.content
        assert one.finish_reason == other.finish_reason == "stop"
        assert one.logprobs is not None
        assert one.logprobs.content is not None
        assert other.logprobs is not None
        assert one.logprobs.content == other.logprobs.content
        assert "".join(token.token for token in one.logprobs.content) == one.message.content
    assert built.usage == whole.usage


@pytest.mark.asyncio
async def test_the_sdk_reads_calls_of_tools() -> None:
    tool: Any = WEATHER
    async with sdk() as client:
        whole = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "hello"}], tools=[tool]
        )
        async with client.chat.completions.stream(
            model="demo", messages=[{"role": "user", "content": "hello"}], tools=[tool]
        ) as stream:
            built = await stream.get_final_completion()

    for completion in (whole, built):
        (choice,) = completion.choices
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)


@pytest.mark.asyncio
async def test_the_sdk_reads_refusals() -> None:
    async with sdk() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="demo", messages=[])

    assert caught.value.type == "invalid_request_error"
