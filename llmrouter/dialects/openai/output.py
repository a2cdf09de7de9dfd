"""How much output a call allows itself: a few members, read without decoding the others.

Nothing here may count less than what a server makes of the same body, for budgets rest on it. So
where two members say the same thing, the larger counts; and a member that another server puts above
ours makes the limit unknown.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from llmrouter.contracts.call import Operation
from llmrouter.errors import InvalidRequest

TOKENS_MAX: Final = 2**31 - 1  # a 32-bit number holds every context there is
CHOICES_MAX: Final = 1_000  # of one prompt; the API has at most 128
TOTAL_MAX: Final = 10**12  # of all choices together; its cost still is a number of 64 bits
COMMAS_MAX: Final = 200_000  # in a list of prompts, which is decoded to be counted

# An attribute of an enumeration costs 50 ns, and this stands on the path of every call.
CHAT: Final[Operation] = Operation.CHAT
COMPLETION: Final[Operation] = Operation.COMPLETION
EMBEDDING: Final[Operation] = Operation.EMBEDDING
RESPONSE: Final[Operation] = Operation.RESPONSE
_OVERRULING: Final = "n_predict"
"""Where llama.cpp finds this, it does not look at `max_tokens`."""
MEMBERS: Final[frozenset[str]] = frozenset(
    {
        *("max_completion_tokens", "max_tokens", "max_output_tokens", _OVERRULING),
        *("n", "best_of", "prompt"),
    }
)
"""All that is read here."""

_DIGITS_MAX: Final = 20  # of a number that is shown
_number: Final = msgspec.json.Decoder(int, strict=False)
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])


def most_tokens(
    operation: Operation, members: Mapping[str, msgspec.Raw], choices: int
) -> int | None:
    """The most tokens of all choices together; None if the call sets no limit that surely holds."""
    if operation is EMBEDDING:
        return 0
    if operation is RESPONSE:
        most = _tokens(members, "max_output_tokens")
    else:
        most = _tokens(members, "max_tokens")
        if operation is CHAT:
            most = max(most, _tokens(members, "max_completion_tokens"))
    if most < 0 or (_OVERRULING in members and bytes(members[_OVERRULING]) != b"null"):
        return None
    if most * choices > TOTAL_MAX:
        reason = f"{most} tokens for each of {choices} choices are more than {TOTAL_MAX}"
        raise InvalidRequest(f"{reason}; ask for less")
    return most * choices


def choices(operation: Operation, members: Mapping[str, msgspec.Raw]) -> int:
    """How many answers are generated, over all prompts."""
    if operation is not CHAT and operation is not COMPLETION:
        return 1
    count = max(1, _choices(members, "n"), _choices(members, "best_of"))
    if operation is COMPLETION and "prompt" in members:
        count *= _prompts(bytes(members["prompt"]))
    return count


def _tokens(members: Mapping[str, msgspec.Raw], name: str) -> int:
    return -1 if (raw := members.get(name)) is None else _read(name, bytes(raw), 0, TOKENS_MAX)


def _choices(members: Mapping[str, msgspec.Raw], name: str) -> int:
    return -1 if (raw := members.get(name)) is None else _read(name, bytes(raw), 1, CHOICES_MAX)


def _read(name: str, raw: bytes, least: int, most: int) -> int:
    """A whole number; -1 for null."""
    if raw == b"null":
        return -1
    value = int(raw) if raw.isdigit() and len(raw) <= _DIGITS_MAX else _read_odd(raw)
    if not least <= value <= most:
        reason = f"the member '{name}' is {_shown(raw)}; send a whole number from {least} to {most}"
        raise InvalidRequest(f"{reason}, or leave it out", param=name)
    return value


def _read_odd(raw: bytes) -> int:
    """A whole number that is written like a fraction, `100.0` or `1e3`; -1 for all else."""
    if raw.startswith(b'"'):
        return -1  # the decoder takes text for a number, but not every server does
    try:
        return _number.decode(raw)
    except msgspec.DecodeError:
        return -1


def _shown(raw: bytes) -> str:
    """Only a number is shown: anything else might be a prompt in the wrong place."""
    text = raw[: _DIGITS_MAX + 1].decode("ascii", "replace")
    if text[0] not in "-0123456789":
        return "no number"
    return text if len(text) <= _DIGITS_MAX else f"{text[:_DIGITS_MAX]}..."


def _prompts(prompt: bytes) -> int:
    """One for text and for a list of tokens, and otherwise as many as the list has."""
    if not prompt.startswith(b"["):
        return 1
    if b'"' not in prompt and b"[" not in prompt[1:]:
        return 1  # tokens
    if prompt.count(b",") > COMMAS_MAX:
        reason = (
            "the member 'prompt' is a list of more than can be counted; send it in several calls"
        )
        raise InvalidRequest(reason, param="prompt")
    return max(len(_elements.decode(prompt)), 1)
