import random
from json import JSONEncoder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai import prompt
from llmrouter.dialects.openai.request import read_call
from tests.dialects.openai import written

CHAT, COMPLETION = Operation.CHAT, Operation.COMPLETION
EMBEDDING, RESPONSE = Operation.EMBEDDING, Operation.RESPONSE
HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"image_url": {"type": "string", "enum": ["input_file"]}}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
PNG = "data:image/png;base64,iVBORw0KGgo="


def is_bounded(operation: Operation, members: dict[str, object]) -> bool:
    return of_text(operation, JSONEncoder().encode({"model": "m", **members}))


def of_text(operation: Operation, body: str) -> bool:
    return prompt.is_bounded(read_call(operation, body.encode()))


def message(*parts: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def items(*found: object) -> dict[str, object]:
    return {"input": list(found)}


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        {"messages": []},
        {"messages": [HI]},
        {"messages": [{"role": "developer", "content": "be brief", "name": "x"}, HI]},
        {"messages": [{"role": "user", "content": '{"type": "image_url"} "file_id" \\u0061'}]},
        message({"type": "text", "text": "hi"}),
        message({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}),
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "audio": None,
                    "annotations": [],
                    "function_call": None,
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": "sunny"},
            ],
            "tools": [FUNCTION, {"type": "custom", "custom": {"name": "g"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        {"messages": [HI], "tools": None, "web_search_options": None, "audio": None},
        {"messages": [HI], "modalities": ["text"], "response_format": {"type": "json_object"}},
        {"messages": [HI], "functions": [{"name": "f", "parameters": SCHEMA}]},
        {"messages": [HI], "n": 2, "max_tokens": 5, "temperature": 0.5, "user": "u", "top_k": 1},
        {"messages": [HI], "metadata": {"image_url": "x"}, "store": True, "stop": ["a"]},
    ],
)
def test_a_chat_of_text_is_bounded(members: dict[str, object]) -> None:
    """FR-003: the words of what is unbounded may stand in a text, in a schema or in metadata."""
    assert is_bounded(CHAT, members)


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (COMPLETION, {}),
        (COMPLETION, {"prompt": "hi", "suffix": "there", "echo": True, "best_of": 2}),
        (COMPLETION, {"prompt": ["hi", "ho"]}),
        (COMPLETION, {"prompt": [1, 2, 3]}),
        (COMPLETION, {"prompt": [[1, 2], [3]]}),
        (EMBEDDING, {"input": "hi", "encoding_format": "base64", "dimensions": 3}),
        (EMBEDDING, {"input": [[1], [2]]}),
        (RESPONSE, {"input": "hi", "instructions": "be brief", "previous_response_id": None}),
        (RESPONSE, items(HI, {"type": "message", "role": "user", "content": ""})),
        (RESPONSE, items({"role": "user", "content": [{"type": "input_text", "text": "hi"}]})),
        (
            RESPONSE,
            items(
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [
                        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
                    ],
                },
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "sunny"},
            ),
        ),
        (
            RESPONSE,
            {
                "input": "hi",
                "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
                "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
                "reasoning": {"effort": "low"},
                "include": ["reasoning.encrypted_content"],
            },
        ),
    ],
)
def test_what_else_is_text_is_bounded(operation: Operation, members: dict[str, object]) -> None:
    assert is_bounded(operation, members)


# ---- more than it says ---------------------------------------------------------------------------

PARTS = [
    {"type": "image_url", "image_url": {"url": PNG}},
    {"type": "image_url", "image_url": "https://x.test/a.png"},
    {"image_url": "https://x.test/a.png"},
    {"type": "text", "text": "hi", "image_url": "https://x.test/a.png"},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": "https://x.test/a.wav"}},
    {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}},
    {"type": "file", "file": {"file_id": "file-1"}},
    {"type": "document_url", "document_url": "https://x.test/a.pdf"},
    {"type": "image_embeds", "image_embeds": "AAAA"},
    {"type": "input_image", "file_id": "file-1"},
    {"type": "input_file", "file_data": "AAAA", "filename": "a.pdf"},
    {"type": "input_file", "file_url": "https://x.test/a.pdf"},
    {"type": "TEXT", "text": "hi"},
    {"type": "text", "text": ["hi"]},
    {"type": "of tomorrow", "text": "hi"},
    {"text": "hi"},
    {},
    "hi",
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_what_is_not_measured_in_text_bounds_nothing(part: object) -> None:
    """FR-003: a picture of a hundred bytes may be a thousand tokens."""
    assert not is_bounded(CHAT, message({"type": "text", "text": "look"}, part))
    assert not is_bounded(RESPONSE, items({"role": "user", "content": [part]}))
    output = {"type": "function_call_output", "call_id": "c", "output": [part]}
    assert not is_bounded(RESPONSE, items(output))


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {"messages": [{**HI, "images": [PNG]}]},
        {"messages": [{**HI, "Content": [PARTS[0]]}]},
        {"messages": [{"role": "user", "content": {"image": PNG}}]},
        {"messages": "hi"},
        {"messages": {"0": HI}},
        {"messages": [HI], "Messages": [PARTS[0]]},
        {"messages": [HI], "tools": [{"type": "web_search"}]},
        {"messages": [HI], "tools": [FUNCTION, {"type": "openrouter:web_search"}]},
        {"messages": [HI], "tools": [{**FUNCTION, "server": "x"}]},
        {"messages": [HI], "web_search_options": {}},
        {"messages": [HI], "plugins": [{"id": "web"}]},
        {"messages": [HI], "enable_search": True},
        {"messages": [HI], "models": ["another"]},
        {"messages": [HI], "modalities": ["text", "audio"]},
        {"messages": [HI], "audio": {"voice": "alloy"}},
        {"messages": [HI], "chat_template": "{{ messages }}"},
        {"messages": [HI], "prompt": {"id": "pmpt_1"}},
        {"messages": [HI], "input": "hi"},
    ],
    ids=str,
)
def test_a_chat_that_refers_elsewhere_bounds_nothing(members: dict[str, object]) -> None:
    """FR-003."""
    assert not is_bounded(CHAT, members)


