"""Whether the bytes of a call bound its prompt: whether no part of it stands for more than it says.

Nor may it cost more than it says: a tier of service that is dearer than usual has no bound, either.

A token of text is at least one byte of the body, so a body of nothing but text bounds its prompt. A
picture, a file, a response kept by the server, or a search that the server makes has no such bound.
What is known to be text is listed here, not what is known to be more: then whatever comes new, and
whatever is spelled in a way that another reader may understand, counts as unbounded. And it is
decoded, not searched for: no escape and no second occurrence of a name hides anything.

What the bound leaves out is what servers put around every prompt: the marks of their chat
templates, and how they introduce tools. That is a constant of the model, and a matter of admission.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from llmrouter.contracts.call import Call, Operation

_Nothing = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=0)] | None
_Any = msgspec.Raw
"""Of which every value is text to a model, if it is anything to it."""
_ABSENT = msgspec.Raw(b"null")


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Has no members but these, and no values but of these types."""


class _Part(_Strict):
    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: _Nothing = None
    logprobs: _Nothing = None
    cache_control: _Any = _ABSENT
    prompt_cache_breakpoint: _Any = _ABSENT


_Content = str | list[_Part] | None


class _ToolCall(_Strict):
    id: str | None = None
    index: int | None = None
    type: Literal["function", "custom"] | None = None
    function: _Any = _ABSENT
    custom: _Any = _ABSENT


class _Message(_Strict):
    role: str
    content: _Content = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _Any = _ABSENT
    reasoning: str | None = None
    reasoning_content: str | None = None
    prefix: bool | None = None
    annotations: _Nothing = None
    audio: None = None


class _Item(_Strict):
    """Of the input of a response; one that is only an id stands for what the server kept."""

    type: Literal["message", "function_call", "function_call_output"] | None = None
    id: str | None = None
    status: str | None = None
    role: str | None = None
    content: _Content = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: _Content = None

    def stands_here(self) -> bool:
        """Whether what it says is written in it."""
        return not self.content is self.arguments is self.output is None


class _Tool(_Strict):
    type: Literal["function", "custom"] = "function"
    function: _Any = _ABSENT
    custom: _Any = _ABSENT
    name: str | None = None
    description: str | None = None
    parameters: _Any = _ABSENT
    format: _Any = _ABSENT
    strict: bool | None = None
    cache_control: _Any = _ABSENT


_SETTINGS = frozenset(
    {
        *("model", "stream", "stream_options", "n", "best_of", "echo", "logprobs", "top_logprobs"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "stop", "logit_bias", "seed"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
        *("frequency_penalty", "reasoning", "reasoning_effort", "verbosity", "truncation"),
        *("tool_choice", "function_call", "functions", "parallel_tool_calls", "max_tool_calls"),
        *("response_format", "text", "encoding_format", "dimensions", "include", "store"),
        *("user", "metadata", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    }
)
"""Whatever they say, they add nothing to the prompt but what is written in them."""
_text = msgspec.json.Decoder(str | None)
_texts = msgspec.json.Decoder(str | list[str | int | list[int]] | None)
_tools = msgspec.json.Decoder(list[_Tool] | None)
_PRICED_AS_USUAL = msgspec.json.Decoder(Literal["auto", "default", "flex"] | None)
"""Tiers of service that cost no more than what the model is known to cost."""
_PROMPTS: Mapping[Operation, Mapping[str, msgspec.json.Decoder[Any]]] = {
    Operation.CHAT: {
        "messages": msgspec.json.Decoder(list[_Message]),
        "tools": _tools,
        "modalities": msgspec.json.Decoder(list[Literal["text"]] | None),
        "service_tier": _PRICED_AS_USUAL,
    },
    Operation.COMPLETION: {"prompt": _texts, "suffix": _text},
    Operation.EMBEDDING: {"input": _texts},
    Operation.RESPONSE: {
        "input": msgspec.json.Decoder(str | list[_Item] | None),
        "instructions": _text,
        "tools": _tools,
        "service_tier": _PRICED_AS_USUAL,
    },
}
"""What makes up the prompt of each, in the shapes that are text alone."""


def is_bounded(call: Call) -> bool:
    """Whether all of the body is known to be no more than it says; False once it is gone."""
    prompts = _PROMPTS[call.operation]
    return bool(call.members) and all(
        name in _SETTINGS or bytes(raw) == b"null" or _is_text(prompts.get(name), raw)
        for name, raw in call.members.items()
    )


def _is_text(decoder: msgspec.json.Decoder[Any] | None, raw: msgspec.Raw) -> bool:
    if decoder is None:
        return False
    try:
        found = decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    if not isinstance(found, list):
        return True
    return all(item.stands_here() for item in found if isinstance(item, _Item))
