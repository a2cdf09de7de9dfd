"""Plain answers: whether they are whole, and the usage out of them."""

from typing import Final

import msgspec

from llmrouter.contracts.call import Usage
from llmrouter.dialects.openai import lenient
from llmrouter.dialects.openai.counts import NULL, Answer
from llmrouter.dialects.openai.usage import usage_of
from llmrouter.errors import UpstreamError

_plain: Final = msgspec.json.Decoder(Answer)


def read_usage(body: bytes) -> Usage | None:
    """Check that a plain answer is whole JSON, and read its usage, if it has any that can be read.

    Raises UpstreamError where the bytes are not one JSON value, or are an error behind a status of
    success, as some servers send it: SDKs would take that for an answer with nothing in it.
    """
    try:
        plain = _plain.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return _read_odd_usage(body)
    if plain.error is not NULL and _is_only_an_error(plain):
        raise UpstreamError("the upstream's answer is an error, though its status says success")
    return usage_of(plain.usage)


def _is_only_an_error(plain: Answer) -> bool:
    """A response that has failed has an error too, but is an object of the API."""
    said = bytes(plain.error)
    return said != b"null" and bytes(plain.object) == bytes(plain.choices) == b"null"


def _read_odd_usage(body: bytes) -> Usage | None:
    """The same for a body that is cut, or not quite what we expect: slower, and more lenient."""
    try:
        answer = lenient.read(body)
    except ValueError as error:
        raise UpstreamError("the upstream's answer is not whole JSON") from error
    return lenient.odd_usage(answer.get("usage")) if isinstance(answer, dict) else None


def read_usage_tail(tail: bytes) -> Usage | None:
    """Read the usage from the last bytes of an answer, where it is near the end."""
    end = len(tail)
    while (start := tail.rfind(b'"usage"', 0, end)) >= 0:
        try:
            return read_usage(b"{" + tail[start:])
        except UpstreamError:
            end = start  # not a member of the answer itself
    return None
