"""Two attempts at once: a second one where the first token of the first is late.

Whichever begins to answer first serves the call; the other one is left, and what it may have used
is accounted. Where one of them fails, the other is waited for.
"""

import asyncio
from collections.abc import Mapping

from llmrouter.gateway.attempt import Attempt
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.verdict import Failure
from llmrouter.tasks import spawn

_Task = asyncio.Task[Failure | None]


async def race(first: Attempt, second: Attempt, meter: Meter) -> Attempt:
    """Run both, of which the first was started: the one that answers, else one that failed.

    The other is closed, and noted as passed over; that is the second where the client leaves.
    """
    attempts = {
        spawn(first.finish(), name="first attempt"): first,
        spawn(second.run(), name="hedge"): second,
    }
    chosen = first
    try:
        chosen = await _first_to_answer(attempts)
    finally:
        for task, attempt in attempts.items():
            task.cancel()
            if attempt is not chosen:
                meter.passed_over(attempt)
                attempt.close()
    return chosen


async def _first_to_answer(attempts: Mapping[_Task, Attempt]) -> Attempt:
    waiting = set(attempts)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [task for task in done if task.result() is None]
        if answered or not waiting:
            return attempts[(answered or list(done))[0]]
