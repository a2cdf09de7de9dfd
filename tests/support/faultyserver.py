"""An upstream that goes wrong as it is told: a process of its own that shares no code with ours.

It speaks just enough HTTP and chat completions. Orders come line by line on its standard input, and
each is answered by a line of counts; the end of the input is its end.
"""

import asyncio
import contextlib
import random
import socket
import struct
import sys

import msgspec
import uvloop

from tests.support.faults import Counts, Fault, Order, Port, Seen
from tests.support.faultyanswer import Answer, Call, Ended, Gone, read_call

_ABORTING = struct.pack("ii", 1, 0)
_order = msgspec.json.Decoder(Order)
SOUND = Fault()


class _Process:
    """The upstream itself."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port
        self._faults: dict[str, Fault] = {}
        self._met: dict[str, int] = {}
        """How many calls of a model there were since its fault was ordered."""
        self._first_s = (0.0, 0.0)
        self._chance = random.Random(port)
        self._counts = Counts()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._full: list[socket.socket] = []
        """What makes the port dead."""

    async def lead(self) -> None:
        """Follow orders until there are no more."""
        loop = asyncio.get_running_loop()
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        flapping: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            while line := await orders.readline():
                order = _order.decode(line)
                self._faults |= order.faults
                self._met |= dict.fromkeys(order.faults, 0)
                self._first_s = order.first_s or self._first_s
                if flapping is not None and (order.port or order.flap_s is not None):
                    flapping.cancel()
                if order.port is not None:
                    await self._be(order.port)
                if order.flap_s is not None:
                    flapping = group.create_task(self._flap(order.flap_s))
                sys.stdout.buffer.write(msgspec.json.encode(self._counts) + b"\n")
                sys.stdout.buffer.flush()
            if flapping is not None:
                flapping.cancel()

    async def _flap(self, period_s: float) -> None:
        while True:
            for port in (Port.OPEN, Port.REFUSED):
                await self._be(port)
                await asyncio.sleep(period_s)

    async def _be(self, port: Port) -> None:
        """Do this at the port from now on; unless it is open, whatever stood is reset."""
        for each in self._full:
            each.close()
        self._full = []
        if port is Port.OPEN:
            if self._server is None:
                listener = _listener(self._port, 4_096)
                self._server = await asyncio.start_server(self._accepted, sock=listener)
            return
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
            writer.transport.abort()
        self._writers.clear()
        if port is Port.DEAD:
            self._full = [
                _listener(self._port, 0),
                socket.create_connection(("127.0.0.1", self._port)),
            ]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self._counts.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._serve(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One call; whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        if not head.startswith("POST "):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return True
        call = read_call.decode(await reader.readexactly(int(fields["content-length"])))
        answer = Answer(call, self._fault(call.model), self._name, reader, writer)
        answer.first_s = self._chance.uniform(*self._first_s)
        counts = self._counts
        counts.open += 1
        counts.most = max(counts.most, counts.open)
        try:
            return await self._give(answer, call, writer)
        finally:
            counts.open -= 1

    async def _give(self, answer: Answer, call: Call, writer: asyncio.StreamWriter) -> bool:
        counts = self._counts
        words = call.messages[0].content.split(maxsplit=1)
        seens = (counts.all, counts.by_tag.setdefault(words[0], Seen()))
        counts.by_model[call.model] = counts.by_model.get(call.model, 0) + 1
        for seen in seens:
            seen.begun += 1
        ending, may_follow = "whole", True
        try:
            if not await answer.give():
                ending = "refused"
        except (Gone, OSError):
            ending, may_follow = "left" if writer in self._writers else "broken", False
        except Ended as ended:
            ending, may_follow = "broken", ended.framed
        for seen in seens:
            _note(seen, ending, answer)
        return may_follow

    def _fault(self, model: str) -> Fault:
        """What goes wrong with the next call of the model."""
        fault = self._faults.get(model)
        if fault is None:
            return SOUND
        number = self._met[model]
        self._met[model] = number + 1
        is_met = number % fault.every == fault.every - 1
        is_over = fault.times and number // fault.every >= fault.times
        return fault if is_met and not is_over else SOUND


def _note(seen: Seen, ending: str, answer: Answer) -> None:
    setattr(seen, ending, getattr(seen, ending) + 1)
    if answer.told:
        seen.prompt += answer.prompt
        seen.output += answer.words
    else:
        seen.sent += answer.sent


def _listener(port: int, backlog: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(backlog)
    return listener


if __name__ == "__main__":
    uvloop.run(_Process(sys.argv[1], int(sys.argv[2])).lead())
