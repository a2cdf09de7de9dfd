"""The wire form of responses: the object, its output items, and the numbered events of a stream."""

import msgspec
from msgspec import UNSET, UnsetType

from llmrouter.daemon.demo.shapes import encode
from llmrouter.daemon.demo.usage import ResponseUsage


class OutputText(msgspec.Struct, tag="output_text"):
    """The text of a message."""

    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[()] = ()


class OutputMessage(msgspec.Struct, kw_only=True, tag="message"):
    """An output item that says something."""

    id: str
    status: str
    role: str = "assistant"
    content: list[OutputText]


class FunctionCall(msgspec.Struct, kw_only=True, tag="function_call"):
    """An output item that calls a function."""

    id: str
    status: str
    arguments: str
    call_id: str
    name: str


Item = OutputMessage | FunctionCall


class IncompleteDetails(msgspec.Struct):
    """Why a response is incomplete."""

    reason: str


class _Reasoning(msgspec.Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class Response(msgspec.Struct, kw_only=True):
    """The response object, as it begins; its end fills in what came of it."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None = None
    reasoning: _Reasoning = _Reasoning()
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: msgspec.Raw
    tool_choice: msgspec.Raw
    tools: list[msgspec.Raw]
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str]


class Event(msgspec.Struct, kw_only=True):
    """An event of a stream; each type has some of these members."""

    type: str
    response: Response | UnsetType = UNSET
    item: Item | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: tuple[()] | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    sequence_number: int = 0


class Numbered:
    """Writes the events of one stream, numbered from zero."""

    def __init__(self) -> None:
        self._next = 0

    def write(self, event: Event) -> bytes:
        """Number an event and put it into its wire form."""
        event.sequence_number = self._next
        self._next += 1
        return b"event: %b\ndata: %b\n\n" % (event.type.encode(), encode(event))
