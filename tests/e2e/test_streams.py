"""Many streams at once: every event arrives, in order, once; nothing is left behind."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, create_key, serving, wait_for
from tests.support.demo import counters
from tests.support.load import Line, request, texts

pytestmark = pytest.mark.e2e

STREAMS = 2_000
EVENTS = 50
AT_ONCE_CONNECTING = 100
RSS_SLACK_BYTES = 40 * 1024 * 1024
"""What allocators keep of a peak; if each stream left its 20 kB, a round would leave 20 MB."""


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def hold_streams(daemon: Daemon, message: bytes) -> list[list[str]]:
    """Run all streams at the same time; what each one carried."""
    gate = asyncio.Semaphore(AT_ONCE_CONNECTING)

    async def connect() -> Line:
        async with gate:
            return await Line.to(daemon)

    lines = await asyncio.gather(*(connect() for _ in range(STREAMS)))
    answers = await asyncio.gather(*(line.call(message) for line in lines))
    await asyncio.gather(*(line.close() for line in lines))
    assert {status for status, _ in answers} == {200}
    return [texts(body) for _, body in answers]


def test_two_thousand_streams_arrive_whole_and_leave_nothing(tmp_path: Path) -> None:
    """FR-004: every event in order, none lost, none twice; afterwards nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * STREAMS)), hard))
    with serving(tmp_path, workers=2) as daemon:
        key = create_key(daemon.config)["key"]
        call: dict[str, object] = {
            "model": f"demo-tokens={EVENTS},gap=20",
            "stream": True,
            "messages": [{"role": "user", "content": "Count."}],
        }
        workers = daemon.workers()
        message = request(key, call)
        asyncio.run(hold_streams(daemon, message))  # the first round makes the pools
        rss = {pid: rss_bytes(pid) for pid in workers}
        streams = asyncio.run(hold_streams(daemon, message))
        assert all(stream == streams[0] for stream in streams)
        assert len(streams[0]) == EVENTS
        assert counters(daemon.state)["streams"] == 2 * STREAMS
        assert counters(daemon.state)["cancelled"] == 0
        # What is left: listeners, channel, journal, and idle connections to the upstream.
        wait_for(lambda: counters(daemon.state)["open"] == 0, what="the end of all streams")
        for pid in workers:
            wait_for(lambda pid=pid: descriptors(pid) < 1_100, what="closed sockets")
            assert rss_bytes(pid) < rss[pid] + RSS_SLACK_BYTES
        assert daemon.workers() == workers
