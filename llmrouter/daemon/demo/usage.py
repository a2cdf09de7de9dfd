"""Usage, as chat and completions tell it and as responses do."""

from collections.abc import Sequence

import msgspec

from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.saying import Saying


class PromptDetails(msgspec.Struct):
    """Of the tokens of a prompt."""

    cached_tokens: int
    audio_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the tokens of an answer."""

    reasoning_tokens: int
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(msgspec.Struct):
    """As chat and completions tell it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: OutputDetails


class InputDetails(msgspec.Struct):
    """Of the tokens of a response's input."""

    cached_tokens: int


class ReasoningDetails(msgspec.Struct):
    """Of the tokens of a response's output."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """As responses tell it."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: ReasoningDetails
    total_tokens: int


def usage_of(prompt_tokens: int, sayings: Sequence[Saying], directives: Directives) -> Usage | None:
    """Sum what all choices used; None where usage is not to be told."""
    if directives.no_usage:
        return None
    output_tokens = sum(saying.tokens for saying in sayings)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=output_tokens,
        total_tokens=prompt_tokens + output_tokens,
        prompt_tokens_details=PromptDetails(min(directives.cached, prompt_tokens)),
        completion_tokens_details=OutputDetails(sum(s.reasoning_tokens for s in sayings)),
    )


def response_usage_of(
    prompt_tokens: int, saying: Saying, directives: Directives
) -> ResponseUsage | None:
    """Say what a response used; None where usage is not to be told."""
    if directives.no_usage:
        return None
    return ResponseUsage(
        input_tokens=prompt_tokens,
        input_tokens_details=InputDetails(min(directives.cached, prompt_tokens)),
        output_tokens=saying.tokens,
        output_tokens_details=ReasoningDetails(saying.reasoning_tokens),
        total_tokens=prompt_tokens + saying.tokens,
    )
