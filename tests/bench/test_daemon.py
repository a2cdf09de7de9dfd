"""The whole daemon: what a request and a streamed event cost it, beside nginx in the same run.

CPU time of the process tree, by what was asked for: plain calls one after another on 64
connections, and streams whose events are 20 ms apart; what beginning a stream costs is in its
events. Keys, limits, budget, prices, journal and books are on, and it counts until the last call is
booked, so that the books' share is in it. The figures of a short run are rough ones; for real ones,
on a quiet machine: `pytest -m slow tests/bench/test_daemon.py`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from llmrouter.metering.accounts import Accounts
from llmrouter.metering.tally import Tally
from tests.bench.calls import chat, message, plain_headers
from tests.bench.clients import clients, load
from tests.bench.nginx import nginx
from tests.bench.processes import Cpus, cpu_s
from tests.support.accounting import BOOKED_WITHIN_S, key_of
from tests.support.daemon import Daemon, Settings, run, serving, wait_for
from tests.support.streams import Upstream, upstream
from tests.support.sums import journaled

pytestmark = [pytest.mark.bench, pytest.mark.e2e]

GAP_MS = 20
ANSWER_TOKENS = 170
"""Of a plain answer, which has 1.2 kB then."""
FRAME_EVENTS = 4
"""Of a stream, besides one for each token: the role, the finish reason, the usage, the end."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, by how many at once."""

    name: str
    connections: int
    seconds: float
    """For how long each caller goes on; it makes one call at least."""
    tokens: int
    stream: bool = False
    gap_ms: int = GAP_MS
    """Between the events of a stream."""
    more_bytes: int = 0
    """Of the body of a call, above 1 kB."""
    turns: int = 1
    """How often each proxy is measured, in turns: a figure taken once may be off by a third where
    the machine is shared."""

    @property
    def model(self) -> str:
        """What the upstream makes of it."""
        return f"demo-tokens={self.tokens}" + (f",gap={self.gap_ms}" if self.stream else "")

    def message(self, key: str) -> bytes:
        """The call."""
        body = chat(self.model, stream=self.stream, more_bytes=self.more_bytes)
        return message(plain_headers(key.encode(), body), body)


def bodies(seconds: float, *sizes: int) -> tuple[Lane, ...]:
    """Calls that differ in the size of their bodies alone, in kB."""
    return tuple(
        Lane(
            name=f"{size} kB",
            connections=8,
            seconds=seconds,
            tokens=ANSWER_TOKENS,
            more_bytes=(size - 1) * 1_000,
        )
        for size in sizes
    )


