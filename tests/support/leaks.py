"""Nothing is left behind: no task, no socket, and no failure that nobody looked at.

Timers of uvloop cannot be listed; those of ours are reachable through `Deadlines`, whose tests look
at them, and a timer that fires late on a dead connection would show here as a failure.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.support.waiting import until

OURS = ("asyncio", "llmrouter")


class Failures(logging.Handler):
    """What failed without reaching the test: loop errors and logged ones. Clear what you expect."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))

    def of_loop(self, _loop: asyncio.AbstractEventLoop, facts: dict[str, Any]) -> None:
        """Take what the event loop could only report."""
        self.seen.append(f"{facts.get('message')}: {facts.get('exception')!r}")


def open_sockets() -> set[str]:
    """The sockets of this process that have an address, with their inode.

    The event loop makes an anonymous pair for itself every time it runs.
    """
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(descriptor))) as sock:
                    if address := sock.getsockname():
                        found.add(f"{target} {address}")
    return found


def other_tasks() -> set[asyncio.Task[Any]]:
    """Every task of the running loop but the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def _only(sockets: set[str]) -> bool:
    if open_sockets() <= sockets:
        return True
    gc.collect()  # a test's own socket may still be held by a frame
    return False


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[Failures]:
    """Check at the end that everything begun inside has ended."""
    loop = asyncio.get_running_loop()
    failures = Failures()
    loop.set_exception_handler(failures.of_loop)
    for name in OURS:
        logging.getLogger(name).addHandler(failures)
    tasks, sockets = other_tasks(), open_sockets()
    try:
        yield failures
        await until(lambda: other_tasks() <= tasks, "a task is left", other_tasks)
        await until(lambda: _only(sockets), "a socket is left", open_sockets)
    finally:
        for name in OURS:
            logging.getLogger(name).removeHandler(failures)
    assert failures.seen == []
    assert sys.exc_info()[1] is None, "an exception that nobody handles any more is kept as handled"
