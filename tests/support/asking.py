"""One chat call through the real SDK: what its caller got, and when."""

import time
from typing import Any

import msgspec
import openai

from tests.support.faults import WORDS

GIVEN_UP_S = 45.0
"""What the SDK waits for: whoever waits so long was left hanging."""


class Got(msgspec.Struct, frozen=True):
    """What a caller got."""

    text: str
    """As far as it came."""
    finish: str | None
    error: Exception | None
    took_s: float
    first_s: float | None
    """Until the first text came; of a plain answer, until it was there."""


def client(base_url: str, key: str, *, max_retries: int = 0) -> openai.OpenAI:
    """An SDK as anybody makes one, but for its patience."""
    return openai.OpenAI(
        base_url=base_url, api_key=key, max_retries=max_retries, timeout=GIVEN_UP_S
    )


def ask(sdk: openai.OpenAI, model: str, messages: list[dict[str, str]], *, stream: bool) -> Got:
    """Make one call."""
    call: dict[str, Any] = {"messages": messages, "max_tokens": WORDS}
    if stream:
        call["stream_options"] = {"include_usage": True}
    create: Any = sdk.chat.completions.create
    text, finish, error, first_s = "", None, None, None
    sent_at_s = time.monotonic()
    try:
        answer = create(model=model, stream=stream, **call)
        for event in answer if stream else [answer]:
            for choice in event.choices:
                piece = (choice.delta if stream else choice.message).content or ""
                if piece and first_s is None:
                    first_s = time.monotonic() - sent_at_s
                text += piece
                finish = choice.finish_reason or finish
    except Exception as caught:  # noqa: BLE001  # whatever it is, it is what the caller got
        error = caught
    return Got(text, finish, error, time.monotonic() - sent_at_s, first_s)
