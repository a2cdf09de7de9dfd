"""Completions of a bare prompt."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.saying import Prompt, Saying, say
from llmrouter.daemon.demo.shapes import (
    CHOICES_MAX,
    Answer,
    BadRequest,
    Stamp,
    StreamOptions,
    encode,
    event,
    interleaved,
    stops_of,
)
from llmrouter.daemon.demo.usage import Usage, usage_of

_LOGPROB = -0.25


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class _Choice(msgspec.Struct):
    text: str
    index: int
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, kw_only=True):
    """A whole answer, or one event of a streamed one: they have the same form."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[_Choice]
    usage: Usage | UnsetType | None = UNSET


class CompletionRequest(msgspec.Struct, kw_only=True):
    """A request for completions, as far as it matters here."""

    model: str
    prompt: str | list[str | int | list[int]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    stop: str | list[str] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        prompts = self._prompts()
        if not 0 < len(prompts) * (self.n or 1) <= CHOICES_MAX:
            raise BadRequest(f"prompts times n must be from 1 to {CHOICES_MAX}")
        asked = [prompt for prompt in prompts for _ in range(self.n or 1)]
        sayings = [say(prompt, directives, choice) for choice, prompt in enumerate(asked)]
        usage = usage_of(sum(prompt.tokens for prompt in prompts), sayings, directives)
        echoes = [prompt.said if self.echo else "" for prompt in asked]
        completion = _Completion(
            id=stamp.id("cmpl-"), created=stamp.created_at_s, model=self.model, choices=[]
        )
        if self.stream:
            return Answer(events=self._events(completion, echoes, sayings, usage))
        completion.usage = usage or UNSET
        completion.choices = [
            self._choice(index, echo, saying)
            for index, (echo, saying) in enumerate(zip(echoes, sayings, strict=True))
        ]
        return Answer(encode(completion))

    def _prompts(self) -> list[Prompt]:
        """One for each prompt; numbers are tokens of a prompt that we cannot read."""
        if not isinstance(self.prompt, list):
            return [self._prompt(self.prompt or "")]
        numbers = [item for item in self.prompt if isinstance(item, int)]
        if numbers:
            return [self._prompt(numbers)]
        return [self._prompt(item) for item in self.prompt if not isinstance(item, int)]

    def _prompt(self, prompt: str | list[int]) -> Prompt:
        text = prompt if isinstance(prompt, str) else ""
        return Prompt(
            said=text,
            tokens=tokens.count(text) if isinstance(prompt, str) else len(prompt),
            tokens_max=self.max_tokens,
            stops=stops_of(self.stop),
        )

    def _choice(self, index: int, echo: str, saying: Saying) -> _Choice:
        text = echo + saying.text
        return _Choice(text, index, self._logprobs(text, 0), saying.ending.value)

    def _logprobs(self, text: str, offset: int) -> _Logprobs | None:
        if self.logprobs is None:
            return None
        pieces = list(tokens.pieces(text))
        return _Logprobs(
            tokens=pieces,
            token_logprobs=[_LOGPROB] * len(pieces),
            top_logprobs=[{piece: _LOGPROB} if self.logprobs else {} for piece in pieces],
            text_offset=[offset + at * tokens.TOKEN_CHARS for at in range(len(pieces))],
        )

    def _events(
        self, chunk: _Completion, echoes: list[str], sayings: list[Saying], usage: Usage | None
    ) -> Iterator[bytes]:
        tells_usage = bool(self.stream_options and self.stream_options.include_usage)
        chunk.usage = None if tells_usage and usage else UNSET
        choices = [
            self._choice_events(chunk, index, echo, saying)
            for index, (echo, saying) in enumerate(zip(echoes, sayings, strict=True))
        ]
        yield from interleaved(choices)
        if tells_usage and usage is not None:
            chunk.choices, chunk.usage = [], usage
            yield event(chunk)

    def _choice_events(
        self, chunk: _Completion, index: int, echo: str, saying: Saying
    ) -> Iterator[bytes]:
        choice = _Choice("", index)
        choices = [choice]
        offset = 0
        for choice.text in _with_echo(echo, saying):
            choice.logprobs = self._logprobs(choice.text, offset)
            offset += len(choice.text)
            chunk.choices = choices
            yield event(chunk)
        choice.text, choice.logprobs, choice.finish_reason = "", None, saying.ending.value
        chunk.choices = choices
        yield event(chunk)


def _with_echo(echo: str, saying: Saying) -> Iterator[str]:
    if echo:
        yield echo
    yield from tokens.pieces(saying.text)
