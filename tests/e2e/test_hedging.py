"""A second attempt beside a late first one: who waits, what it costs, and that it is accounted."""

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from llmrouter.metering.accounts import BookedCall
from llmrouter.tasks import spawn
from tests.support.accounting import assert_tokens_agree, key_of, rows_of
from tests.support.daemon import Daemon, serving
from tests.support.faults import WORDS, Fault, Kind, Seen
from tests.support.faulty import Faulty, faulty
from tests.support.load import request
from tests.support.streams import Stream

pytestmark = pytest.mark.e2e

STALLED_S = 5.0
EVERY = 20
"""One in so many first tokens of the one upstream is late."""
FIRST_S = (0.02, 0.06)
P99_S = 1.0
EXTRA = 0.07
EXTRA_OF_FEW = 0.10
"""So few calls may have more of it by chance: one in twenty is late where that is learned."""
WARMING = 100
"""Calls before any is judged: how late is late must be learned where that is asked for."""
EVENTS = WORDS + 4
"""The role, the words, the reason of the end, the usage, and the end marker."""


class Timed(msgspec.Struct, frozen=True):
    """What a caller saw of one stream."""

    first_s: float
    events: int


def settings(stalling: Faulty, sound: Faulty, after: float | str) -> dict[str, object]:
    deployments = [{"upstream": each.name, "model": "m"} for each in (stalling, sound)]
    return {
        "upstreams": {each.name: {"url": each.url} for each in (stalling, sound)},
        "models": {"chat": {"deployments": deployments, "hedge_after": after}},
        "orgs": {"acme": {}},
    }


async def timed(daemon: Daemon, message: bytes) -> Timed:
    """Call once, and read it to its end."""
    sent_at_s = time.monotonic()
    stream = await Stream.send(daemon, message)
    assert await stream.begin() == 200
    await stream.read(1)
    first_s = time.monotonic() - sent_at_s
    await stream.read(10_000)
    stream.leave(reset=False)
    return Timed(first_s, stream.events)


async def called(daemon: Daemon, key: str, count: int, per_s: float) -> list[Timed]:
    """So many calls, each at its time, however long others take."""
    call: dict[str, object] = {
        "model": "chat",
        "stream": True,
        "max_tokens": WORDS,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Hello there"}],
    }
    message = request(key, call)
    start_s = time.monotonic()
    running = []
    for number in range(count):
        await asyncio.sleep(start_s + number / per_s - time.monotonic())
        running.append(spawn(timed(daemon, message), name=f"call {number}"))
    return list(await asyncio.gather(*running))


@pytest.mark.parametrize("after", [0.3, "p95"])
@pytest.mark.parametrize(
    ("count", "per_s", "extra_max"),
    [(150, 90, EXTRA_OF_FEW), pytest.param(3_000, 60, EXTRA, marks=pytest.mark.slow)],
)
def test_first_tokens_come_in_time_for_little_more_than_the_calls_themselves(
    tmp_path: Path, after: float | str, count: int, per_s: float, extra_max: float
) -> None:
    with faulty("stalling") as stalling, faulty("sound") as sound:
        stalling.order({"m": Fault(Kind.SLOW, seconds=STALLED_S, every=EVERY)}, first_s=FIRST_S)
        sound.order(first_s=FIRST_S)
        with serving(tmp_path, settings(stalling, sound, after), workers=1) as daemon:
            key = key_of(daemon)
            asyncio.run(called(daemon, key["key"], WARMING, per_s))
            before = stalling.quiet().all.begun + sound.quiet().all.begun
            streams = asyncio.run(called(daemon, key["key"], count, per_s))
            seen = {each.name: each.quiet().all for each in (stalling, sound)}
            calls = WARMING + count
            begun = sum(each.begun for each in seen.values())
            rows = rows_of(daemon, key["id"], attempts=begun, calls=calls)
    p99_s = sorted(stream.first_s for stream in streams)[int(0.99 * count)]
    extra = begun - before - count
    print(  # noqa: T201
        f"hedge_after = {after}: {count} calls, first token within {p99_s:.3f} s for 99 %,"
        f" {extra} more attempts ({extra / count:.1%})"
    )
    assert {stream.events for stream in streams} == {EVENTS}
    assert p99_s < P99_S
    assert extra < extra_max * count
    assert extra > 0, "no first token was ever late"
    assert_losers_booked(rows, seen, calls)


def assert_losers_booked(rows: list[BookedCall], seen: dict[str, Seen], calls: int) -> None:
    """Each attempt has its row, those that lost as such, and they lost to one that answered.

    A second attempt may lose in the moment in which it begins, so that it never came to be seen.
    """
    for upstream, those in seen.items():
        own = [row for row in rows if row.upstream == upstream]
        at_once = sum(is_lost_at_once(row) for row in own)
        assert those.begun <= len(own) <= those.begun + at_once, (upstream, those, own)
    assert_tokens_agree(rows, seen)
    outcomes = Counter(row.outcome for row in rows)
    assert outcomes == Counter({"ok": calls, "hedged": len(rows) - calls})
    assert {row.attempts for row in rows if row.outcome == "hedged"} == {0}
    by_request = sorted(rows, key=lambda row: row.request_id)
    for _, own_rows in itertools.groupby(by_request, key=lambda row: row.request_id):
        those_rows = list(own_rows)
        assert sum(row.attempts for row in those_rows) == len(those_rows) <= 2
        assert len({row.deployment for row in those_rows}) == len(those_rows)


def is_lost_at_once(row: BookedCall) -> bool:
    """Lost before it could have had a first token."""
    lasted_ms = row.duration_ms or 0
    return row.outcome == "hedged" and lasted_ms < FIRST_S[0] * 1_000
