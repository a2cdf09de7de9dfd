"""kill -9 on a worker under load: only its own connections fail, and no call goes unrecorded."""

import asyncio
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import pair
from llmrouter.tasks import spawn
from tests.support.daemon import Daemon, create_key, serving, wait_for
from tests.support.demo import counters
from tests.support.load import Line, request

pytestmark = pytest.mark.e2e

LINES = 32
WORKERS = 3
KILLS = 4
BETWEEN_KILLS_S = 0.7
SERVING = re.compile(r"child=worker-\d+ pid=\d+ serving")
REPLACED_WITHIN_S = 20.0
"""Generous, as the machine may be busy; the figure itself is printed, and meant to be under 0.5."""
LOST = (ConnectionError, asyncio.IncompleteReadError)


class Tally:
    """What the callers saw."""

    def __init__(self) -> None:
        self.whole = 0
        self.lost = 0
        self.refused = 0
        self.running = True


async def keep_calling(daemon: Daemon, message: bytes, tally: Tally) -> None:
    while tally.running:
        try:
            line = await Line.to(daemon)
        except LOST:
            tally.lost += 1
            continue
        try:
            while tally.running:
                status, _ = await line.call(message)
                tally.whole += status == 200
                tally.refused += status != 200
        except LOST:
            tally.lost += 1
        finally:
            await line.close()


def serves_again(daemon: Daemon, served: int) -> bool:
    return len(SERVING.findall(daemon.events)) > served


async def kill_under_load(daemon: Daemon, messages: list[bytes], tally: Tally) -> list[float]:
    """Kill a worker every now and then; how long each took to be replaced, in seconds."""
    callers = [
        spawn(
            keep_calling(daemon, messages[number % len(messages)], tally), name=f"caller {number}"
        )
        for number in range(LINES)
    ]
    took = []
    for _ in range(KILLS):
        await asyncio.sleep(BETWEEN_KILLS_S)
        served = len(SERVING.findall(daemon.events))
        killed_at = time.monotonic()
        os.kill(daemon.workers()[0], signal.SIGKILL)
        await asyncio.to_thread(wait_for, partial(serves_again, daemon, served))
        took.append(time.monotonic() - killed_at)
    await asyncio.sleep(BETWEEN_KILLS_S)
    tally.running = False
    await asyncio.gather(*callers)
    return took


def test_a_killed_worker_takes_only_its_own_connections(tmp_path: Path) -> None:
    """FR-006: the others serve on, and the journal has every call that went upstream."""
    with serving(tmp_path, workers=WORKERS) as daemon:
        key = create_key(daemon.config)["key"]
        chat: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}]}
        messages = [
            request(key, {**chat, "model": "demo"}),
            request(key, {**chat, "model": "demo-tokens=10,gap=5", "stream": True}),
        ]
        tally = Tally()
        took = asyncio.run(kill_under_load(daemon, messages, tally))
        print(f"replaced after {', '.join(f'{s * 1000:.0f} ms' for s in took)}")  # noqa: T201
        assert max(took) < REPLACED_WITHIN_S
        assert tally.refused == 0
        assert tally.whole > 100
        # Each kill ends the connections that this worker held, and no other.
        assert 0 < tally.lost <= KILLS * LINES
        seen = counters(daemon.state)["requests"]
        assert daemon.stop() == 0
        calls = pair(journal_paths(daemon.state / "journal"))
        assert not calls.damaged
        assert not calls.duplicates
        assert not calls.orphans
        whole = [call for call in calls.calls if call.end is not None and call.end.status == 200]
        # An answer may arrive whole within the milliseconds for which its end is gathered.
        interrupted = sum(call.interrupted for call in calls.calls)
        assert len(whole) + interrupted >= tally.whole
        # A call is in the journal before its first byte leaves; one may have been killed between.
        assert seen <= len(calls.calls) <= seen + KILLS * LINES
        # What was lost had begun, but for calls that were killed before they had.
        assert interrupted <= tally.lost + KILLS * LINES
