"""Waiting for something to become true, never for time to pass."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 10.0
"""Only ever used up by a test that fails."""


async def until(
    true: Callable[[], bool], complaint: str, state: Callable[[], object] = str
) -> None:
    """Let the loop turn until `true`; fail with `complaint` and the state if it never is."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while not true():
        assert loop.time() < end, f"{complaint}: {state()}"
        await asyncio.sleep(0.001)
