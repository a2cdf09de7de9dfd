"""What all tests share: asynchronous ones run on uvloop, as the daemon does, and leave nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import uvloop

from tests.support import compiled
from tests.support.leaks import Failures, nothing_left


def pytest_configure() -> None:
    """Test nothing that is compiled from other sources than these."""
    compiled.check()


def pytest_report_header() -> str:
    """Say what is tested."""
    return f"llmrouter is {'interpreted' if compiled.library() is None else 'compiled'}"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of every asynchronous test; pytest-asyncio calls this."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def no_leaks() -> AsyncIterator[Failures]:
    """Fail a test that leaves a task or a socket, or in which something failed unnoticed."""
    async with nothing_left() as failures:
        yield failures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that waits for anything is checked for leaks without having to ask."""
    for item in items:
        if item.get_closest_marker("asyncio") is not None:
            item.fixturenames.insert(0, "no_leaks")  # type: ignore[attr-defined]  # every Function has them
