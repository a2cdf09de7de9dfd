import asyncio
from typing import cast

import pytest

from llmrouter.http1.reset import reset
from tests.support.raw import Ending, connected
from tests.support.transport import FakeTransport
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


class Made(asyncio.Protocol):
    """Keeps its transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None


@pytest.mark.parametrize("unsent", [b"", b"unsent"])
async def test_the_other_side_sees_a_reset_and_no_orderly_end(unsent: bytes) -> None:
    made = Made()
    listener = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    async with connected(listener.sockets[0].getsockname()) as client:
        await until(lambda: made.transport is not None, "not accepted")
        assert made.transport is not None
        made.transport.write(unsent)
        reset(made.transport)
        reset(made.transport)
        await client.read_all()
        assert client.ending is Ending.RESET
        await until(lambda: made.transport is None, "not closed")
    listener.close()


async def test_a_transport_without_a_socket_is_aborted() -> None:
    transport = FakeTransport()
    reset(transport)
    assert transport.aborted
