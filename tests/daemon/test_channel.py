"""What supervisor and worker say to each other, over a real socketpair."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from rich.pretty import pretty_repr

from llmrouter.access.issued import IssuedKey
from llmrouter.daemon.channel import (
    FRAME_BYTES_MAX,
    Applied,
    Channel,
    Conditions,
    Denied,
    Drain,
    Explain,
    Explained,
    Keys,
    Probed,
    Ready,
    Start,
    ToSupervisor,
    ToWorker,
)
from llmrouter.metering.prices import AnyOf, Equals, Listed, Price, PriceTable, StartsWith
from llmrouter.quota.denials import Action, Denial
from llmrouter.quota.messages import (
    Amount,
    Ask,
    Cancel,
    Force,
    GiveBack,
    Granted,
    Reason,
    Recall,
    Recalled,
    Refused,
    Reopened,
    Take,
)
from llmrouter.routing.breaker import State
from llmrouter.routing.report import Report
from tests.gateway.test_explanation import FULL, QUESTION
from tests.support.leaks import Failures
from tests.support.raw import RawClient

pytestmark = pytest.mark.asyncio

SECRET = "sk-upstream-abcDEF123456"  # made up
DIGEST_KEY = bytes(range(32))


def key(number: int = 0) -> IssuedKey:
    return IssuedKey(
        id=f"{number:012d}",
        digest=f"{number:064x}",
        org="acme",
        team="research",
        models=("demo-*",),
        created_at_s=1_700_000_000,
        expires_at_s=1_800_000_000,
    )


def start(*, keys: int = 2) -> Start:
    return Start(
        worker=1,
        workers=4,
        config=b"\x81\xa5state\xa5state",
        secrets={"openai": SECRET},
        digest_key=DIGEST_KEY,
        keys=[key(number) for number in range(keys)],
        journal_dir="/state/journal",
        listener_fds=[7, 8],
        demo_path=None,
        started_at_s=1_700_000_000,
        boot="b00t",
        rules=3,
        prices=PriceTable(
            explicit={"m": Price(input=2, cached_input=1, output=3, reasoning=4)},
            providers={"openai": "vendor"},
            listed={"vendor": (Listed(AnyOf((Equals("m"), StartsWith("m-"))), None),)},
        ),
        clock_offset_ms=-5,
        conditions=[REPORT],
        down=["main"],
    )


class Pair:
    """Both ends; the bare one of a worker for what only a broken peer would send."""

    def __init__(self, ours: Channel, theirs: socket.socket) -> None:
        self.ours = ours
        self.theirs = theirs
        self.raw = RawClient(theirs)

    async def framed(self, payload: bytes) -> None:
        """Send any bytes as a frame."""
        await self.raw.send(struct.pack(">I", len(payload)), payload)


@pytest_asyncio.fixture
async def pair(no_leaks: Failures) -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = await Channel.over(ours)
    with theirs:
        yield Pair(channel, theirs)
        channel.close()


async def other_end(pair: Pair) -> Channel:
    return await Channel.over(pair.theirs.dup())


DENIAL = Denial(
    at_ms=1_700_000_000_000,
    last_ms=1_700_000_000_001,
    org="acme",
    key_id="000000000001",
    model="m",
    action=Action.REFUSED,
    code="insufficient_quota",
    bucket="org/acme/usd/month",
    limit=1 << 60,
    balance=-5,
    wanted=7,
)
REPORT = Report(
    deployment="main/m",
    state=State.OPEN,
    rest_s=4.5,
    reason="it answered 500",
    changed_s=1_234.5,
    throttled_s=0.25,
)
TO_WORKER: list[ToWorker] = [
    start(),
    Keys(7, [key(3)], 1),
    Keys(8, [], 2),
    Drain(),
    Granted(1, (600, 0), (-5, 1 << 60), 1_700_000_000_000),
    Refused(2, "org/acme/usd/month", Reason.SPENT, -5, 1_700_000_000_000, None, 1_800_000_000_000),
    Recall(3, (Amount("org/acme/requests/minute", 1),)),
    Reopened(("key/000000000001/concurrent",)),
    Conditions([REPORT]),
    Probed("main", sound=False),
    Explain(5, QUESTION),
]
TO_SUPERVISOR: list[ToSupervisor] = [
    Ready(),
    Applied(7),
    Denied([DENIAL]),
    Take(1, (Ask("org/acme/requests/minute", 1, 64),), at_once=True),
    Take(2, (Ask("org/acme/requests/minute", 0, 64),), ahead=True),
    GiveBack((Amount("org/acme/usd/month", 1 << 60),)),
    Force((Amount("org/acme/usd/month", 1),)),
    Recalled(3),
    Cancel(4),
    Conditions([REPORT, REPORT]),
    Explained(5, FULL),
    Explained(6, None),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
async def test_a_message_to_a_worker_arrives_as_it_was_sent(pair: Pair, message: ToWorker) -> None:
    worker = await other_end(pair)

    pair.ours.send(message)

    assert await worker.to_worker() == message
    worker.close()


@pytest.mark.parametrize("message", TO_SUPERVISOR, ids=lambda message: type(message).__name__)
async def test_a_message_to_the_supervisor_arrives_as_it_was_sent(
    pair: Pair, message: ToSupervisor
) -> None:
    worker = await other_end(pair)

    worker.send(message)

    assert await pair.ours.to_supervisor() == message
    worker.close()


async def test_messages_sent_together_arrive_one_by_one_and_in_order(pair: Pair) -> None:
    worker = await other_end(pair)

    worker.send(*TO_SUPERVISOR)
    worker.send()

    assert [await pair.ours.to_supervisor() for _ in TO_SUPERVISOR] == TO_SUPERVISOR
    worker.close()


async def test_messages_arrive_in_order_and_whole_however_big(pair: Pair) -> None:
    worker = await other_end(pair)
    sent: list[ToWorker] = [start(keys=20_000), Keys(1, [key(1)], 1), Drain()]  # 4 MB, then a few

    for message in sent:
        pair.ours.send(message)

    assert [await worker.to_worker() for _ in sent] == sent
    worker.close()


async def test_a_frame_may_come_one_byte_at_a_time(pair: Pair) -> None:
    payload = msgspec.msgpack.encode(Applied(70_000))

    await pair.raw.drip(struct.pack(">I", len(payload)) + payload)

    assert await pair.ours.to_supervisor() == Applied(70_000)


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5ab"], ids=["nothing", "length", "frame"])
async def test_the_end_of_the_stream_is_told_wherever_it_comes(pair: Pair, sent: bytes) -> None:
    await pair.raw.send(sent)

    pair.theirs.close()

    assert await pair.ours.to_supervisor() is None
    assert await pair.ours.to_supervisor() is None


async def test_a_side_that_died_with_bytes_unread_is_the_end_of_the_stream(pair: Pair) -> None:
    pair.ours.send(start())
    pair.theirs.close()  # unread bytes make it a reset

    assert await pair.ours.to_supervisor() is None


async def test_what_is_sent_to_a_side_that_died_goes_nowhere(
    pair: Pair, no_leaks: Failures
) -> None:
    pair.theirs.close()

    for serial in range(20):
        pair.ours.send(Keys(serial, [], 1))
        await asyncio.sleep(0)

    assert await pair.ours.to_supervisor() is None
    assert no_leaks.seen == []


async def test_closing_ends_the_stream_of_the_other_side(pair: Pair) -> None:
    worker = await other_end(pair)
    pair.ours.send(Drain())

    pair.ours.close()

    assert await worker.to_worker() == Drain()
    assert await worker.to_worker() is None
    worker.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1garbage",
        msgspec.msgpack.encode({"t": "nonsense"}),
        msgspec.msgpack.encode({"t": "applied", "serial": "seven"}),
        msgspec.msgpack.encode(Drain()),
    ],
    ids=["empty", "not MessagePack", "unknown kind", "wrong type", "a worker's message"],
)
async def test_a_frame_that_is_no_message_to_this_side_is_refused(
    pair: Pair, payload: bytes
) -> None:
    await pair.framed(payload)

    with pytest.raises(msgspec.DecodeError):
        await pair.ours.to_supervisor()


async def test_a_frame_longer_than_any_of_ours_is_not_read(pair: Pair) -> None:
    await pair.raw.send(struct.pack(">I", FRAME_BYTES_MAX + 1))

    with pytest.raises(AssertionError, match="never that long"):
        await pair.ours.to_supervisor()


@pytest.mark.parametrize(
    "shown", [repr, str, pretty_repr, "{!r}".format], ids=("repr", "str", "rich", "format")
)
async def test_no_way_of_showing_a_message_shows_what_is_secret(shown: object) -> None:
    """No answer, log or traceback shows a key or a credential (design, 9)."""
    assert callable(shown)
    text = "".join(shown(message) for message in (start(), Keys(1, [key(5)], 1)))

    assert "Start" in text
    assert "Keys" in text
    for secret in (SECRET, repr(DIGEST_KEY)[2:-1], DIGEST_KEY.hex(), f"{5:064x}", f"{1:064x}"):
        assert secret not in text


async def test_a_start_message_shows_which_worker_it_is_for() -> None:
    assert repr(start()) == "<Start worker=1 of 4 upstreams=openai keys=2>"
