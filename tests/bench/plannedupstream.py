"""An upstream that takes as long for an answer as the call asks: a process of its own.

The first message of a call says how many seconds its answer takes, `max_tokens` how many words that
has; a word is a token, of the prompt as well. A plain answer comes at the end of that time; of a
stream the words come spread over it.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import uvloop

PIECE = 4
"""Words of a stream that leave together."""
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"far",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'
)
_USAGE_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"far",'
    b'"choices":[],"usage":%b}\n\n'
)
_PLAIN = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"far","choices":[{"index":'
    b'0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":%b}'
)
_SAID = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"
_WORD = b"word "


class _Message(msgspec.Struct):
    content: str


class _Options(msgspec.Struct, frozen=True):
    include_usage: bool = False


class _Call(msgspec.Struct):
    messages: list[_Message]
    max_tokens: int
    stream: bool = False
    stream_options: _Options = _Options()

    @property
    def takes_s(self) -> float:
        """How long the answer is to take."""
        return float(self.messages[0].content)

    def usage(self) -> bytes:
        """What the answer says that it used."""
        prompt = sum(len(message.content.split()) for message in self.messages)
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            *(prompt, self.max_tokens),
            prompt + self.max_tokens,
        )


_call = msgspec.json.Decoder(_Call)


async def _accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection to its end."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            await _serve(reader, writer)
    writer.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    began_s = asyncio.get_running_loop().time()
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
    call = _call.decode(await reader.readexactly(int(fields["content-length"])))
    if call.stream:
        await _stream(call, began_s, writer)
        return
    await _until(began_s + call.takes_s)
    body = _PLAIN % (_WORD * call.max_tokens, call.usage())
    writer.write(_SAID % (b"application/json", b"content-length: %d" % len(body)) + body)


async def _stream(call: _Call, began_s: float, writer: asyncio.StreamWriter) -> None:
    writer.write(_SAID % (b"text/event-stream", b"transfer-encoding: chunked"))
    event = _EVENT % (_WORD, b"null")
    for sent in range(0, call.max_tokens, PIECE):
        now = min(PIECE, call.max_tokens - sent)
        await _until(began_s + call.takes_s * (sent + now) / call.max_tokens)
        writer.write(_chunk(event * now))
    end = _EVENT % (b"", b'"stop"')
    if call.stream_options.include_usage:
        end += _USAGE_EVENT % call.usage()
    writer.write(_chunk(end + b"data: [DONE]\n\n") + _chunk(b""))


async def _until(at_s: float) -> None:
    await asyncio.sleep(at_s - asyncio.get_running_loop().time())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _lead(listener: socket.socket) -> None:
    await asyncio.start_server(_accepted, sock=listener, backlog=4_096)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until we are left


@contextlib.contextmanager
def planned_upstream() -> Iterator[int]:
    """Run it until the `with` ends; its port on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-P", __file__, str(fd)]
        process: subprocess.Popen[Any] = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[fd], start_new_session=True
        )
    with process:
        try:
            yield port
            assert process.poll() is None, "the upstream died"
        finally:
            process.kill()


if __name__ == "__main__":
    uvloop.run(_lead(socket.socket(fileno=int(sys.argv[1]))))
