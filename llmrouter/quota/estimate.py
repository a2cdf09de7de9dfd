"""Estimates of what a call will use, learned from what calls used. Pure.

They decide how much is held while a call runs, and what is charged where no upstream tells; what an
upstream reports is charged as it is. Nothing here reads a prompt: bytes and events are counted.

The output is foreseen per key and model by an envelope that rises half-way to what exceeds it and
falls slowly below it, so that it settles near a high quantile: that many calls need no more.
"""

from typing import Final

FIRST_OUTPUT: Final = 1_000
"""Output tokens held for a key's first call to a model, where it does not ask for fewer."""
MILLI_BYTES_PER_TOKEN: Final = 3_500
"""Of a prompt in its JSON body, until an upstream has said how many tokens a body had."""
MILLI_BYTES_MAX: Final = 16_000
"""No text has more bytes to a token: else a body padded with white space would make all prompts of
its model free to whoever leaves before they are counted."""
MILLI_TOKENS_PER_EVENT: Final = 1_000
"""Most upstreams send a token an event."""
MILLI_TOKENS_MAX: Final = 256_000
"""No event is learned to have more: that would be what was not shown, and is in none."""
OUTPUT_LEARNED_MAX: Final = 128_000
"""Longer answers teach no more, so that one wrong report does not hold whole limits for days."""
SLICE: Final = 256
"""Output tokens by which the hold of a running stream grows."""
MODELS_MAX: Final = 4_096
"""Models, and pairs of key and model, that are remembered; callers choose the names."""
FALL: Final = 64
"""Below the envelope it falls by one part in so many of the distance: five calls in six fit it."""
_EVENTS_MIN: Final = 8  # shorter streams are mostly frame: they say little about the rest


class Estimator:
    """Learns from what calls used."""

    def __init__(self) -> None:
        self._milli_bytes: dict[str, int] = {}
        self._milli_tokens: dict[str, int] = {}
        self._outputs: dict[tuple[str, str], int] = {}

    def __repr__(self) -> str:
        return f"<Estimator models={len(self._milli_bytes)}>"

    def prompt_tokens(self, model: str, body_bytes: int) -> int:
        """The tokens of a prompt in a body of so many bytes."""
        ratio = self._milli_bytes.get(model, MILLI_BYTES_PER_TOKEN)
        return -(-body_bytes * 1_000 // ratio)

    def output_tokens(self, key_id: str, model: str, output_max: int | None) -> int:
        """The output tokens to hold at first; never more than the caller allows."""
        output = self._outputs.get((key_id, model), FIRST_OUTPUT)
        return output if output_max is None or output < output_max else output_max

    def passed_tokens(self, model: str, events: int) -> int:
        """The output tokens in so many events of a stream."""
        return -(-events * self._milli_tokens.get(model, MILLI_TOKENS_PER_EVENT) // 1_000)

    def events(self, model: str, tokens: int) -> int:
        """The events of a stream that carry no more than so many output tokens."""
        return tokens * 1_000 // self._milli_tokens.get(model, MILLI_TOKENS_PER_EVENT)

    def learn_prompt(self, model: str, body_bytes: int, prompt_tokens: int) -> None:
        """A body of so many bytes had so many tokens, says the upstream."""
        if prompt_tokens > 0:
            seen = min(MILLI_BYTES_MAX, max(1, body_bytes * 1_000 // prompt_tokens))
            self._learn(self._milli_bytes, model, seen)

    def learn_events(self, model: str, events: int, output_tokens: int) -> None:
        """So many events had so many tokens, says the upstream."""
        if events >= _EVENTS_MIN and output_tokens > 0:
            seen = min(MILLI_TOKENS_MAX, max(1, output_tokens * 1_000 // events))
            self._learn(self._milli_tokens, model, seen)

    def learn_output(self, key_id: str, model: str, output_tokens: int) -> None:
        """A whole answer had so many tokens."""
        output_tokens = min(output_tokens, OUTPUT_LEARNED_MAX)
        name = key_id, model
        known = self._outputs.get(name)
        if known is None:
            if len(self._outputs) >= MODELS_MAX:
                self._outputs.clear()
            self._outputs[name] = output_tokens + output_tokens // 4
        elif output_tokens > known:
            self._outputs[name] = known + (output_tokens - known + 1) // 2
        else:
            self._outputs[name] = known - (known - output_tokens + FALL - 1) // FALL

    def _learn(self, table: dict[str, int], model: str, seen: int) -> None:
        known = table.get(model)
        if known is None:
            if len(table) >= MODELS_MAX:
                table.clear()
            table[model] = seen
        else:
            table[model] = known + (seen - known) // 8
