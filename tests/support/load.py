"""Load from the test's own loop: many connections that each make one call after another."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from tests.support.daemon import Daemon

PATIENCE_S = 60.0
READ_BYTES = 65_536


def request(key: str, call: dict[str, object], path: str = "/v1/chat/completions") -> bytes:
    """One call as it goes over the wire."""
    body = msgspec.json.encode(call)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Answer(msgspec.Struct, frozen=True):
    """What came back, and when; times are of the monotonic clock."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_at_s: float
    done_at_s: float

    @property
    def took_s(self) -> float:
        """From the first byte sent to the last one received."""
        return self.done_at_s - self.sent_at_s

    @property
    def code(self) -> str:
        """The code of the error; empty if it is none."""
        if self.status < 400:
            return ""
        return str(msgspec.json.decode(self.body)["error"]["code"])

    @property
    def retry_after_s(self) -> int:
        """How long to wait, as the header says."""
        return int(self.headers["retry-after"])


class Line:
    """One connection to the daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, daemon: Daemon) -> "Line":
        """Connect."""
        return cls(*await asyncio.open_connection(daemon.host, daemon.port))

    async def call(self, message: bytes) -> tuple[int, bytes]:
        """Send a request; its status and its whole body, the framing taken off.

        Raises ConnectionError or IncompleteReadError if the connection ends before the answer.
        """
        answer = await self.ask(message)
        return answer.status, answer.body

    async def ask(self, message: bytes) -> Answer:
        """Send a request; everything about its answer. Raises what `call` does."""
        sent_at_s = time.monotonic()
        status, headers = await self._begin(message)
        async with asyncio.timeout(PATIENCE_S):
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([piece async for piece in self._chunks()])
            else:
                body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body, sent_at_s, time.monotonic())

    async def stream(self, message: bytes) -> tuple[int, bytes, bool]:
        """Send a request for a stream: its status, all that came of it, and whether it was whole.

        A stream that was cut is closed without the end that its framing has.
        """
        status, headers = await self._begin(message)
        if headers.get("transfer-encoding") != "chunked":
            return status, await self._reader.readexactly(int(headers["content-length"])), True
        came = bytearray()
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for piece in self._chunks():
                    came += piece
        except (asyncio.IncompleteReadError, ConnectionError):
            return status, bytes(came), False
        return status, bytes(came), True

    async def _begin(self, message: bytes) -> tuple[int, dict[str, str]]:
        self._writer.write(message)
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").rstrip().split("\r\n")
        parted = (field.partition(": ") for field in fields)
        return int(first.split(" ", 2)[1]), {name.lower(): text for name, _, text in parted}

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (size := int(await self._reader.readuntil(b"\r\n"), 16)) > 0:
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    async def close(self) -> None:
        """Close it, whatever state it is in."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(daemon: Daemon, count: int) -> AsyncIterator[list[Line]]:
    """So many connections, while the `async with` lasts."""
    lines = [await Line.to(daemon) for _ in range(count)]
    try:
        yield lines
    finally:
        for line in lines:
            await line.close()


async def until(line: Line, message: bytes, code: str) -> list[Answer]:
    """Call again and again until a call is refused for `code`; all answers, that one included."""
    answers = [await line.ask(message)]
    while answers[-1].code != code:
        answers.append(await line.ask(message))
    return answers


async def race(lines: Sequence[Line], message: bytes, code: str) -> list[Answer]:
    """Call on all lines at once until each was refused for `code`; all answers, by their end."""
    raced = await asyncio.gather(*(until(line, message, code) for line in lines))
    return sorted((answer for answers in raced for answer in answers), key=lambda a: a.done_at_s)


async def paced(
    lines: Sequence[Line], message: bytes, *, per_s: float, seconds: float
) -> list[Answer]:
    """Call `per_s` times a second, however fast answers come; each line has its share of times.

    A call whose line is still busy is made as soon as that is free: none is left out.
    """
    start_s = time.monotonic()
    count = int(per_s * seconds)

    async def share(line: Line, first: int) -> list[Answer]:
        answers = []
        for number in range(first, count, len(lines)):
            await asyncio.sleep(start_s + number / per_s - time.monotonic())
            answers.append(await line.ask(message))
        return answers

    shares = await asyncio.gather(*(share(line, first) for first, line in enumerate(lines)))
    return [answer for answers in shares for answer in answers]


def texts(stream: bytes) -> list[str]:
    """The deltas of a streamed chat, in order; asserts that it ended as one must."""
    events = [event for event in stream.split(b"\n\n") if event]
    assert events[-1] == b"data: [DONE]", events[-1]
    found: list[str] = []
    for event in events[:-1]:
        for choice in msgspec.json.decode(event.removeprefix(b"data: "))["choices"]:
            found += [text] if (text := choice["delta"].get("content")) else []
    return found
