"""One answer of the faulty upstream: chat completions, plain and streamed, and what goes wrong."""

import asyncio
import contextlib
import socket
import struct

import msgspec

from tests.support.faults import WORDS, Fault, Kind, text

_ABORTING = struct.pack("ii", 1, 0)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"%b",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)
_USAGE_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"%b",'
    b'"choices":[],"usage":%b}\n\n'
)
_PLAIN = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"%b","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b"},"finish_reason":"%b"}],"usage":%b}'
)
_NO_PREFILL = Fault(Kind.STATUS, status=400, code="prefill_not_supported")


class Message(msgspec.Struct):
    role: str
    content: str


class Options(msgspec.Struct, frozen=True):
    include_usage: bool = False


class Call(msgspec.Struct):
    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: Options = Options()
    max_tokens: int = WORDS


read_call = msgspec.json.Decoder(Call)


class Gone(Exception):
    """The other side has left."""


class Ended(Exception):
    """The answer ends here, by our own fault."""

    def __init__(self, *, framed: bool = False) -> None:
        super().__init__()
        self.framed = framed
        """Its framing is whole: the connection can be used again."""


class Answer:
    """One answer under way."""

    def __init__(
        self,
        call: Call,
        fault: Fault,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.prompt = sum(len(message.content.split()) for message in call.messages)
        self.sent = 0
        self.told = False
        """How much it used was told, where it can be read."""
        self.first_s = 0.0
        """How long its first token takes, if nothing is wrong."""
        self._call = call
        self._fault = fault
        self._reader = reader
        self._writer = writer
        is_filtered = fault.kind is Kind.FILTERED
        self.words = fault.words if is_filtered else call.max_tokens
        self._reason = b"content_filter" if is_filtered else b"stop"
        self._text = text(name, self.words).encode()
        self._model = call.model.encode()

    async def give(self) -> bool:
        """Whether it was an answer; False if it was a refusal. Raises Gone and Ended."""
        fault = self._fault
        if fault.kind is Kind.NO_PREFILL and self._call.messages[-1].role == "assistant":
            fault = _NO_PREFILL
        if fault.kind is Kind.STATUS:
            await self._write(_refusal(fault))
            return False
        if fault.kind is Kind.RESET:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
            self._writer.transport.abort()
            raise Ended
        if fault.kind is Kind.SILENT:
            await self._pause(None)
        await (self._stream() if self._call.stream else self._plain())
        return True

    async def _plain(self) -> None:
        fault = self._fault
        await self._take()
        body = _PLAIN % (self._model, self._text, self._reason, self._usage())
        sent = body
        if fault.kind in {Kind.CUT, Kind.STALL, Kind.MALFORMED}:
            sent = body[: len(body) // 2]
        elif fault.kind is Kind.UNENDED:
            sent = body[:-2]
        is_sized_by_half = fault.kind in {Kind.MALFORMED, Kind.UNENDED}
        promised = len(sent) if is_sized_by_half else len(body)
        await self._write(_head(200, b"content-length: %d" % promised) + sent)
        if fault.kind is Kind.STALL:
            await self._pause(None)
        if sent is not body:
            raise Ended(framed=is_sized_by_half)
        self.told = True

    async def _stream(self) -> None:
        fault = self._fault
        await self._write(
            _head(200, b"transfer-encoding: chunked", content_type=b"text/event-stream")
        )
        await self._delta(b'{"role":"assistant","content":""}')
        await self._take()
        for number, word in enumerate(self._text.split()):
            if number == fault.words:
                await self._go_wrong()
            self.sent = number + 1
            await self._delta(b'{"content":"%b "}' % word)
        await self._delta(b"{}", b'"%b"' % self._reason)
        if self._call.stream_options.include_usage:
            await self._chunk(_USAGE_EVENT % (self._model, self._usage()))
            self.told = fault.kind is not Kind.MALFORMED
        if fault.kind is not Kind.UNENDED:
            await self._chunk(b"data: [DONE]\n\n")
        await self._write(b"0\r\n\r\n")
        if fault.kind in {Kind.UNENDED, Kind.MALFORMED}:
            raise Ended(framed=True)

    async def _take(self) -> None:
        """Let the time pass until the first token."""
        takes_s = self.first_s + self._fault.seconds * (self._fault.kind is Kind.SLOW)
        if takes_s:
            await self._pause(takes_s)

    async def _go_wrong(self) -> None:
        """A stream has had as many words as it has before its fault."""
        match self._fault.kind:
            case Kind.CUT:
                raise Ended
            case Kind.STALL:
                await self._pause(None)
            case Kind.MALFORMED:
                await self._chunk(b'data: {"id":"chatcmpl-1","choices":[{"in\n\n')
            case _:
                pass

    def _usage(self) -> bytes:
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            *(self.prompt, self.words),
            self.prompt + self.words,
        )

    async def _delta(self, delta: bytes, reason: bytes = b"null") -> None:
        await self._chunk(_EVENT % (self._model, delta, reason))

    async def _chunk(self, event: bytes) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(event), event))

    async def _write(self, wire: bytes) -> None:
        if self._fault.kind is not Kind.DRIP:
            self._put(wire)
            return
        for at in range(len(wire)):
            self._put(wire[at : at + 1])
            await self._pause(self._fault.seconds)

    def _put(self, wire: bytes) -> None:
        if self._writer.is_closing() or self._reader.at_eof():
            raise Gone
        self._writer.write(wire)

    async def _pause(self, seconds: float | None) -> None:
        """Let so much time pass, or all of it; raises Gone as soon as the other side leaves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._reader.read(1)  # no caller sends more before it has its answer
            raise Gone


def _head(status: int, framing: bytes, *, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %d Said\r\ncontent-type: %b\r\n%b\r\n\r\n" % (status, content_type, framing)


def _refusal(fault: Fault) -> bytes:
    body = msgspec.json.encode({"error": {"message": "as told", "type": "x", "code": fault.code}})
    framing = b"content-length: %d" % len(body)
    if fault.retry_after_s is not None:
        framing += b"\r\nretry-after: %d" % fault.retry_after_s
    return _head(fault.status, framing) + body
