"""A flood of refused calls costs the ledger nothing, and other callers little (SC-004)."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from tests.support import flood
from tests.support.daemon import Daemon, serving
from tests.support.demo import counters
from tests.support.load import Answer, connected, paced, request
from tests.support.quotas import (
    OUTPUT_TOKENS,
    PRICED,
    PROMPT_TOKENS,
    Key,
    asked,
    chat,
    cost_nano,
    issue,
    usd,
)

pytestmark = pytest.mark.e2e

WORKERS = 2
CALM_PER_S = 100
CALM_LINES = 8
ASKED_PER_S_MAX = 20
SECONDS = [2, pytest.param(20, marks=pytest.mark.slow)]
NO_WORSE_THAN = 10.0
"""Generous, as flood, callers and daemon share the machine; the figures themselves are printed."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("floods"), PRICED, workers=WORKERS) as daemon:
        yield daemon


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


async def calls_of(daemon: Daemon, key: Key, seconds: float) -> list[Answer]:
    async with connected(daemon, CALM_LINES) as lines:
        return await paced(lines, chat(key), per_s=CALM_PER_S, seconds=seconds)


def flooded(daemon: Daemon, message: bytes | None, calm: Key, seconds: float) -> Flooded:
    """Flood with `message`, if there is one, while others call."""
    asked_before = asked(daemon)
    with contextlib.ExitStack() as stack:
        statuses: dict[str, int] = {}
        if message is not None:
            stack.enter_context(flooding(daemon, message, seconds, statuses))
        answers = asyncio.run(calls_of(daemon, calm, seconds))
    asked_per_s = (asked(daemon) - asked_before) / seconds
    return Flooded(sum(statuses.values()) / seconds, statuses, answers, asked_per_s)


@contextlib.contextmanager
def flooding(
    daemon: Daemon, message: bytes, seconds: float, statuses: dict[str, int]
) -> Iterator[None]:
    """Have a process flood the daemon; what it was told is in `statuses` afterwards."""
    arguments = [daemon.host, str(daemon.port), str(seconds)]
    with subprocess.Popen(
        [sys.executable, "-m", flood.__name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(message)
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


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_flood_of_refused_calls_neither_reaches_the_ledger_nor_stops_others(
    daemon: Daemon, seconds: float
) -> None:
    """Beside a flood of calls that no limit refuses: all that other callers feel is the CPU."""
    key = exhaust(daemon, issue(daemon, limits=("requests=1/day",)))
    calm = issue(daemon, org="calm", limits=("requests=100000/second",))
    quiet = flooded(daemon, None, calm, seconds)
    before = counters(daemon.state)["requests"]
    refused = flooded(daemon, chat(key), calm, seconds)
    assert refused.statuses.keys() == {"429"}
    assert counters(daemon.state)["requests"] - before == len(refused.calm)
    nowhere = request(key.key, {"model": "demo"}, path="/v1/nowhere")
    unknown = flooded(daemon, nowhere, calm, seconds)
    assert unknown.statuses.keys() == {"404"}
    for name, found in (("quiet", quiet), ("429", refused), ("404", unknown)):
        figures = f"{found.per_s:,.0f}/s, others' p99 {found.p99_ms:.1f} ms"
        print(f"{name}: {figures}, ledger asked {found.asked_per_s:.1f}/s")  # noqa: T201
        assert {answer.status for answer in found.calm} == {200}
    assert refused.per_s > 100 * ASKED_PER_S_MAX
    # The calm org's own calls ask too: what the flood adds is what counts.
    assert refused.asked_per_s - quiet.asked_per_s < ASKED_PER_S_MAX
    assert refused.p99_ms < NO_WORSE_THAN * unknown.p99_ms


def test_a_flood_of_calls_without_money_does_not_reach_the_ledger(daemon: Daemon) -> None:
    call_nano = cost_nano(PROMPT_TOKENS, OUTPUT_TOKENS)
    key = exhaust(daemon, issue(daemon, budgets=(f"usd={usd(call_nano)}/total",)))
    before = counters(daemon.state)["requests"]
    refused = flooded(daemon, chat(key), issue(daemon, org="calm"), 2)
    assert refused.statuses.keys() == {"402"}
    assert refused.per_s > 100 * ASKED_PER_S_MAX
    assert refused.asked_per_s < ASKED_PER_S_MAX
    assert counters(daemon.state)["requests"] - before == len(refused.calm)
