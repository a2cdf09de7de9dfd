from typing import Any

import msgspec
import pytest

from llmrouter.daemon.demo import answers, tokens
from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.shapes import Answer, BadRequest, Stamp
from tests.daemon.demo.running import data, sdk

TEXT = tokens.prose("hello", 0)


def answer(directives: Directives = NONE, **members: Any) -> Answer:
    body = msgspec.json.encode({"model": "demo", "prompt": "hello", **members})
    return answers.answer(answers.read(b"/v1/completions", body), Stamp(7, 1), directives)


def plain(directives: Directives = NONE, **members: Any) -> Any:
    return msgspec.json.decode(answer(directives, **members).body)


def streamed(directives: Directives = NONE, **members: Any) -> list[Any]:
    made = answer(directives, stream=True, **members)
    assert made.events is not None
    return data(b"".join(made.events) + made.last())


def test_a_plain_answer() -> None:
    made = plain()

    assert (made["object"], made["id"]) == ("text_completion", "cmpl-demo0000000007")
    assert made["choices"] == [
        {"text": TEXT, "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert made["usage"]["prompt_tokens"] == 2
    assert made["usage"]["completion_tokens"] == tokens.count(TEXT)


def test_a_stream_has_a_token_an_event() -> None:
    events = streamed()

    texts = [event["choices"][0]["text"] for event in events[:-1]]
    assert texts == [*tokens.pieces(TEXT), ""]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == "[DONE]"
    assert all("usage" not in event for event in events[:-1])


def test_a_stream_tells_usage_where_it_was_asked_to() -> None:
    *events, last, _done = streamed(stream_options={"include_usage": True})

    assert all(event["usage"] is None for event in events)
    assert (last["choices"], last["usage"]) == ([], plain()["usage"])


@pytest.mark.parametrize(
    ("prompt", "choices", "prompt_tokens"),
    [
        ("hello", 1, 2),
        (["hello", "there you"], 2, 2 + 3),
        ([1, 2, 3], 1, 3),
        ([[1, 2], [3]], 2, 3),
        (None, 1, 0),
    ],
)
def test_prompts_come_alone_in_lists_and_as_tokens(
    prompt: Any, choices: int, prompt_tokens: int
) -> None:
    made = plain(prompt=prompt, n=2)

    assert [choice["index"] for choice in made["choices"]] == list(range(2 * choices))
    assert made["usage"]["prompt_tokens"] == prompt_tokens


def test_echo_repeats_the_prompt_and_costs_nothing() -> None:
    made = plain(echo=True)

    assert made["choices"][0]["text"] == "hello" + TEXT
    assert made["usage"] == plain()["usage"]
    assert streamed(echo=True)[0]["choices"][0]["text"] == "hello"


def test_max_tokens_stop_and_log_probabilities() -> None:
    choice = plain(max_tokens=2, logprobs=1)["choices"][0]

    assert (choice["text"], choice["finish_reason"]) == ("This is ", "length")
    assert choice["logprobs"] == {
        "tokens": ["This", " is "],
        "token_logprobs": [-0.25, -0.25],
        "top_logprobs": [{"This": -0.25}, {" is ": -0.25}],
        "text_offset": [0, 4],
    }
    assert plain(stop=" is")["choices"][0]["text"] == "This"


def test_streamed_offsets_go_on_from_event_to_event() -> None:
    events = streamed(max_tokens=3, logprobs=0, echo=True)[:-2]

    offsets = [event["choices"][0]["logprobs"]["text_offset"] for event in events]
    assert offsets == [[0, 4], [5], [9], [13]]


def test_usage_is_not_told_where_that_is_asked_for() -> None:
    assert "usage" not in plain(Directives(no_usage=True))


@pytest.mark.parametrize(
    "members",
    [
        {"prompt": []},
        {"n": 0},
        {"prompt": ["a"] * 65, "n": 2},
        {"prompt": {"a": 1}},
        {"max_tokens": -1},
    ],
)
def test_what_cannot_be_answered_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        plain(**members)


@pytest.mark.asyncio
async def test_the_sdk_reads_plain_and_streamed_answers_alike() -> None:
    async with sdk() as client:
        whole = await client.completions.create(model="demo", prompt=["hello", "x"], logprobs=1)
        texts = ["", ""]
        usage = None
        async for event in await client.completions.create(
            model="demo",
            prompt=["hello", "x"],
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = event.usage
            for choice in event.choices:
                texts[choice.index] += choice.text

    assert [choice.text for choice in whole.choices] == texts
    assert texts[0] == TEXT
    assert usage == whole.usage
