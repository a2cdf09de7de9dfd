"""Responses: items in, items out, and streams of typed, numbered events."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.response_shapes import (
    Event,
    FunctionCall,
    IncompleteDetails,
    Item,
    Numbered,
    OutputMessage,
    OutputText,
    Response,
)
from llmrouter.daemon.demo.saying import ANY_OBJECT, Ending, Function, Prompt, Saying, say
from llmrouter.daemon.demo.shapes import (
    FAILURE,
    PREFILLED,
    Answer,
    BadRequest,
    Content,
    Stamp,
    encode,
    text_of,
    tokens_of,
)
from llmrouter.daemon.demo.usage import response_usage_of

_REASONS = {Ending.LENGTH: "max_output_tokens", Ending.FILTERED: "content_filter"}
_ANNOUNCED_CALL = 3
"""The response, its progress and its item are announced before what a call says."""
_ANNOUNCED_TEXT = 4
"""And for a text, its part."""
_TEXT = msgspec.Raw(b'{"format":{"type":"text"},"verbosity":"medium"}')
_AUTO = msgspec.Raw(b'"auto"')


class _Asked(msgspec.Struct):
    """An input item: a message, or what became of a call."""

    type: str = "message"
    role: str | None = None
    content: Content = None
    arguments: Any = None
    output: Any = None


class _Tool(msgspec.Struct):
    type: str
    name: str | None = None
    parameters: msgspec.Raw = ANY_OBJECT


class _Format(msgspec.Struct):
    type: str = "text"
    schema: msgspec.Raw = ANY_OBJECT


class _Text(msgspec.Struct):
    format: _Format | None = None


_tool = msgspec.json.Decoder(_Tool)
_text = msgspec.json.Decoder(_Text | None)
_tool_choice = msgspec.json.Decoder(str | _Tool | None)


class ResponseRequest(msgspec.Struct, kw_only=True):
    """A request for a response, as far as it matters here; what is only repeated stays raw."""

    model: str
    input: str | list[_Asked] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = _AUTO
    text: msgspec.Raw = _TEXT
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    temperature: float | None = None
    top_p: float | None = None

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        if directives.prefill and self._last_role() == "assistant":
            raise BadRequest(PREFILLED)
        prompt = self._prompt()
        saying = say(prompt, directives)
        item = _item(saying, stamp, _status(saying))
        ended = self._response(stamp)
        ended.output = [item]
        ended.status = _status(saying)
        ended.usage = response_usage_of(prompt.tokens, saying, directives)
        if (reason := _REASONS.get(saying.ending)) is not None:
            ended.incomplete_details = IncompleteDetails(reason)
        else:
            ended.completed_at = stamp.created_at_s
        if not self.stream:
            return Answer(encode(ended))
        numbered = Numbered()
        last = Event(type=f"response.{ended.status}", response=ended)
        failure = Event(type="error", code="server_error", message=FAILURE)
        return Answer(
            events=map(numbered.write, self._events(stamp, saying, item)),
            last=lambda: numbered.write(last),
            failure=lambda: numbered.write(failure),
            announced=_ANNOUNCED_CALL if isinstance(item, FunctionCall) else _ANNOUNCED_TEXT,
        )

    def _last_role(self) -> str | None:
        return self.input[-1].role if isinstance(self.input, list) and self.input else None

    def _prompt(self) -> Prompt:
        asked = self.input if isinstance(self.input, list) else [_said(self.input)]
        said = [text_of(each.content) for each in asked if each.role == "user"]
        return Prompt(
            said=said[-1] if said else "",
            tokens=sum(_tokens_of(each) for each in asked)
            + tokens.count(self.instructions or "")
            + tokens.count_raw(self.tools or ()),
            tokens_max=self.max_output_tokens,
            function=self._function() if asked and asked[-1].role == "user" else None,
            schema=self._schema(),
        )

    def _function(self) -> Function | None:
        """Choose the function to be called, where the user has the last word."""
        choice = _tool_choice.decode(self.tool_choice)
        tools = [_tool.decode(raw) for raw in self.tools or ()]
        functions = [
            Function(tool.name, tool.parameters)
            for tool in tools
            if tool.type == "function" and tool.name is not None
        ]
        if isinstance(choice, _Tool) and choice.type == "function":
            functions = [function for function in functions if function.name == choice.name]
            if not functions:
                raise BadRequest(f"tool_choice names {choice.name!r}, which is not in tools")
        return functions[0] if functions and choice != "none" else None

    def _schema(self) -> msgspec.Raw | None:
        text: _Text | None = _text.decode(self.text)
        if text is None or text.format is None or text.format.type == "text":
            return None
        return text.format.schema

    def _response(self, stamp: Stamp) -> Response:
        return Response(
            id=stamp.id("resp_"),
            created_at=stamp.created_at_s,
            instructions=self.instructions,
            max_output_tokens=self.max_output_tokens,
            metadata=self.metadata or {},
            model=self.model,
            output=[],
            parallel_tool_calls=self.parallel_tool_calls is not False,
            previous_response_id=self.previous_response_id,
            store=self.store is not False,
            temperature=1.0 if self.temperature is None else self.temperature,
            text=self.text,
            tool_choice=self.tool_choice,
            tools=self.tools or [],
            top_p=1.0 if self.top_p is None else self.top_p,
        )

    def _events(self, stamp: Stamp, saying: Saying, item: Item) -> Iterator[Event]:
        begun = self._response(stamp)
        yield Event(type="response.created", response=begun)
        yield Event(type="response.in_progress", response=begun)
        begun_item = _begun(item)
        yield Event(type="response.output_item.added", item=begun_item, output_index=0)
        if isinstance(item, FunctionCall):
            yield from _argument_events(item)
        else:
            yield from _text_events(item)
        yield Event(type="response.output_item.done", item=item, output_index=0)


def _said(text: str | None) -> _Asked:
    return _Asked(role="user", content=text)


def _tokens_of(item: _Asked) -> int:
    found = tokens_of(item.content)
    for value in (item.arguments, item.output):
        if value is not None:
            found += tokens.count(value if isinstance(value, str) else encode(value).decode())
    return found


def _status(saying: Saying) -> str:
    return "incomplete" if saying.ending in _REASONS else "completed"


def _item(saying: Saying, stamp: Stamp, status: str) -> Item:
    if saying.function is None:
        return OutputMessage(id=stamp.id("msg_"), status=status, content=[OutputText(saying.text)])
    return FunctionCall(
        id=stamp.id("fc_"),
        status=status,
        arguments=saying.text,
        call_id=stamp.id("call_"),
        name=saying.function,
    )


def _begun(item: Item) -> Item:
    if isinstance(item, FunctionCall):
        return msgspec.structs.replace(item, status="in_progress", arguments="")
    return msgspec.structs.replace(item, status="in_progress", content=[])


def _text_events(item: OutputMessage) -> Iterator[Event]:
    place = Event(type="", item_id=item.id, output_index=0, content_index=0)
    at = msgspec.structs.replace
    part = item.content[0]
    yield at(place, type="response.content_part.added", part=OutputText(""))
    delta = at(place, type="response.output_text.delta", logprobs=())
    for delta.delta in tokens.pieces(part.text):
        yield delta
    yield at(place, type="response.output_text.done", text=part.text, logprobs=())
    yield at(place, type="response.content_part.done", part=part)


def _argument_events(item: FunctionCall) -> Iterator[Event]:
    delta = Event(type="response.function_call_arguments.delta", item_id=item.id, output_index=0)
    for delta.delta in tokens.pieces(item.arguments):
        yield delta
    yield Event(
        type="response.function_call_arguments.done",
        item_id=item.id,
        output_index=0,
        name=item.name,
        arguments=item.arguments,
    )
