"""What the events of a stream carry: JSON, the end marker, nothing, or what nobody can read.

Every event is looked at, and this is the hottest code there is. So a block is first taken for what
nearly every one is: events with one line of JSON each, and nothing in it that matters here. One
walk over its values tells that, and makes nothing of them. All else is looked at event by event.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from llmrouter.dialects.openai import lenient

MALFORMED: Final = "the upstream sent an event that is not whole JSON"

NOT_PLAIN: Final = -1
_DONE: Final = b"[DONE]"


def plain_count(walk: Callable[[bytes], object], block: bytes) -> int:
    """How many events of a block have data, if that is one line each such as `walk` takes.

    NOT_PLAIN where some is not: `walk` decodes, and raises where it meets what is to be looked at
    more closely.
    """
    found = 0
    has_data = False
    try:
        for line in block.splitlines():
            if line.startswith(b"data:"):
                if has_data:
                    return NOT_PLAIN  # of several lines: only together they may be JSON
                walk(line[5:])
                has_data = True
                found += 1
            elif not line:
                has_data = False
            elif line == b"data":
                return NOT_PLAIN
    except (msgspec.DecodeError, RecursionError):
        return NOT_PLAIN
    return found


def is_end(data: bytes) -> bool:
    """Whether this is the end marker as SDKs see it: whatever follows it in the event."""
    return data.startswith(_DONE)


def is_malformed(data: bytes) -> bool:
    """Whether this is neither the end marker nor JSON; empty data is no event, by the format."""
    return bool(data) and not is_end(data) and not lenient.is_whole(data)
