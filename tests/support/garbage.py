"""What only the garbage collector could free."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def no_collector() -> AsyncIterator[Counter[str]]:
    """What lies there at the end of ours, and nobody refers to but itself."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        await asyncio.sleep(0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
        found.update(kind.__name__ for kind in kinds if kind.__module__.startswith("llmrouter."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
