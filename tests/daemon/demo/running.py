"""A demo that runs on this loop, spoken to by bare sockets or by the provider's own SDK."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import openai

from llmrouter.daemon.demo.counters import Counters
from llmrouter.daemon.demo.server import DemoServer
from tests.support.raw import RawClient, connected
from tests.support.waiting import PATIENCE_S

NOW_S = 1_760_000_000
CHAT = "/v1/chat/completions"
SAYS_HELLO = [{"role": "user", "content": "hello"}]


class Running:
    """The demo, and where it listens."""

    def __init__(self, server: DemoServer, address: tuple[str, int]) -> None:
        self.address = address
        self.counters: Counters = server.demo.shared.counters
        self.server = server


@contextlib.asynccontextmanager
async def running(*, send_buffer_bytes: int | None = None) -> AsyncIterator[Running]:
    """Serve the demo on a free port; at the end whatever is left is reset."""
    server = DemoServer(lambda: NOW_S + 0.5)
    listener = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
    bound = listener.sockets[0]
    if send_buffer_bytes is not None:
        bound.setsockopt(1, 7, send_buffer_bytes)  # SOL_SOCKET, SO_SNDBUF: inherited on accept
    try:
        yield Running(server, bound.getsockname())
    finally:
        listener.close()
        server.abort()
        async with asyncio.timeout(PATIENCE_S):
            await server.emptied()


@contextlib.asynccontextmanager
async def sdk() -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, with a demo of its own behind it."""
    async with running() as demo:
        host, port = demo.address
        url = f"http://{host}:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client


@contextlib.asynccontextmanager
async def client(*, receive_buffer_bytes: int | None = None) -> AsyncIterator[RawClient]:
    """A bare connection, with a demo of its own behind it."""
    async with (
        running() as demo,
        connected(demo.address, receive_buffer_bytes=receive_buffer_bytes) as connection,
    ):
        yield connection


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """One request as it stands on the wire."""
    lines = [f"{method} {path} HTTP/1.1", "host: demo", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(model: str = "demo", *, x_demo: str | None = None, **members: Any) -> bytes:
    """A chat request for what `model` or the header asks for."""
    body = msgspec.json.encode({"model": model, "messages": SAYS_HELLO, **members})
    return request("POST", CHAT, body, None if x_demo is None else {"x-demo": x_demo})


def data(stream: bytes) -> list[Any]:
    """What the events of a whole stream carry, `[DONE]` as it stands."""
    found: list[Any] = []
    for event in stream.split(b"\n\n")[:-1]:
        (line,) = (line for line in event.split(b"\n") if line.startswith(b"data: "))
        text = line.removeprefix(b"data: ")
        found.append("[DONE]" if text == b"[DONE]" else msgspec.json.decode(text))
    return found


def decoded(body: bytes) -> Any:
    """A plain answer."""
    return msgspec.json.decode(body)
