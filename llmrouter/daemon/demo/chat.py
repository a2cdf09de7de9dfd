"""Chat completions."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.chat_shapes import (
    Call,
    CalledFunction,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Logprobs,
    Message,
    logprobs_of,
)
from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.saying import ANY_OBJECT, Ending, Function, Prompt, Saying, say
from llmrouter.daemon.demo.shapes import (
    CHOICES_MAX,
    PREFILLED,
    Answer,
    BadRequest,
    Content,
    Stamp,
    StreamOptions,
    encode,
    event,
    interleaved,
    stops_of,
    text_of,
    tokens_of,
)
from llmrouter.daemon.demo.usage import Usage, usage_of

_Count = Annotated[int, Meta(ge=1)]


class _Asked(msgspec.Struct):
    role: str
    content: Content = None
    tool_calls: list[msgspec.Raw] | None = None


class _Tool(msgspec.Struct):
    function: Function | None = None


class _Named(msgspec.Struct):
    name: str


class _ToolChoice(msgspec.Struct):
    type: str
    function: _Named | None = None


class _JsonSchema(msgspec.Struct):
    schema: msgspec.Raw = ANY_OBJECT


class _Format(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


_tool = msgspec.json.Decoder(_Tool)


class ChatRequest(msgspec.Struct, kw_only=True):
    """A request for chat completions, as far as it matters here."""

    model: str
    messages: Annotated[list[_Asked], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    stop: str | list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: str | _ToolChoice | None = None
    response_format: _Format | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        if directives.prefill and self.messages[-1].role == "assistant":
            raise BadRequest(PREFILLED)
        prompt = self._prompt()
        sayings = [say(prompt, directives, choice) for choice in range(self.n or 1)]
        usage = usage_of(prompt.tokens, sayings, directives)
        if self.stream:
            events = self._events(stamp, sayings, usage)
            return Answer(events=events, announced=len(sayings))
        completion = Completion(
            id=stamp.id("chatcmpl-"),
            created=stamp.created_at_s,
            model=self.model,
            choices=[self._choice(at, said, stamp) for at, said in enumerate(sayings)],
            usage=usage or UNSET,
        )
        return Answer(encode(completion))

    def _prompt(self) -> Prompt:
        said = [text_of(each.content) for each in self.messages if each.role == "user"]
        return Prompt(
            said=said[-1] if said else "",
            tokens=self._prompt_tokens(),
            tokens_max=self.max_completion_tokens or self.max_tokens,
            stops=stops_of(self.stop),
            function=self._function(),
            schema=self._schema(),
        )

    def _prompt_tokens(self) -> int:
        calls = [call for each in self.messages for call in each.tool_calls or ()]
        said = sum(tokens_of(each.content) for each in self.messages)
        return said + tokens.count_raw((*calls, *(self.tools or ())))

    def _function(self) -> Function | None:
        """Choose the function to be called; tool results are answered by text."""
        if not self.tools or self.tool_choice == "none" or self.messages[-1].role != "user":
            return None
        functions = [found for raw in self.tools if (found := _tool.decode(raw).function)]
        if isinstance(self.tool_choice, _ToolChoice) and self.tool_choice.function is not None:
            name = self.tool_choice.function.name
            functions = [function for function in functions if function.name == name]
            if not functions:
                raise BadRequest(f"tool_choice names the function {name!r}, which is not in tools")
        return functions[0] if functions else None

    def _schema(self) -> msgspec.Raw | None:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        return ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.schema

    def _choice(self, index: int, saying: Saying, stamp: Stamp) -> Choice:
        message = Message(content=saying.text)
        if saying.function is not None:
            function = CalledFunction(name=saying.function, arguments=saying.text)
            call = Call(id=_call_id(stamp, index), type="function", function=function)
            message = Message(content=None, tool_calls=[call])
        return Choice(
            index=index,
            message=message,
            finish_reason=_finish_reason(saying),
            logprobs=self._logprobs(saying, tokens.pieces(saying.text)),
        )

    def _logprobs(self, saying: Saying, pieces: Iterator[str]) -> Logprobs | None:
        if not self.logprobs or saying.function is not None:
            return None
        return logprobs_of(pieces, self.top_logprobs or 0)

    # ---- streamed -----------------------------------------------------------------------

    def _events(self, stamp: Stamp, sayings: list[Saying], usage: Usage | None) -> Iterator[bytes]:
        tells_usage = bool(self.stream_options and self.stream_options.include_usage)
        chunk = Chunk(
            id=stamp.id("chatcmpl-"),
            created=stamp.created_at_s,
            model=self.model,
            choices=[],
            usage=None if tells_usage and usage else UNSET,
        )
        choices = [
            self._choice_events(chunk, stamp, index, saying) for index, saying in enumerate(sayings)
        ]
        yield from interleaved(choices)
        if tells_usage and usage is not None:
            chunk.choices, chunk.usage = [], usage
            yield event(chunk)

    def _choice_events(
        self, chunk: Chunk, stamp: Stamp, index: int, saying: Saying
    ) -> Iterator[bytes]:
        """Encode one chunk again and again: only its choice changes."""
        calls = saying.function is not None
        delta = Delta(role="assistant", content=None if calls else "", refusal=None)
        choice = ChunkChoice(index=index, delta=delta)
        choices = [choice]
        for choice.delta in self._deltas(stamp, index, saying, delta):
            if self.logprobs and isinstance(choice.delta.content, str) and choice.delta.content:
                choice.logprobs = self._logprobs(saying, iter((choice.delta.content,)))
            chunk.choices = choices
            yield event(chunk)
        choice.delta, choice.logprobs = Delta(), None
        choice.finish_reason = _finish_reason(saying)
        chunk.choices = choices
        yield event(chunk)

    def _deltas(self, stamp: Stamp, index: int, saying: Saying, first: Delta) -> Iterator[Delta]:
        yield first
        if saying.function is None:
            delta = Delta()
            for delta.content in tokens.pieces(saying.text):
                yield delta
            return
        function = CalledFunction(name=saying.function, arguments="")
        yield Delta(
            tool_calls=[
                Call(index=0, id=_call_id(stamp, index), type="function", function=function)
            ]
        )
        arguments = CalledFunction(arguments="")
        delta = Delta(tool_calls=[Call(index=0, function=arguments)])
        for arguments.arguments in tokens.pieces(saying.text):
            yield delta


def _call_id(stamp: Stamp, index: int) -> str:
    return f"{stamp.id('call_')}_{index}"


def _finish_reason(saying: Saying) -> str:
    if saying.function is not None and saying.ending is Ending.STOP:
        return "tool_calls"
    return saying.ending.value
