"""Callers beside a flood: what the flood was told, and how long others waited meanwhile."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from tests.support import flood
from tests.support.daemon import Daemon
from tests.support.load import Answer, connected, paced
from tests.support.quotas import Key, asked, chat

CALM_LINES = 8


class Flooded(msgspec.Struct):
    """What a flood was told, and what became of others meanwhile."""

    per_s: float
    statuses: dict[str, int]
    calm: list[Answer]
    asked_per_s: float

    @property
    def p99_ms(self) -> float:
        """Of the calls of others, all but one in a hundred were faster."""
        took = sorted(answer.took_s for answer in self.calm)
        return 1_000 * took[len(took) * 99 // 100]


class Flood(msgspec.Struct):
    """What is sent again and again: so many times a second, or as fast as answers come."""

    message: bytes
    per_s: float | None = None


async def calls_of(daemon: Daemon, key: Key, seconds: float, per_s: float) -> list[Answer]:
    """Call at that rate, and wait for each answer."""
    async with connected(daemon, CALM_LINES) as lines:
        return await paced(lines, chat(key), per_s=per_s, seconds=seconds)


def flooded(
    daemon: Daemon, source: Flood | None, calm: Key, seconds: float, *, calm_per_s: float = 100
) -> Flooded:
    """Flood from `source`, if there is one, while others call."""
    asked_before = asked(daemon)
    with contextlib.ExitStack() as stack:
        statuses: dict[str, int] = {}
        if source is not None:
            stack.enter_context(flooding(daemon, source, seconds, statuses))
        answers = asyncio.run(calls_of(daemon, calm, seconds, calm_per_s))
    asked_per_s = (asked(daemon) - asked_before) / seconds
    return Flooded(sum(statuses.values()) / seconds, statuses, answers, asked_per_s)


@contextlib.contextmanager
def flooding(
    daemon: Daemon, source: Flood, seconds: float, statuses: dict[str, int]
) -> Iterator[None]:
    """Have a process flood the daemon; what it was told is in `statuses` afterwards."""
    arguments = [daemon.host, str(daemon.port), str(seconds)]
    if source.per_s is not None:
        arguments.append(str(source.per_s))
    with subprocess.Popen(
        [sys.executable, "-m", flood.__name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(source.message)
        process.stdin.close()
        yield
        statuses.update(msgspec.json.decode(process.stdout.read(), type=dict[str, int]))
    assert process.returncode == 0


def exhaust(daemon: Daemon, key: Key) -> Key:
    """Have a key spend all that it may: it is enough for one call."""

    async def spend() -> list[int]:
        async with connected(daemon, 1) as (line,):
            return [(await line.ask(chat(key))).status for _ in range(2)]

    first, second = asyncio.run(spend())
    assert first == 200 < second
    return key
