"""The errors that a caller can ask for: what is said instead of an answer."""

from collections.abc import Iterator

import msgspec

from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.turns import Turns, blinks


class Refusal(msgspec.Struct, frozen=True):
    """An answer that is an error."""

    status: int
    message: str
    code: str | None = None
    """The usual one of the status if None."""
    param: str | None = None
    retry_after_s: int = 1
    """Told where the status is one that says when to come again."""


_TOO_LONG = Refusal(
    400,
    "the demo was asked to find that the prompt is longer than its context",
    code="context_length_exceeded",
    param="messages",
)
_FILTERED = Refusal(
    400, "the demo was asked to refuse what the prompt says", code="content_filter", param="prompt"
)


def refusal(directives: Directives, turns: Turns, now_s: float) -> Refusal | None:
    """What a call is refused with, if that is asked for; of several, the first that strikes."""
    return next(_refusals(directives, turns, now_s), None)


def _refusals(directives: Directives, turns: Turns, now_s: float) -> Iterator[Refusal]:
    if directives.context_length:
        yield _TOO_LONG
    if directives.content_refused:
        yield _FILTERED
    if (seconds := directives.throttle) is not None:
        reason = f"the demo was asked to have no room for {seconds} seconds"
        yield Refusal(429, reason, retry_after_s=seconds)
    if directives.blink and blinks(directives.blink, now_s):
        yield Refusal(503, "the demo was asked to be out for a while; try again")
    if directives.flap and turns.flaps(directives.flap):
        yield Refusal(503, "the demo was asked to flap; try again")
    if directives.fail_rate and turns.fails(directives.fail_rate):
        yield Refusal(500, "the demo was asked to fail some of its calls")
    if directives.error is not None:
        yield Refusal(directives.error, f"the demo was asked for status {directives.error}")
