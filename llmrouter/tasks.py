"""Tasks that are named, held until they end, and whose failure is logged.

The event loop keeps only a weak reference to a task, so one that nobody holds may vanish half-way,
and one that nobody awaits fails in silence. Both are why `asyncio.create_task` is banned elsewhere.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_held: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, Result], *, name: str) -> asyncio.Task[Result]:
    """Run `coroutine` as a task on the running loop, under `name` in logs and dumps."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _held.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _held.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task %s failed", task.get_name(), exc_info=error)