def crowds(*sizes: int) -> tuple[Lane, ...]:
    """So many streams at once, of at most 10,000 events a second together."""
    return tuple(
        Lane(
            name=f"{size:,} streams",
            connections=size,
            seconds=2.0,
            tokens=16,
            stream=True,
            gap_ms=max(GAP_MS, size // 10),
        )
        for size in sizes
    )


SHORT = (
    Lane(name="plain", connections=64, seconds=0.3, tokens=ANSWER_TOKENS),
    Lane(name="stream", connections=100, seconds=0.0, tokens=16, stream=True),
)
WARM = SHORT[0]
LONG = (
    Lane(name="plain", connections=64, seconds=2.0, tokens=ANSWER_TOKENS, turns=9),
    Lane(name="stream", connections=200, seconds=3.0, tokens=46, stream=True, turns=7),
)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What one lane came to at one proxy: in the middle one of its turns, by what it cost."""

    calls: int
    events: int
    """Of the streams among them."""
    seconds: float
    cpu_us: float
    """Of the whole process tree, by request; by event where it streams."""


class Target:
    """A proxy that is measured."""

    def __init__(
        self, name: str, pid: int, port: int, key: str, booked: Callable[[int], None]
    ) -> None:
        self.name = name
        self._pid = pid
        self._port = port
        self._key = key
        self._booked = booked
        """Waits until the books have so many calls."""
        self.calls = 0
        """All that were made, those of warming up too."""
        self.tokens = 0
        """All that were answered."""
        self.streams = 0

    async def measure(self, lane: Lane) -> Figure:
        """Run a lane; every call must be answered with 200 and whole."""
        async with clients(self._port, lane.connections) as callers:
            warmed = await load(callers, WARM.message(self._key), seconds=0)
            assert warmed.statuses == {200: lane.connections}
            self._count(WARM, warmed.calls)
            self._booked(self.calls)
            apart_s = lane.gap_ms / 1000 if lane.stream else 0.0
            cpu, began_s = cpu_s(self._pid), time.perf_counter()
            made = await load(
                callers, lane.message(self._key), seconds=lane.seconds, apart_s=apart_s
            )
            took_s = time.perf_counter() - began_s
            self._count(lane, made.calls)
            self._booked(self.calls)
            cpu = cpu_s(self._pid) - cpu
        assert made.statuses == {200: made.calls}, (self.name, lane.name, made.statuses)
        assert made.whole == made.calls
        assert made.events == (made.calls * (lane.tokens + FRAME_EVENTS) if lane.stream else 0)
        units = made.events if lane.stream else made.calls
        return Figure(
            calls=made.calls, events=made.events, seconds=took_s, cpu_us=cpu / units * 1e6
        )

    def _count(self, lane: Lane, calls: int) -> None:
        self.calls += calls
        self.tokens += calls * lane.tokens
        self.streams += calls * lane.stream


def everything_on(far: Upstream) -> Settings:
    """Limits of each kind and a budget, none of which is ever reached."""
    limits = [
        {"requests": 100_000_000, "per": "minute"},
        {"tokens": 100_000_000_000, "per": "minute"},
        {"concurrent": 10_000},
    ]
    budgets = [{"usd": 1_000_000, "per": "month"}]
    return far.settings(orgs={"acme": {"limits": limits, "budgets": budgets}})


def tally(state: Path) -> Tally:
    """What the books come to."""
    if not (state / "books.db").exists():
        return Tally()
    with contextlib.closing(Accounts(state / "books.db")) as accounts:
        totals = accounts.totals().totals
    return totals[0].tally if totals else Tally()


def wait_until_booked(state: Path, calls: int) -> None:
    """Wait for the books; that they have no more than that is asserted in the end."""
    wait_for(lambda: tally(state).calls >= calls, timeout_s=BOOKED_WITHIN_S, what="booking")


def assert_exact(daemon: Daemon, target: Target) -> None:
    """Journal, books and `llmrouter usage` have each call, and each token, once."""
    calls = journaled(daemon.state)
    assert len(calls) == target.calls
    assert all(call.end is not None and call.end.outcome == "ok" for call in calls)
    assert sum(call.begin.stream for call in calls) == target.streams
    found = tally(daemon.state)
    assert (found.calls, found.output_tokens) == (target.calls, target.tokens)
    assert (found.errors, found.estimated, found.interrupted, found.unpriced) == (0, 0, 0, 0)
    done = run("usage", "--config", str(daemon.config), "--json")
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout)["total"]["calls"] == target.calls


async def measured(directory: Path, lanes: tuple[Lane, ...]) -> dict[str, dict[str, Figure]]:
    """The figures by lane and proxy."""
    cpus = Cpus()
    figures: dict[str, dict[str, Figure]] = {lane.name: {} for lane in lanes}
    with cpus.for_rest(), upstream() as far, contextlib.ExitStack() as running:
        with cpus.for_measured():
            daemon = running.enter_context(serving(directory, everything_on(far)))
            other = running.enter_context(nginx(directory / "nginx", far.port))
        state = daemon.state
        key = key_of(daemon)["key"]
        router = Target(
            "llmrouter",
            daemon.process.pid,
            daemon.port,
            key,
            lambda calls: wait_until_booked(state, calls),
        )
        targets = [router]
        if other is not None:
            targets.append(Target("nginx", other.pid, other.port, key, lambda _: None))
        for lane in lanes:
            turns = [
                {target.name: await target.measure(lane) for target in targets}
                for _ in range(lane.turns)
            ]
            for target in targets:
                costs = sorted((turn[target.name] for turn in turns), key=lambda one: one.cpu_us)
                figures[lane.name][target.name] = costs[len(costs) // 2]
        assert_exact(daemon, router)
    return figures


def table(figures: dict[str, dict[str, Figure]]) -> str:
    """The figures to read."""
    lines = [f"{'':14}{'':11}{'calls':>8}{'events':>9}{'calls/s':>9}{'CPU us':>9}{'x nginx':>9}"]
    for lane, by_name in figures.items():
        nginx_us = by_name["nginx"].cpu_us if "nginx" in by_name else None
        for name, one in by_name.items():
            ratio = "-" if nginx_us is None else f"{one.cpu_us / nginx_us:.2f}"
            lines.append(
                f"{lane:14}{name:11}{one.calls:8}{one.events:9}{one.calls / one.seconds:9.0f}"
                f"{one.cpu_us:9.1f}{ratio:>9}"
            )
    return "\n".join(["", *lines, ""])


def save(figures: dict[str, dict[str, Figure]], path: Path) -> None:
    """Write them as JSON, by lane and proxy."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "lanes",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(LONG, id="long", marks=pytest.mark.slow),
        pytest.param(bodies(4.0, 1, 64, 1_000, 4_000), id="bodies", marks=pytest.mark.slow),
        pytest.param(crowds(1, 10, 100, 1_000, 2_000), id="crowds", marks=pytest.mark.slow),
    ],
)
async def test_what_a_request_and_an_event_cost(
    lanes: tuple[Lane, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved where LLMROUTER_BENCH_JSON says."""
    figures = await measured(tmp_path, lanes)

    save(figures, Path(os.environ.get("LLMROUTER_BENCH_JSON") or tmp_path / "bench.json"))
    with capsys.disabled():
        sys.stdout.write(table(figures))
