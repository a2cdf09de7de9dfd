"""A mixed load for a long time: nothing grows, nothing is left behind, and every call is booked.

Plain calls, streams, clients that leave in mid-stream, an upstream that fails now and then, and
keys that change meanwhile. LLMROUTER_SOAK_S says for how many seconds.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import uvloop

from llmrouter.metering.accounts import BookedCall, Dimension
from llmrouter.tasks import spawn
from tests.bench.planned import percentile
from tests.bench.sampling import Held, Sample, held, rss_most, table
from tests.bench.soaking import FAULTS, MODELS, Clients
from tests.support.accounting import assert_all_booked, assert_tokens_agree, booked, key_of, made
from tests.support.daemon import Daemon, Settings, serving, wait_for
from tests.support.faults import Counts, Port
from tests.support.faulty import Faulty, faulty
from tests.support.quotas import settled
from tests.support.streams import NEVER_OPEN

pytestmark = [pytest.mark.bench, pytest.mark.e2e]

SHORT_S, LONG_S = 6.0, 1_800.0
WORKERS = 2
SAMPLES = 30
SAMPLE_S_MIN = 0.5
FIRST_S = (0.005, 0.03)
"""How long the first token of the upstream takes."""
FDS_MORE = 8
"""What a process may hold in the end beyond what it held before its first call: files that it opens
once. Of the supervisor these are two of the store, and two for the journal of each worker."""
RSS_SHARE, RSS_MB = 0.05, 4.0
"""What a process may have grown by from the second to the last third of a long soak."""
BOOKED_WITHIN_S = CLOSED_WITHIN_S = 30.0
"""Generous, as the machine may be busy."""


def settings(far: Faulty) -> Settings:
    """All models at one upstream, and limits that count everything and refuse nothing."""
    model = {"deployments": [{"upstream": "far"}], "price": {"input": 3, "output": 9}}
    limits = [{"concurrent": 1_000}, {"requests": 10**7, "per": "minute"}]
    return {
        "upstreams": {"far": {"url": far.url, "breaker": NEVER_OPEN}},
        "models": dict.fromkeys(MODELS, model),
        "orgs": {"acme": {"limits": limits, "budgets": [{"usd": 1_000_000, "per": "total"}]}},
    }


async def soak(daemon: Daemon, clients: Clients, seconds: float) -> list[Sample]:
    """Let the clients call; what was sampled meanwhile."""
    every_s = max(seconds / SAMPLES, SAMPLE_S_MIN)
    start_s = time.monotonic()
    running = spawn(clients.run(), name="clients")
    samples: list[Sample] = []
    calls = 0
    while not running.done():
        await asyncio.wait([running], timeout=every_s)
        found = await asyncio.to_thread(held, daemon)
        samples.append(_sample(time.monotonic() - start_s, found, clients, calls))
        calls = clients.calls
    await running
    return samples


def _sample(at_s: float, found: Mapping[int, Held], clients: Clients, before: int) -> Sample:
    took_s, clients.took_s = clients.took_s, []
    p50_s, p99_s = (percentile(took_s, percent) if len(took_s) > 1 else 0 for percent in (50, 99))
    return Sample(at_s, found, clients.calls - before, p50_s, p99_s)


# ---- what must hold -----------------------------------------------------------------------------


def is_flat(before: Mapping[int, Held], after: Mapping[int, Held]) -> bool:
    """Whether the same processes live, and hold no more descriptors."""
    return before.keys() == after.keys() and all(
        after[pid].fds <= one.fds + FDS_MORE for pid, one in before.items()
    )


def held_in_the_end(daemon: Daemon, before: Mapping[int, Held]) -> Mapping[int, Held]:
    """What the processes hold once they hold no more than before; or what they hold for long."""
    with contextlib.suppress(AssertionError):  # whoever asks says what there was instead
        wait_for(lambda: is_flat(before, held(daemon)), timeout_s=CLOSED_WITHIN_S)
    return held(daemon)


def booked_by_model(daemon: Daemon, seen: Counts) -> dict[str, list[BookedCall]]:
    """The rows of each model, once they tell of all that reached the upstream."""

    def read() -> dict[str, list[BookedCall]]:
        return {model: booked(daemon, {Dimension.MODEL: model}) for model in MODELS}

    def are_there() -> bool:
        return sum(map(made, read().values())) >= seen.all.begun

    wait_for(are_there, timeout_s=BOOKED_WITHIN_S, what="the booking of all calls")
    return read()


def assert_booked(rows: Mapping[str, Sequence[BookedCall]], clients: Clients, seen: Counts) -> None:
    """Each call that was made is in the books once, and so is each attempt; nothing else is."""
    for model, found in rows.items():
        calls = Counter(row.request_id for row in found if row.attempts)
        assert calls == Counter(clients.ids[model]), model
        assert made(found) == seen.by_model[model], model
        statuses = Counter((model, row.status) for row in found if row.attempts)
        assert statuses.items() <= clients.statuses.items()
    everything = [row for found in rows.values() for row in found]
    assert_all_booked(everything, {"far": seen.all})
    assert_tokens_agree(everything, {"far": seen.all})


def assert_memory_flat(samples: Sequence[Sample]) -> None:
    """From the second to the last third of the time no process has grown; the first warms up."""
    third = len(samples) // 3
    for pid in samples[0].held:
        middle_mb = rss_most(samples[third:-third], pid)
        last_mb = rss_most(samples[-third:], pid)
        assert last_mb <= middle_mb * (1 + RSS_SHARE) + RSS_MB, pid


@pytest.mark.parametrize(
    ("seconds", "is_long"),
    [
        pytest.param(SHORT_S, False, id="short"),
        pytest.param(LONG_S, True, id="long", marks=pytest.mark.slow),
    ],
)
def test_a_mixed_load_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float, is_long: bool
) -> None:
    seconds = float(os.environ.get("LLMROUTER_SOAK_S", seconds))
    with (
        faulty("far") as far,
        serving(tmp_path, settings(far), workers=WORKERS) as daemon,
    ):
        far.order(FAULTS, first_s=FIRST_S)
        clients = Clients(daemon, key_of(daemon), seconds)
        before = held(daemon)
        samples = uvloop.run(soak(daemon, clients, seconds))
        seen = far.quiet()
        far.order(port=Port.REFUSED)  # which ends the connections that are kept for later calls
        after = held_in_the_end(daemon, before)
        everything = [Sample(0.0, before), *samples, Sample(samples[-1].at_s, after)]
        with capsys.disabled():
            sys.stdout.write(table(everything))
            sys.stdout.write(f"{told(clients)}\n")
        assert is_flat(before, after)
        assert settled(daemon, "org/acme/concurrent") == 0
        rows = booked_by_model(daemon, seen)
        assert "Traceback" not in daemon.log
    assert_booked(rows, clients, seen)
    assert clients.statuses["leaving", 200]
    assert clients.cut
    if is_long:
        assert_memory_flat(samples)


def told(clients: Clients) -> str:
    """What the clients have seen, in a line."""
    counts = (f"{model} {status}: {n}" for (model, status), n in sorted(clients.statuses.items()))
    return f"{', '.join(counts)}, of which {clients.cut} cut; {clients.changes} changes of keys"
