"""How an answer is spoiled on its way: which bytes leave, under which framing, and how it ends."""

from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat

import msgspec

from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.shapes import ERROR, Answer, encode

_CHUNKED = b"transfer-encoding: chunked\r\n"
_PING = b": ping\n\n"
_LAST_CHUNK = b"0\r\n\r\n"
_BEGUN_CHUNK = b"1"
"""The size of a chunk that never comes: so the head leaves even where no event does."""


class Spoiled(msgspec.Struct, frozen=True):
    """An answer whose framing is written here, because it is not kept, or drips too."""

    framing: bytes
    """The header that promises where the answer ends."""
    pieces: Iterator[bytes]
    stays_open: bool


def breaks_framing(directives: Directives) -> bool:
    """Tell whether the answer has to be `spoiled`."""
    return directives.cut is not None or directives.stall is not None or directives.drip


def events_of(answer: Answer, directives: Directives) -> Iterator[bytes]:
    """Give the events that a stream has, be it spoiled or not."""
    assert answer.events is not None
    events = answer.events
    if directives.malformed is not None:
        events = _garbled(events, directives.malformed)
    if directives.error_event is not None:
        events = chain(islice(events, directives.error_event), _made(answer.failure))
    end = _end(directives)
    if end is not None:
        return islice(events, end)
    has_last = not directives.no_done and directives.error_event is None
    return chain(events, _made(answer.last)) if has_last else events


def settled(directives: Directives, answer: Answer) -> Directives:
    """Say in events of this answer where it is cut."""
    if not directives.role_cut:
        return directives
    return msgspec.structs.replace(directives, cut=answer.announced)


def pings(directives: Directives) -> Iterator[bytes]:
    """Give the comments that come before all events."""
    return repeat(_PING, directives.ping)


def body_of(answer: Answer, directives: Directives) -> bytes:
    """Give the body that a plain answer has; one that is cut is so elsewhere."""
    body = answer.body if directives.error_event is None else encode(ERROR)
    return body if directives.malformed is None else body[: len(body) // 2]


def spoiled_stream(events: Iterator[bytes], directives: Directives) -> Spoiled:
    """Frame a stream in chunks; another one begins where it does not come to its end."""
    last = _LAST_CHUNK if _end(directives) is None else _BEGUN_CHUNK
    pieces = chain(map(_chunk, events), (last,))
    return _spoiled(_CHUNKED, pieces, directives)


def spoiled_body(body: bytes, directives: Directives) -> Spoiled:
    """Promise the whole body, and give all or half of it."""
    framing = b"content-length: %d\r\n" % len(body)
    sent = body if _end(directives) is None else body[: len(body) // 2]
    return _spoiled(framing, iter((sent,)), directives)


def _spoiled(framing: bytes, pieces: Iterator[bytes], directives: Directives) -> Spoiled:
    if directives.drip:
        pieces = (bytes((byte,)) for piece in pieces for byte in piece)
    stays_open = directives.stall is not None and directives.cut is None
    return Spoiled(framing, pieces, stays_open)


def _end(directives: Directives) -> int | None:
    """After how many events the answer breaks off, if it does."""
    ends = [end for end in (directives.cut, directives.stall) if end is not None]
    return min(ends, default=None)


def _garbled(events: Iterator[bytes], sound: int) -> Iterator[bytes]:
    """Cut one event in half, its line end kept: the framing is right, the JSON is not."""
    for at, event in enumerate(events):
        yield event if at != sound else event[: len(event) // 2].rstrip() + b"\n\n"


def _made(event: Callable[[], bytes]) -> Iterator[bytes]:
    # Made only when it is its turn: it may carry the number of events before it.
    yield event()


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)
