"""Who asks an upstream in a test: keeps what it hears, and may abandon it half-way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.errors import HttpError
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.upstream import UpstreamConnection, UpstreamTimeouts

ASK = b"POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"


def timeouts(
    *, connect_s: float = 10.0, first_s: float = 60.0, idle_s: float = 60.0, total_s: float = 60.0
) -> UpstreamTimeouts:
    """Time-outs that never end a test but for those that it names."""
    return UpstreamTimeouts(connect_s=connect_s, first_s=first_s, idle_s=idle_s, total_s=total_s)


class Receiver:
    """Keeps what it hears of one response; `ended` is set at its end."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        """The calls that came, by name."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.framed: bool | None = None
        self.error: HttpError | None = None
        self.ended = asyncio.Event()
        self.on: dict[str, Callable[[], None]] = {}
        """What to do, by the name of the call in which to do it."""

    @property
    def body(self) -> bytes:
        """All of the body that came."""
        return b"".join(self.pieces)

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self._hear("head")

    def response_data(self, data: bytes) -> None:
        assert data, "nothing is no bytes"
        self.pieces.append(data)
        self._hear("data")

    def response_end(self, *, framed: bool) -> None:
        self.framed = framed
        self._hear("end")
        self.ended.set()

    def response_lost(self, error: HttpError) -> None:
        self.error = error
        self._hear("lost")
        self.ended.set()

    async def end(self) -> "Receiver":
        """Wait until nothing more comes; exactly one end must have been heard."""
        async with asyncio.timeout(10):
            await self.ended.wait()
        assert self.heard[-1] in ("end", "lost")
        assert not {"end", "lost"} & set(self.heard[:-1])
        assert self.heard.count("head") <= 1
        return self

    def _hear(self, name: str) -> None:
        assert not self.ended.is_set(), f"{name} came after the end"
        self.heard.append(name)
        if (action := self.on.get(name)) is not None:
            action()


class Caller:
    """Asks one upstream over a pool."""

    def __init__(self, pool: Pool, deadlines: Deadlines) -> None:
        self.pool = pool
        self.deadlines = deadlines

    async def connection(self) -> UpstreamConnection:
        """An idle connection, or a new one."""
        return self.pool.take() or await self.pool.fresh(10.0)

    async def send(
        self,
        receiver: Receiver,
        limits: UpstreamTimeouts | None = None,
        *,
        request: bytes = ASK,
    ) -> UpstreamConnection:
        """Send a request whose response goes to `receiver`."""
        connection = await self.connection()
        receiver.on.setdefault("data", connection.begun)  # its first bytes are the answer
        connection.expect(receiver, limits or timeouts())
        connection.send(request)
        return connection

    async def ask(self, limits: UpstreamTimeouts | None = None) -> Receiver:
        """Send a request, and wait for the end of its response."""
        receiver = Receiver()
        await self.send(receiver, limits)
        return await receiver.end()


def origin_at(address: tuple[str, int]) -> Origin:
    """The origin that listens there."""
    return Origin.from_url(f"http://{address[0]}:{address[1]}")


@contextlib.asynccontextmanager
async def calling(origin: Origin, *, sweep_every_s: float = 0.02) -> AsyncIterator[Caller]:
    """A pool to `origin`, closed at the end."""
    deadlines = Deadlines(asyncio.get_running_loop(), sweep_every_s)
    pool = Pool(origin, deadlines)
    try:
        yield Caller(pool, deadlines)
    finally:
        pool.close()
        deadlines.close()
