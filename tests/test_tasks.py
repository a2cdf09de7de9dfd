import asyncio
import gc
import weakref

import pytest

from llmrouter import tasks
from tests.support.leaks import Failures
from tests.support.waiting import until


class Broke(Exception):
    """What the tasks of these tests fail with."""


async def answer(value: int) -> int:
    return value


async def fail() -> None:
    raise Broke


@pytest.mark.asyncio
async def test_a_task_has_its_name_and_its_result() -> None:
    task = tasks.spawn(answer(7), name="answer seven")

    assert task.get_name() == "answer seven"
    assert await task == 7


@pytest.mark.asyncio
async def test_a_task_that_nobody_holds_still_ends() -> None:
    """The loop keeps only a weak reference to a task that waits for what only it knows."""
    ended: list[str] = []
    gate: list[weakref.ref[asyncio.Future[None]]] = []

    async def wait() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.append(weakref.ref(future))
        await future
        ended.append("ended")

    tasks.spawn(wait(), name="held by nobody")
    await asyncio.sleep(0)
    gc.collect()

    future = gate[0]()
    assert future is not None
    future.set_result(None)
    del future
    await until(lambda: bool(ended), "the task was lost")


@pytest.mark.asyncio
async def test_a_failure_is_logged_with_the_task_s_name(no_leaks: Failures) -> None:
    """Also where nobody awaits the task."""
    tasks.spawn(fail(), name="feed the cat")

    await until(lambda: bool(no_leaks.seen), "nothing was logged")

    (logged,) = no_leaks.seen
    assert logged.startswith("task feed the cat failed\nTraceback")
    assert logged.endswith("Broke")
    no_leaks.seen.clear()


@pytest.mark.asyncio
async def test_a_cancelled_task_has_not_failed(no_leaks: Failures) -> None:
    task = tasks.spawn(asyncio.Event().wait(), name="wait for ever")
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert no_leaks.seen == []


@pytest.mark.asyncio
async def test_what_has_ended_is_not_held() -> None:
    task = tasks.spawn(answer(7), name="short")
    await task
    ended = weakref.ref(task)

    del task
    await asyncio.sleep(0)
    gc.collect()

    assert ended() is None
