"""JSON as SDKs read it: all that the standard has, and what they let pass beside it.

`NaN` and `Infinity`, half surrogate pairs, and bytes that are not UTF-8 occur in real answers, and
no caller was ever cut off for them. What is truncated or garbled is refused here as it is there.
"""

from json import JSONDecoder, JSONEncoder
from typing import TypeVar

import msgspec

from llmrouter.contracts.call import Usage
from llmrouter.dialects.openai.counts import COUNT_MAX, Counts
from llmrouter.dialects.openai.usage import usage_of

Shape = TypeVar("Shape")

_reader = JSONDecoder(parse_constant=lambda _: None)
_writer = JSONEncoder(ensure_ascii=False)
_syntax = msgspec.json.Decoder(msgspec.Raw)
"""Walks over a value, and makes nothing of it."""


def read(text: bytes) -> object:
    """Read one whole value; raises ValueError where it is none. Slow: for what is odd."""
    try:
        return _reader.decode(text.decode("utf-8-sig", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_whole(text: bytes) -> bool:
    """Whether the bytes are one whole value."""
    try:
        _syntax.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _is_read(text)
    return True


def decode(decoder: msgspec.json.Decoder[Shape], text: bytes) -> Shape | None:
    """Read a value of a known shape; None where it has another, or is none."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        return _decode_odd(decoder, text)


def _decode_odd(decoder: msgspec.json.Decoder[Shape], text: bytes) -> Shape | None:
    """Write anew what can be read, as the standard has it."""
    try:
        return decoder.decode(_writer.encode(read(text)).encode(errors="replace"))
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None


def _is_read(text: bytes) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def odd_usage(value: object) -> Usage | None:
    """Usage in which some counts are not whole numbers that can be; those are not read."""
    try:
        return usage_of(msgspec.convert(_sensible(value), Counts | None))
    except (msgspec.ValidationError, RecursionError):
        return None


def _sensible(value: object) -> object:
    match value:
        case dict():
            return {name: _sensible(inner) for name, inner in value.items()}
        case bool():
            return None
        case int() | float() if 0 <= value <= COUNT_MAX:
            return int(value) if value == int(value) else value
        case _:
            return None