@pytest.mark.parametrize(
    "members",
    [
        {"input": "hi", "previous_response_id": "resp_1"},
        {"input": "hi", "conversation": "conv_1"},
        {"input": "hi", "conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1", "version": "2"}},
        {"input": "hi", "service_tier": "priority"},
        {"input": "hi", "service_tier": ["priority"]},
        {"input": "hi", "context_management": [{"type": "compaction"}]},
        {"input": "hi", "instructions": [PARTS[0]]},
        *({"input": "hi", "tools": [{"type": kind}]} for kind in ("web_search", "file_search")),
        *({"input": "hi", "tools": [{"type": kind}]} for kind in ("mcp", "code_interpreter")),
        *({"input": "hi", "tools": [{"type": kind}]} for kind in ("computer", "image_generation")),
        items({"type": "item_reference", "id": "msg_1"}),
        items({"id": "msg_1"}),
        items({"type": "message", "id": "msg_1", "role": "user", "content": None}),
        items({"type": "reasoning", "id": "rs_1", "summary": []}),
        items({"type": "compaction", "encrypted_content": "AAAA"}),
        items({"type": "image_generation_call", "id": "ig_1"}),
        items(HI, {"type": "of tomorrow", "content": "hi"}),
        items("hi"),
        items(
            {
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [{"file_id": "file-1"}]}
                ],
            }
        ),
    ],
    ids=str,
)
def test_a_response_that_refers_elsewhere_bounds_nothing(members: dict[str, object]) -> None:
    """FR-003."""
    assert not is_bounded(RESPONSE, members)


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (COMPLETION, {"prompt": {"id": "pmpt_1"}}),
        (COMPLETION, {"prompt": ["a", {"multi_modal_data": PNG}]}),
        (COMPLETION, {"prompt": "a", "prompt_embeds": "AAAA"}),
        (COMPLETION, {"prompt": "a", "images": [PNG]}),
        (EMBEDDING, {"input": [{"image": PNG}]}),
        (EMBEDDING, {"messages": [HI]}),
    ],
    ids=str,
)
def test_what_else_refers_elsewhere_bounds_nothing(
    operation: Operation, members: dict[str, object]
) -> None:
    """FR-003."""
    assert not is_bounded(operation, members)


# ---- disguises -----------------------------------------------------------------------------------


@given(st.sampled_from(PARTS), st.integers(0, 2**32).map(random.Random))
def test_no_spelling_hides_a_part(part: object, source: random.Random) -> None:
    """FR-003: escapes and white space are the writer's to choose."""
    found = written.value([{"role": "user", "content": [part]}], source).decode()

    assert not of_text(CHAT, f'{{"model":"m","messages":{found}}}')


@given(written.texts, st.integers(0, 2**32).map(random.Random))
def test_no_spelling_of_a_text_makes_it_more(text: str, source: random.Random) -> None:
    parts = [{"type": "text", "text": text}, {"type": "text", "text": '"image_url"'}]
    found = written.value([{"role": "user", "content": parts}], source).decode()

    assert of_text(CHAT, f'{{"model":"m","messages":{found}}}')


@pytest.mark.parametrize(
    "said",
    [
        '{"role":"user","content":[{"type":"image_url","image_url":"x"}],"content":"hi"}',
        '{"role":"user","content":"hi","content":[{"type":"image_url","image_url":"x"}]}',
        '{"role":"user","content":[{"type":"image_url","type":"text","text":"hi"}]}',
        '{"role":"user","content":[{"type":"text","type":"image_url","text":"hi"}]}',
        '{"role":"user","content":"hi","c\\u006fntent":[{"image":"x"}]}',
    ],
)
def test_a_name_that_occurs_twice_hides_nothing(said: str) -> None:
    """FR-003: some readers take the first of them, and others the last."""
    assert not of_text(CHAT, f'{{"model":"m","messages":[{said}]}}')


def bounded_from_below(call: Call, frames: int) -> bool:
    return bounded_from_below(call, frames - 1) if frames else prompt.is_bounded(call)


def test_a_prompt_nested_too_deeply_bounds_nothing() -> None:
    """How deep can be decoded depends on how deep it is decoded from."""
    nested = "[" * 700 + "]" * 700
    tool = f'{{"type":"function","function":{nested}}}'
    call = read_call(CHAT, f'{{"model":"m","messages":[],"tools":[{tool}]}}'.encode())

    assert bounded_from_below(call, 0)
    assert not bounded_from_below(call, 400)


def test_a_prompt_that_is_gone_bounds_nothing() -> None:
    call = read_call(CHAT, b'{"model":"m","messages":[]}')

    assert prompt.is_bounded(call)
    assert not prompt.is_bounded(call.without_body())
