"""An upstream that bears witness: it notes every call that reached it, and what it would bill.

A process of its own, which no kill of a test hits, and which shares no code with the product. A
call tells its serial number by its user agent, since that passes, and stands before the body; and
by the first word of its prompt how many tokens to answer, and what is to go wrong. A word is a
token, and so is an event of a stream. What is billed:

    the prompt and the whole answer    also if nobody was told (`mute`) or heard it (`silent`), or
                                       the client of a plain one left
    the prompt and what was sent       of a stream that ended early, whoever ended it
    nothing                            of what was refused (a status), reset, or no JSON: in short,
                                       of a plain answer that cannot have been of use
"""

import asyncio
import contextlib
import http.client
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import uvloop

PATIENCE_S = 60.0
SIGHTS_PATH = "/sights"
TOKEN_S = 0.001
"""How long a token takes: a thirtieth or so of what real ones do."""
PIECE = 4
"""Tokens of a stream that leave together."""
_ABORTING = struct.pack("ii", 1, 0)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"far",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]%b}\n\n'
)
_LAST_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"far",'
    b'"choices":[],"usage":%b}\n\n'
)
_PLAIN = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"far","choices":[{"index":'
    b'0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}]%b}'
)
_REFUSAL = b'{"error":{"message":"as you asked","code":null}}'
_DONE = b"data: [DONE]\n\n"
_WORD = b"word "


class Sight(msgspec.Struct):
    """What is known of one call."""

    serial: int
    times: int = 0
    """How often it came; a router may try again."""
    prompt: int = 0
    """Tokens billed, for all of its attempts together."""
    output: int = 0
    reported: bool = False
    """The tokens billed were told to the other end."""
    is_open: bool = True


class _Message(msgspec.Struct):
    content: str


class _Options(msgspec.Struct, frozen=True):
    include_usage: bool = False


class _Call(msgspec.Struct):
    messages: list[_Message]
    stream: bool = False
    stream_options: _Options = _Options()


_call = msgspec.json.Decoder(_Call)


def order(output_tokens: int, fault: str) -> str:
    """The first word of a prompt: what is to be answered, and what is to go wrong."""
    return f"{output_tokens};{fault}"


class _Answer:
    """One answer under way."""

    def __init__(
        self,
        sight: Sight,
        call: _Call,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        words, self.fault = call.messages[0].content.split(";")
        self.words = int(words)
        self.prompt = sum(len(message.content.split()) for message in call.messages)
        self.sight = sight
        self.billed = (0, 0)
        self.call = call
        self.reader = reader
        self.writer = writer

    def _is_left(self) -> bool:
        """Nobody listens any more: it was reset, or its process has died."""
        return self.writer.is_closing() or self.reader.at_eof()

    async def give(self) -> bool:
        """Whether the connection can be used again."""
        if self.fault == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
            self.writer.transport.abort()
            return False
        if self.fault.isdigit():
            # Else a router may let all calls wait after a 429, also those that are to be answered.
            wait = b"retry-after: 0\r\n" if self.fault == "429" else b""
            self._respond(int(self.fault), _REFUSAL, more=wait)
            return True
        if self.call.stream:
            return await self._stream()
        await asyncio.sleep(self.words * TOKEN_S)
        return await self._plain()

    async def _plain(self) -> bool:
        # Whoever leaves now is late: it is all there.
        usage = b"" if self.fault == "mute" else b',"usage":' + self._usage()
        body = _PLAIN % (_WORD * self.words, usage)
        if self.fault in {"cut", "torn"}:
            half = body[: len(body) // 2]
            self._respond(200, half, promised=len(body) if self.fault == "cut" else len(half))
            return self.fault != "cut"
        self._bill(self.words)
        if self.fault == "silent":
            await self._nothing_more()
            return False
        self._respond(200, body)
        self.sight.reported = self.fault != "mute"
        return True

    async def _stream(self) -> bool:
        self._bill(0)
        if self.fault == "silent":
            await self._nothing_more()
            return False
        head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._write(b"HTTP/1.1 200 OK\r\n" + head)
        tells = self.call.stream_options.include_usage
        event = _EVENT % (_WORD, b"null", b',"usage":null' if tells else b"")
        ends_early = self.fault in {"cut", "stall"}
        left = self.words // 2 if ends_early else self.words
        while left:
            now = min(PIECE, left)
            self._chunk(event * now)
            self._bill(self.billed[1] + now)
            left -= now
            await asyncio.sleep(now * TOKEN_S)
        if ends_early:
            if self.fault == "stall":
                await self._nothing_more()
            return False
        end = _EVENT % (b"", b'"stop"', b"")
        if tells and self.fault != "mute":
            end += _LAST_EVENT % self._usage()
        self._chunk(end if self.fault == "torn" else end + _DONE)
        self._write(b"0\r\n\r\n")
        self.sight.reported = tells and self.fault != "mute"
        return True

    def _bill(self, output: int) -> None:
        """This attempt costs so much by now, beside what others of the same call cost."""
        before, self.billed = self.billed, (self.prompt, output)
        self.sight.prompt += self.prompt - before[0]
        self.sight.output += output - before[1]

    def _usage(self) -> bytes:
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            *(self.prompt, self.words),
            self.prompt + self.words,
        )

    def _chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def _write(self, data: bytes) -> None:
        if self._is_left():
            raise ConnectionResetError
        self.writer.write(data)

    def _respond(
        self, status: int, body: bytes, promised: int | None = None, more: bytes = b""
    ) -> None:
        length = len(body) if promised is None else promised
        head = b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\n%b" % (status, more)
        self._write(head + b"content-length: %d\r\n\r\n%b" % (length, body))

    async def _nothing_more(self) -> None:
        await self.reader.read()


class _Process:
    """The witness itself."""

    def __init__(self) -> None:
        self.sights: dict[int, Sight] = {}

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._serve(reader, writer):
                pass
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if head.startswith(f"GET {SIGHTS_PATH} "):
            body = msgspec.json.encode(list(self.sights.values()))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return True
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        serial = int(fields["user-agent"])
        sight = self.sights.setdefault(serial, Sight(serial))
        sight.times, sight.is_open = sight.times + 1, True
        try:
            body = await reader.readexactly(int(fields["content-length"]))
            return await _Answer(sight, _call.decode(body), reader, writer).give()
        finally:
            sight.is_open = False


async def _serve(listener: socket.socket) -> None:
    process = _Process()
    await asyncio.start_server(process.accepted, sock=listener, backlog=4_096)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until we are left


class Witness:
    """The process, seen by a test."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._port = port

    def sights(self) -> dict[int, Sight]:
        """All calls that it has seen, by serial number."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", SIGHTS_PATH)
            body = connection.getresponse().read()
        return {sight.serial: sight for sight in msgspec.json.decode(body, type=list[Sight])}


@contextlib.contextmanager
def witness() -> Iterator[Witness]:
    """Run it until the `with` ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-P", __file__, str(fd)]
        process: subprocess.Popen[Any] = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[fd], start_new_session=True
        )
    with process:
        try:
            yield Witness(port)
            assert process.poll() is None, "the witness died"
        finally:
            process.kill()


if __name__ == "__main__":
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
