import asyncio
from collections.abc import Callable, Iterator

import pytest

from llmrouter.daemon.demo.delivery import BATCH, Delivery
from llmrouter.tasks import spawn
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


class Client:
    """Takes what is sent; stops and resumes taking it when the test says so."""

    def __init__(self, *, writable: bool = True, full_after: int | None = None) -> None:
        self.sent: list[bytes] = []
        self.times: list[float] = []
        self.listener: Callable[[bool], None] | None = None
        self._writable = writable
        self._full_after = full_after

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        self.times.append(asyncio.get_running_loop().time())
        if len(self.sent) == self._full_after and self.listener is not None:
            self.listener(False)

    def on_writable(self, listener: Callable[[bool], None] | None) -> None:
        self.listener = listener
        if listener is not None and not self._writable:
            listener(False)

    def takes(self, writable: bool) -> None:
        assert self.listener is not None
        self.listener(writable)


class Source:
    """Counts what was taken from it."""

    def __init__(self, count: int) -> None:
        self.made = 0
        self._count = count

    def __iter__(self) -> Iterator[bytes]:
        while self.made < self._count:
            self.made += 1
            yield b"x"


def nothing() -> None:
    pass


async def turns() -> None:
    """Give the loop its turn often enough for whatever is ready to have happened."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 10 * BATCH])
async def test_everything_is_sent_and_then_the_end(count: int) -> None:
    client = Client()
    ended: list[int] = []

    def at_end() -> None:
        ended.append(len(b"".join(client.sent)))

    await Delivery(client, iter(Source(count)), at_end, gap_s=0).run()

    assert ended == [count]
    assert client.listener is None


async def test_without_a_pace_pieces_leave_many_at_a_time() -> None:
    client = Client()

    await Delivery(client, iter(Source(BATCH * 3)), nothing, gap_s=0).run()

    assert [len(data) for data in client.sent] == [BATCH] * 3


async def test_with_a_pace_they_leave_one_by_one() -> None:
    client = Client()

    await Delivery(client, iter(Source(4)), nothing, gap_s=0.005).run()

    assert client.sent == [b"x"] * 4
    assert client.times[3] - client.times[0] >= 0.012  # three gaps, less what a clock rounds


async def test_nothing_is_made_while_the_client_does_not_read() -> None:
    client, source = Client(full_after=1), Source(10 * BATCH)
    task = spawn(Delivery(client, iter(source), nothing, gap_s=0).run(), name="delivery")
    await turns()
    assert source.made == BATCH

    client.takes(True)
    await task

    assert source.made == len(b"".join(client.sent)) == 10 * BATCH


async def test_nothing_is_made_for_a_client_that_does_not_read_at_first() -> None:
    client, source = Client(writable=False), Source(3)
    task = spawn(Delivery(client, iter(source), nothing, gap_s=0).run(), name="delivery")
    await turns()
    assert source.made == 0

    client.takes(True)
    await task

    assert client.sent == [b"xxx"]


async def test_a_pace_is_held_up_by_a_client_that_does_not_read() -> None:
    client, source = Client(), Source(3)
    task = spawn(Delivery(client, iter(source), nothing, gap_s=0.001).run(), name="delivery")
    await turns()
    client.takes(False)
    made = source.made
    await until(lambda: asyncio.get_running_loop().time() > client.times[-1] + 0.01, "no time")
    assert source.made == made

    client.takes(True)
    await task

    assert len(client.sent) == 3


async def test_being_told_twice_that_it_may_write_changes_nothing() -> None:
    client = Client()
    task = spawn(Delivery(client, iter(Source(3)), nothing, gap_s=0.001).run(), name="delivery")
    await turns()
    client.takes(True)
    await task

    assert len(client.sent) == 3


@pytest.mark.parametrize("gap_s", [0, 60])
async def test_a_cancelled_delivery_sends_nothing_more_and_has_no_end(gap_s: float) -> None:
    client, source = Client(), Source(1_000 * BATCH)
    ended: list[bool] = []
    delivery = Delivery(client, iter(source), lambda: ended.append(True), gap_s=gap_s)
    task = spawn(delivery.run(), name="delivery")
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = len(client.sent)
    await turns()

    assert len(client.sent) == sent
    assert not ended
    assert client.listener is None


async def test_one_that_is_cancelled_as_it_ends_does_not_end_twice() -> None:
    client = Client()
    ended: list[bool] = []
    pieces = iter(Source(BATCH))  # a whole batch: the end shows only at the next turn
    task = spawn(Delivery(client, pieces, lambda: ended.append(True), gap_s=0).run(), name="d")
    await asyncio.sleep(0)
    assert client.sent

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not ended
