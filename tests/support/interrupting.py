"""Losing the client when an exchange waits for the nth time: cancellation at every await."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from llmrouter.tasks import spawn
from tests.support.gateway import UNLIMITED, Quota, Stage, staged
from tests.support.upstream import Play
from tests.support.waiting import until


class Interrupted:
    """Runs the tasks of connections, and does something at the nth time that one has to wait."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.interrupt: Callable[[], None]

    def __call__(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        return spawn(self._driven(coroutine), name=name)

    @property
    def happened(self) -> bool:
        return self.left <= 0

    async def _driven(self, coroutine: Coroutine[Any, Any, None]) -> None:
        await _Steps(coroutine, self._waits)

    def _waits(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.interrupt()


class _Steps:
    """A coroutine that tells each time that it has to wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, None]:
        thrown: BaseException | None = None
        while True:
            try:
                future = self._coroutine.throw(thrown) if thrown else self._coroutine.send(None)
            except StopIteration:
                return
            thrown = None
            self._waits()
            try:
                yield future
            except BaseException as error:  # noqa: BLE001 - cancellation is what this is for
                thrown = error


def lose_clients(stage: Stage) -> None:
    for connection in list(stage.server.connections):
        connection.abort()


@contextlib.asynccontextmanager
async def interrupted(
    tmp_path: Path, at: int, *plays: Play, url: str | None = None, quota: Quota = UNLIMITED
) -> AsyncIterator[Stage]:
    """A stage on which the server loses its client when an exchange waits for the nth time."""
    spawning = Interrupted(at)
    async with staged(tmp_path, *plays, spawning=spawning, url=url, quota=quota) as stage:
        spawning.interrupt = lambda: lose_clients(stage)
        yield stage
        assert spawning.happened, "nothing waited that often"
        await until(lambda: not stage.server.connections, "a connection is left")
        await stage.at_rest()
        await until(lambda: stage.upstream.open <= len(stage.upstreams["up"].pool._idle), "left")
