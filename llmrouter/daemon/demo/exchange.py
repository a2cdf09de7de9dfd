"""One request to the demo and its answer: what was asked for, then how it is given."""

import asyncio
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import chain

from llmrouter.daemon.demo import answers, faults
from llmrouter.daemon.demo.counters import Counters, Last, last_of
from llmrouter.daemon.demo.delivery import BATCH, Delivery
from llmrouter.daemon.demo.directives import (
    HEADER,
    NONE,
    SLOW_S,
    DirectiveError,
    Directives,
    read_directives,
)
from llmrouter.daemon.demo.refusals import Refusal, refusal
from llmrouter.daemon.demo.shapes import Answer, BadRequest, Stamp
from llmrouter.daemon.demo.turns import Turns
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.request import Request

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
HTML = b"text/html; charset=utf-8"

_PAGE = b"<!doctype html><title>demo</title><h1>This is not JSON</h1>\n"
_KEEP_ALIVE = b"connection: keep-alive\r\n"
_OK_HEADS = {
    content_type: b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % content_type
    for content_type in (JSON, EVENTS, HTML)
}
_MS_PER_S = 1_000


class Shared:
    """What all exchanges of a demo have in common."""

    def __init__(self, counters: Counters, wall: Callable[[], float]) -> None:
        self.counters = counters
        self.wall = wall
        self.last: Last | None = None
        self.turns = Turns()


class SaidExchange:
    """An exchange whose answer needs nothing but to be said."""

    def __init__(
        self, connection: ServerConnection, status: int, body: Callable[[], bytes]
    ) -> None:
        self._connection = connection
        self._status = status
        self._body = body

    async def serve(self) -> None:
        self._connection.respond(head_of(self._status), self._body())


class CallExchange:
    """A call of the API."""

    __slots__ = ("_connection", "_ended", "_number", "_request", "_shared")

    def __init__(
        self, connection: ServerConnection, request: Request, shared: Shared, number: int
    ) -> None:
        self._connection = connection
        self._request = request
        self._shared = shared
        self._number = number
        self._ended = False

    async def serve(self) -> None:
        counters = self._shared.counters
        counters.open += 1
        try:
            await self._serve()
        except asyncio.CancelledError:
            counters.cancelled += not self._ended
            raise
        finally:
            counters.open -= 1

    async def _serve(self) -> None:
        request, counters = self._request, self._shared.counters
        body = request.body
        self._shared.last = last_of(request)
        request.drop_body()
        stamp = Stamp(self._number, int(self._shared.wall()))
        try:
            asked = answers.read(request.path, body)
            counters.streams += bool(asked.stream)
            counters.plain += not asked.stream
            directives = read_directives(asked.model, request.headers.get(HEADER))
            answer = answers.answer(asked, stamp, directives)
        except DirectiveError as error:
            self._refuse(Refusal(400, str(error), code="unknown_directive", param="model"))
        except BadRequest as error:
            self._refuse(Refusal(400, str(error)))
        else:
            await self._give(answer, directives)

    async def _give(self, answer: Answer, directives: Directives) -> None:
        if directives is not NONE:
            directives = faults.settled(directives, answer)
            if slow_s := self._slow_s(directives):
                await asyncio.sleep(slow_s)
            if directives.silent:
                await self._nothing_more()
            if self._fails(directives):
                return
        if answer.events is None:
            await self._give_body(faults.body_of(answer, directives), directives)
        else:
            events = self._counted(faults.events_of(answer, directives))
            await self._give_events(chain(faults.pings(directives), events), directives)

    def _slow_s(self, directives: Directives) -> float:
        if not directives.stall_rate:
            return directives.slow
        if not self._shared.turns.stalls(directives.stall_rate):
            return 0
        return directives.slow or SLOW_S

    def _fails(self, directives: Directives) -> bool:
        """Give an answer that is none, if one is asked for."""
        shared = self._shared
        if directives.reset:
            self._connection.abort()
        elif (refused := refusal(directives, shared.turns, shared.wall())) is not None:
            self._refuse(refused)
        elif directives.empty:
            self._respond(_OK_HEADS[JSON], b"", directives)
        elif directives.not_json:
            self._respond(_OK_HEADS[HTML], _PAGE, directives)
        else:
            return False
        return True

    def _refuse(self, refused: Refusal) -> None:
        status = refused.status
        body = answers.error_body(status, refused.message, code=refused.code, param=refused.param)
        head = head_of(status, refused.retry_after_s)
        self._connection.respond(head + self._id_header(), body)

    async def _give_body(self, body: bytes, directives: Directives) -> None:
        if not faults.breaks_framing(directives):
            self._respond(_OK_HEADS[JSON], body, directives)
            return
        await self._give_spoiled(_OK_HEADS[JSON], faults.spoiled_body(body, directives), directives)

    def _respond(self, head: bytes, body: bytes, directives: Directives) -> None:
        self._connection.respond(head + self._headers(directives), body)
        self._keep_promise(directives)

    async def _give_events(self, events: Iterator[bytes], directives: Directives) -> None:
        if faults.breaks_framing(directives):
            spoiled = faults.spoiled_stream(events, directives)
            await self._give_spoiled(_OK_HEADS[EVENTS], spoiled, directives)
            return
        self._connection.begin(_OK_HEADS[EVENTS] + self._headers(directives))
        self._keep_promise(directives)
        await self._deliver(events, directives, BATCH, self._finish)

    async def _give_spoiled(
        self, head: bytes, spoiled: faults.Spoiled, directives: Directives
    ) -> None:
        # As to HTTP/1.0, bytes go out as they are given and a close ends them; so any framing can
        # be promised, and kept or not.
        self._request.minor_version = 0
        self._connection.begin(head + spoiled.framing + self._id_header())
        if spoiled.stays_open:
            await self._deliver(spoiled.pieces, directives, 1, lambda: None)
            await self._nothing_more()
        await self._deliver(spoiled.pieces, directives, 1, self._finish)

    async def _deliver(
        self,
        pieces: Iterator[bytes],
        directives: Directives,
        batch: int,
        at_end: Callable[[], None],
    ) -> None:
        gap_s = directives.gap / _MS_PER_S
        delivery = Delivery(self._connection, pieces, at_end, gap_s=gap_s, batch=batch)
        await delivery.run()

    def _finish(self) -> None:
        self._ended = True
        self._connection.finish()

    async def _nothing_more(self) -> None:
        """Wait for the client to go away."""
        await asyncio.get_running_loop().create_future()

    def _counted(self, events: Iterator[bytes]) -> Iterator[bytes]:
        counters = self._shared.counters
        for event in events:
            counters.events_sent += 1
            yield event

    def _headers(self, directives: Directives) -> bytes:
        promise = _KEEP_ALIVE if directives.keepalive_close else b""
        return self._id_header() + promise

    def _id_header(self) -> bytes:
        return b"x-request-id: req_demo%010d\r\n" % self._number

    def _keep_promise(self, directives: Directives) -> None:
        """Or break it: the head is written, and what it says is not what comes."""
        if directives.keepalive_close:
            self._request.keep_alive = False


def head_of(status: int, retry_after_s: int = 1) -> bytes:
    """Status line and headers of a JSON answer."""
    retry = b"retry-after: %d\r\n" % retry_after_s if status in (429, 503) else b""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n%b" % (
        status,
        _reason(status),
        retry,
    )


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Asked For"
