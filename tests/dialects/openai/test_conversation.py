from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai.conversation import conversation
from llmrouter.dialects.openai.request import read_call
from llmrouter.errors import InvalidJson

PICTURE = [{"type": "image_url", "image_url": {"url": "data:,x"}}]


def read(operation: Operation, **members: Any) -> Call:
    return read_call(operation, msgspec.json.encode({"model": "m", **members}))


def chat(*messages: tuple[str, object], **members: Any) -> bytes:
    said = [{"role": role, "content": content} for role, content in messages]
    return conversation(read(Operation.CHAT, messages=said, **members))


def response(said: object, **members: Any) -> bytes:
    return conversation(read(Operation.RESPONSE, input=said, **members))


def test_each_turn_of_a_conversation_is_known_by_its_beginning() -> None:
    begun = [("system", "be brief"), ("user", "hello")]
    first = chat(*begun)

    assert first
    assert chat(*begun, ("assistant", "hi"), ("user", "and now?")) == first
    assert chat(*begun, ("assistant", "hi"), ("user", "what?"), temperature=1) == first
    assert chat(*begun, ("assistant", "hi"), ("system", "a reminder"), ("user", "x")) == first


@pytest.mark.parametrize(
    "messages",
    [
        [("user", "hello")],
        [("system", "be brief"), ("user", "hello!")],
        [("system", "be long"), ("user", "hello")],
        [("developer", "be brief"), ("user", "hello")],
        [("system", "be brief"), ("system", "x"), ("user", "hello")],
        [("system", "be brief"), ("assistant", "welcome"), ("user", "hello")],
        [("system", "be brief"), ("user", PICTURE)],
    ],
)
def test_another_beginning_is_another_conversation(messages: list[tuple[str, object]]) -> None:
    named = chat(*messages)

    assert named
    assert named != chat(("system", "be brief"), ("user", "hello"))


def test_a_turn_may_write_what_is_beside_the_words_differently() -> None:
    plain = {"role": "user", "content": "hello"}
    body = b'{"model":"m","messages":[{"content":"hello","name":"x","role":"user"}]}'

    assert conversation(read_call(Operation.CHAT, body)) == conversation(
        read(Operation.CHAT, messages=[plain])
    )


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION, Operation.RESPONSE])
def test_a_caller_may_name_the_conversation(operation: Operation) -> None:
    members = {"prompt_cache_key": "talk é", "conversation": "conv_1", "prompt": "x", "input": "y"}

    assert conversation(read(operation, **members)) == "talk é".encode()


@pytest.mark.parametrize("key", [None, "", 7, ["talk"]])
def test_a_key_that_names_nothing_is_as_none(key: object) -> None:
    assert chat(("user", "hello"), prompt_cache_key=key) == chat(("user", "hello"))


def test_a_response_belongs_to_the_conversation_it_names() -> None:
    assert response("hello", conversation="conv_1") == b"conv_1"
    assert response("hello", conversation={"id": "conv_1"}) == b"conv_1"
    assert response("hello", conversation="conv_1", previous_response_id=None) == b"conv_1"
    assert response("hello", conversation={"id": ""}) == response("hello") != b""


def test_a_response_is_known_by_its_instructions_and_first_words() -> None:
    first = response("hello", instructions="be brief")
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text"}]}
    again = [{"role": "user", "content": "hello"}, answer, {"role": "user", "content": "so?"}]

    assert response(again, instructions="be brief") == first
    assert response(again) != first
    assert response(again) == response("hello")
    assert response("goodbye", instructions="be brief") != first


def test_a_call_that_goes_on_from_a_kept_response_tells_nothing() -> None:
    assert response("and now?", previous_response_id="resp_1") == b""
    assert response("and now?", previous_response_id="resp_1", prompt_cache_key="k") == b"k"


def test_a_bare_prompt_is_known_by_its_beginning() -> None:
    start = "once upon a time " * 20
    first = conversation(read(Operation.COMPLETION, prompt=start))

    assert len(first) == 256
    assert conversation(read(Operation.COMPLETION, prompt=start + "there was")) == first
    assert conversation(read(Operation.COMPLETION, prompt="twice" + start)) != first
    assert conversation(read(Operation.COMPLETION, prompt=[1, 2])) == b"[1,2]"
    assert conversation(read(Operation.COMPLETION)) == b""


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (Operation.EMBEDDING, {"input": "hello"}),
        (Operation.CHAT, {}),
        (Operation.CHAT, {"messages": []}),
        (Operation.CHAT, {"messages": [{"role": 7}]}),
        (Operation.CHAT, {"messages": ["hello"]}),
        (Operation.CHAT, {"messages": [{"role": "system", "content": "be brief"}]}),
        (Operation.RESPONSE, {"input": None}),
        (Operation.RESPONSE, {"input": [{"type": "function_call_output", "output": "x"}]}),
        (Operation.RESPONSE, {}),
    ],
)
def test_where_nothing_tells_there_is_nothing(
    operation: Operation, members: dict[str, object]
) -> None:
    assert conversation(read(operation, **members)) == b""


def test_messages_nested_too_deeply_tell_nothing() -> None:
    """More deeply than can be decoded, and not than can be passed on."""
    for depth in range(900, 1_100):
        content = b"[" * depth + b"]" * depth
        body = b'{"model":"m","messages":[{"role":"user","content":%b}]}' % content
        try:
            read = read_call(Operation.CHAT, body)
        except InvalidJson:
            break
        assert conversation(read) in (b"", b"null\0user\0" + content)
    else:
        pytest.fail("no depth is too deep")


def test_once_the_body_is_gone_nothing_tells() -> None:
    call = read(Operation.CHAT, messages=[{"role": "user", "content": "hello"}])

    assert conversation(call)
    assert conversation(call.without_body()) == b""
