"""Plays a real trace to a daemon, faster than it happened: who calls, who leaves, what goes wrong.

A call is known by its serial number from end to end: a `Witness` notes that, and the caller knows
what `x-request-id` came for it. Where it may leave before that, or nobody knows whether it will
come, the model's name carries the number, too, and so do the books.
"""

import asyncio
import contextlib
import csv
import random
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from llmrouter.tasks import spawn
from tests.support import witness
from tests.support.daemon import Daemon

TRACES = Path(__file__).parent.parent / "e2e" / "data"
SERVICES = ("conversation", "code")
"""Of the trace; each is a model."""
PATIENCE_S = 60.0
AT_ONCE = 400
LEAVING, FAILING = 0.05, 0.02
FAULTS = ("500", "429", "503", "reset", "cut", "cut", "mute", "mute", "stall", "silent", "torn")
"""What goes wrong upstream; see `witness`. The doubled ones are those that leave much to guess."""
_WORDS = {
    "conversation": "the of and to you a in is that it for what how please answer question with",
    "code": "( ) : = . , if def self x i [ ] return 0 1 in not None + import",
}
_TEXT_WORDS = 20_000
_ABORTING = struct.pack("ii", 1, 0)
_CONTENT = b'"delta":{"content":"word'
_USAGE = re.compile(rb'"usage":\{"prompt_tokens":(\d+),"completion_tokens":(\d+)')


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it is to be made."""

    serial: int
    at_s: float
    """When, from the start of the trace."""
    service: str
    model: str
    """The service, or that and the serial number."""
    prompt_tokens: int
    output_tokens: int
    key: int
    """Which of the keys, by its number."""
    stream: bool
    asks_usage: bool
    """A streamed one asks to be told what it used."""
    fault: str = ""
    leaves_after_s: float | None = None
    """It leaves then, and reads nothing."""
    leaves_after_events: int | None = None
    """It leaves once it has so many."""
    resets: bool = False
    """How it leaves."""


class Heard(msgspec.Struct):
    """What became of a call, as its caller saw it."""

    status: int = 0
    request_id: str = ""
    prompt: int | None = None
    """Tokens that it was told of."""
    output: int = 0
    """The same, or the events that came where it was told nothing."""
    is_whole: bool = False
    left: bool = False


def arrivals() -> list[tuple[float, str, int, int]]:
    """The trace: seconds from its start, service, prompt and output tokens of each call."""
    found = []
    for service in SERVICES:
        at_ms = 0
        with (TRACES / f"azure_2023_{service}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                at_ms += int(row["after_ms"])
                lengths = int(row["prompt_tokens"]), int(row["output_tokens"])
                found.append((at_ms / 1000, service, *lengths))
    return sorted(found)


def plans(count: int, keys: int, chance: random.Random, *, named: bool) -> list[Planned]:
    """The first so many calls; all of them have models `named` by their number, or few have."""
    shares = [1 / (1 + number) for number in range(keys)]  # some call more than others
    return [
        _plan(serial, row, chance.choices(range(keys), shares)[0], chance, named=named)
        for serial, row in enumerate(arrivals()[:count], 1)
    ]


def _plan(
    serial: int,
    arrival: tuple[float, str, int, int],
    key: int,
    chance: random.Random,
    *,
    named: bool,
) -> Planned:
    at_s, service, prompt_tokens, output_tokens = arrival
    stream = chance.random() < 0.5
    leaving, failing = chance.random() < LEAVING, chance.random() < FAILING
    after_s, after_events = None, None
    if leaving and stream and chance.random() < 0.7:
        after_events = chance.randrange(output_tokens)
    elif leaving:
        after_s = chance.uniform(0, 0.01 if stream else output_tokens * witness.TOKEN_S)
    return Planned(
        serial=serial,
        at_s=at_s,
        service=service,
        model=f"{service}-{serial}" if named or after_s is not None else service,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        key=key,
        stream=stream,
        asks_usage=stream and chance.random() < 0.5,
        fault=chance.choice(FAULTS) if failing else "",
        leaves_after_s=after_s,
        leaves_after_events=after_events,
        resets=chance.random() < 0.5,
    )


class Player:
    """Makes the calls of a trace."""

    def __init__(self, daemon: Daemon, keys: Sequence[str], *, speed: float) -> None:
        self._daemon = daemon
        self._keys = keys
        self._speed = speed
        chance = random.Random(1)
        self._texts = {
            service: chance.choices(words.split(), k=_TEXT_WORDS)
            for service, words in _WORDS.items()
        }
        self._idle: list[_Connection] = []
        self.heard: dict[int, Heard] = {}
        """By serial number."""

    async def play(self, planned: Iterable[Planned]) -> None:
        """Make all calls, each at its time or as soon after it as there is room."""
        loop = asyncio.get_running_loop()
        start_s, gate = loop.time(), asyncio.Semaphore(AT_ONCE)
        calls = []
        for call in planned:
            await asyncio.sleep(start_s + call.at_s / self._speed - loop.time())
            await gate.acquire()
            calls.append(spawn(self._call(call, gate), name=f"call {call.serial}"))
        await asyncio.gather(*calls)
        for connection in self._idle:
            connection.leave(resets=False)

    async def _call(self, call: Planned, gate: asyncio.Semaphore) -> None:
        heard = self.heard[call.serial] = Heard()
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connection()
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # says `heard`
                    await connection.call(self._message(call), call, heard)
                if heard.is_whole:
                    self._idle.append(connection)
                else:
                    connection.leave(resets=call.resets)
        finally:
            gate.release()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.leave(resets=False)
        return _Connection(*await asyncio.open_connection(self._daemon.host, self._daemon.port))

    def _message(self, call: Planned) -> bytes:
        words, start = self._texts[call.service], call.serial % 1_000
        text = " ".join(words[start : start + call.prompt_tokens - 1])
        order = witness.order(call.output_tokens, call.fault)
        body: dict[str, object] = {
            "model": call.model,
            "messages": [{"role": "system", "content": order}, {"role": "user", "content": text}],
        }
        if call.stream:
            body["stream"] = True
        if call.asks_usage:
            body["stream_options"] = {"include_usage": True}
        encoded = msgspec.json.encode(body)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nuser-agent: {call.serial}\r\n"
            f"authorization: Bearer {self._keys[call.key]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(encoded)}\r\n\r\n"
        )
        return head.encode() + encoded


class _Connection:
    """One connection to the daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def is_open(self) -> bool:
        return not self._writer.is_closing() and not self._reader.at_eof()

    async def call(self, message: bytes, call: Planned, heard: Heard) -> None:
        """Make a call and note what is heard; raises OSError, IncompleteReadError if it is cut."""
        self._writer.write(message)
        if call.leaves_after_s is not None:
            await asyncio.sleep(call.leaves_after_s)
            heard.left = True
            return
        headers = await self._head(heard)
        body = bytearray()
        if "content-length" in headers:
            body += await self._reader.readexactly(int(headers["content-length"]))
        else:
            heard.left = not await self._read_stream(body, call.leaves_after_events)
        usage = _USAGE.search(body)
        heard.prompt = int(usage[1]) if usage else None
        heard.output = int(usage[2]) if usage else body.count(_CONTENT)
        heard.is_whole = not heard.left

    async def _head(self, heard: Heard) -> Mapping[str, str]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in _fields(fields)}
        heard.status = int(first.split(" ", 2)[1])
        heard.request_id = headers["x-request-id"]
        return headers

    async def _read_stream(self, body: bytearray, events_max: int | None) -> bool:
        """Read into `body`; whether to the end, and not only until so many events were enough."""
        while events_max is None or body.count(_CONTENT) < events_max:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            body += (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                return True
        return False

    def leave(self, *, resets: bool) -> None:
        """Close as an ordinary client does, or with a reset as one that was killed."""
        if self._writer.is_closing():
            return
        if resets:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
        self._writer.transport.abort()


def _fields(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(": ")
        yield name, value
