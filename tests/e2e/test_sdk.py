"""The official SDK, unmodified: the same objects through the daemon as straight from upstream."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from llmrouter.daemon import unix
from tests.support.daemon import Daemon

pytestmark = pytest.mark.e2e

ASKS = [{"role": "user", "content": "Tell me about token buckets."}]
PICTURE = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CHAT: dict[str, dict[str, Any]] = {
    "plain": {},
    "several choices": {"n": 3},
    "log probabilities": {"logprobs": True, "top_logprobs": 2},
    "JSON mode": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [WEATHER]},
    "a picture": {"messages": PICTURE},
    "cut by max_tokens": {"max_tokens": 5},
    "an unknown parameter": {"extra_body": {"never_heard_of": {"a": [1, 2.50, None]}}},
    "another name": {"model": "house"},
}
CHANGES_BY_ITSELF = {"id", "created", "created_at", "item_id", "call_id", "completed_at"}
"""Members that differ between two calls to the same upstream."""


def settled(value: Any) -> Any:
    """An SDK object as plain values, without what two calls never share."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, dict):
        return {k: settled(v) for k, v in value.items() if k not in CHANGES_BY_ITSELF}
    return [settled(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def routed(daemon: Daemon, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=daemon.base_url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def straight(daemon: Daemon) -> Iterator[openai.OpenAI]:
    transport = httpx2.HTTPTransport(uds=unix.address(daemon.state / "demo.sock"))
    http_client = httpx2.Client(transport=transport)
    with openai.OpenAI(
        base_url="http://demo/v1", api_key="none", http_client=http_client, max_retries=0
    ) as client:
        yield client


def both(
    routed: openai.OpenAI, straight: openai.OpenAI, ask: Callable[[openai.OpenAI], Any]
) -> tuple[Any, Any]:
    return settled(ask(routed)), settled(ask(straight))


@pytest.mark.parametrize("options", CHAT.values(), ids=CHAT)
def test_a_chat_is_the_same_object(
    routed: openai.OpenAI, straight: openai.OpenAI, options: dict[str, Any]
) -> None:
    """FR-002: plain calls."""
    call = {"model": "demo", "messages": ASKS, **options}
    through, direct = both(routed, straight, lambda c: c.chat.completions.create(**call))
    assert through == direct | {"model": through["model"]}
    assert through["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("options", CHAT.values(), ids=CHAT)
@pytest.mark.parametrize("usage", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_streamed_chat_is_the_same_sequence_of_objects(
    routed: openai.OpenAI, straight: openai.OpenAI, options: dict[str, Any], usage: Any
) -> None:
    call = {"model": "demo", "messages": ASKS, "stream": True, **options}
    if usage is not None:
        call["stream_options"] = usage
    through, direct = both(routed, straight, lambda c: list(c.chat.completions.create(**call)))
    assert [event | {"model": ""} for event in through] == [e | {"model": ""} for e in direct]
    assert len(through) >= 3


def test_a_completion_is_the_same_plain_and_streamed(
    routed: openai.OpenAI, straight: openai.OpenAI
) -> None:
    call: dict[str, Any] = {"model": "demo", "prompt": "Once upon a time"}
    through, direct = both(routed, straight, lambda c: c.completions.create(**call))
    assert through == direct
    through, direct = both(
        routed, straight, lambda c: list(c.completions.create(**call, stream=True))
    )
    assert through == direct


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_the_same(
    routed: openai.OpenAI, straight: openai.OpenAI, encoding: str
) -> None:
    call: dict[str, Any] = {"model": "demo", "input": ["one", "two"], "encoding_format": encoding}
    # Compared as vectors: the SDK's own models warn about the base64 that they hold.
    vectors = [
        [item.embedding for item in client.embeddings.create(**call).data]
        for client in (routed, straight)
    ]
    assert vectors[0] == vectors[1]
    assert len(vectors[0]) == 2


RESPONSE_TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


@pytest.mark.parametrize("options", [{}, {"tools": [RESPONSE_TOOL]}, {"max_output_tokens": 16}])
def test_a_response_is_the_same_plain_and_streamed(
    routed: openai.OpenAI, straight: openai.OpenAI, options: dict[str, Any]
) -> None:
    call: dict[str, Any] = {"model": "demo", "input": "Tell me about token buckets.", **options}
    through, direct = both(routed, straight, lambda c: c.responses.create(**call))
    assert through == direct
    through, direct = both(
        routed, straight, lambda c: list(c.responses.create(**call, stream=True))
    )
    assert through == direct
    assert through[-1]["type"] in {"response.completed", "response.incomplete"}


def test_models_are_those_that_can_be_asked_for(routed: openai.OpenAI) -> None:
    assert [model.id for model in routed.models.list()] == ["demo", "house"]
    assert routed.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        routed.models.retrieve("nothing")


def test_the_asynchronous_client_gets_the_same(
    daemon: Daemon, key: str, straight: openai.OpenAI
) -> None:
    async def ask() -> tuple[Any, list[Any], Any]:
        async with openai.AsyncOpenAI(base_url=daemon.base_url, api_key=key) as client:
            create: Any = client.chat.completions.create
            plain = await create(model="demo", messages=ASKS)
            stream = await create(model="demo", messages=ASKS, stream=True)
            events = [event async for event in stream]
            response = await client.responses.create(model="demo", input="Hello")
            return plain, events, response

    plain, events, response = asyncio.run(ask())
    create: Any = straight.chat.completions.create
    assert settled(plain) == settled(create(model="demo", messages=ASKS))
    assert settled(events) == settled(list(create(model="demo", messages=ASKS, stream=True)))
    assert settled(response) == settled(straight.responses.create(model="demo", input="Hello"))


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_an_error_of_the_upstream_is_the_same_error(
    routed: openai.OpenAI, straight: openai.OpenAI, status: int, raised: type[openai.APIStatusError]
) -> None:
    create: Any = routed.chat.completions.create
    call: dict[str, Any] = {"model": f"demo-error-{status}", "messages": ASKS}
    with pytest.raises(raised) as through:
        create(**call)
    with pytest.raises(raised) as direct:
        straight.chat.completions.create(**call)
    assert through.value.status_code == direct.value.status_code == status
    assert through.value.body == direct.value.body
    assert str(through.value.request_id).startswith("req_")


@pytest.mark.parametrize("model", ["demo-cut", "demo-no-done", "demo-cut=7"])
def test_a_cut_stream_raises(routed: openai.OpenAI, model: str) -> None:
    create: Any = routed.chat.completions.create
    with pytest.raises(openai.APIError, match="upstream"):
        list(create(model=model, messages=ASKS, stream=True))


@pytest.mark.parametrize("model", ["demo-cut", "demo-reset", "demo-empty", "demo-not-json"])
def test_a_broken_plain_answer_raises(routed: openai.OpenAI, model: str) -> None:
    create: Any = routed.chat.completions.create
    with pytest.raises(openai.InternalServerError) as failure:
        create(model=model, messages=ASKS)
    assert failure.value.status_code == 502
