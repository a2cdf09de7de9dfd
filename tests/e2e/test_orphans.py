"""Workers that outlive their supervisor: their calls are claimed while they run, then counted."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import pair
from tests.daemon.answering import (
    ModelServer,
    Stream,
    call,
    drain_for,
    gone,
    listening,
    model_server,
)
from tests.support.daemon import (
    Daemon,
    Settings,
    create_key,
    limits,
    serving,
    wait_for,
    write_config,
)

pytestmark = pytest.mark.e2e

SLOTS, REQUESTS, USD = (f"org/acme/{name}" for name in ("concurrent", "requests/day", "usd/total"))
NANO_USD = 1_000_000_000


@pytest.fixture
def upstream() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def settings(upstream: ModelServer) -> Settings:
    price = {"input": 1000, "output": 1000}
    models = {
        name: {"deployments": [{"upstream": "up"}], "price": price} for name in ("m", "m-held")
    }
    rules = {
        "limits": [{"concurrent": 2}, {"requests": 1_000, "per": "day"}],
        "budgets": [{"usd": 1_000, "per": "total"}],
    }
    return {**upstream.settings(), **drain_for(60), "models": models, "orgs": {"acme": rules}}


@contextlib.contextmanager
def outlived(directory: Path, tables: Settings) -> Iterator[tuple[str, list[Stream], list[int]]]:
    """A key, two streams, and the workers that serve them; their supervisor is killed while they
    drain."""
    first = Daemon(write_config(directory, tables, workers=2))
    workers = first.workers()
    try:
        key = str(create_key(first.config)["key"])
        streams = [Stream(first, key), Stream(first, key)]
        os.kill(first.process.pid, signal.SIGTERM)
        wait_for(lambda: not listening(first), what="closing the listeners")
        first.process.kill()
        first.process.wait()
        yield key, streams, [pid for pid in workers if not gone(pid)]
    finally:
        first.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def due(state: Path) -> int:
    """What the journals say was spent, each call once, in nano-USD."""
    found = pair(journal_paths(state / "journal"))
    assert not found.duplicates
    assert not found.damaged
    costs = [
        each.hold[1] if each.end is None else each.end.cost_nano_usd or 0 for each in found.calls
    ]
    return sum(costs)


def spent(daemon: Daemon) -> int:
    used: float = limits(daemon)[USD]["used"]
    return round(used * NANO_USD)


def claimed(daemon: Daemon) -> tuple[int, int]:
    """Calls at once, and nano-USD."""
    standing = limits(daemon)
    return standing[SLOTS]["claimed"], round(standing[USD]["claimed"] * NANO_USD)


def assert_rest(daemon: Daemon, requests: int) -> None:
    """Nobody holds anything, and every call is counted once."""
    wait_for(lambda: claimed(daemon) == (0, 0), what="the end of all claims")
    assert spent(daemon) == due(daemon.state) > 0
    assert limits(daemon)[REQUESTS]["used"] == requests


def test_their_calls_are_claimed_while_they_run_and_counted_once(
    tmp_path: Path, upstream: ModelServer
) -> None:
    """FR-008: a new supervisor is started on the same state before they are done."""
    tables = settings(upstream)
    with outlived(tmp_path, tables) as (key, streams, workers):
        with serving(tmp_path, tables) as second:
            slots, nano_usd = claimed(second)
            assert slots == 2
            assert nano_usd > 0
            assert call(second, key).code == "concurrency_limit_exceeded"

            upstream.go_on.set()

            assert all(stream.is_whole() for stream in streams)
            wait_for(lambda: all(map(gone, workers)), what="the end of the old workers")
            wait_for(lambda: call(second, key).status == 200, what="room for a call")
            assert_rest(second, requests=3)
        with serving(tmp_path, tables) as third:
            assert_rest(third, requests=3)


def test_what_they_held_is_charged_where_they_are_killed_too(
    tmp_path: Path, upstream: ModelServer
) -> None:
    tables = settings(upstream)
    with outlived(tmp_path, tables) as (key, streams, workers):
        with serving(tmp_path, tables) as second:
            assert claimed(second)[0] == 2

            for pid in workers:
                os.kill(pid, signal.SIGKILL)

            wait_for(lambda: claimed(second) == (0, 0), what="the end of their claims")
            assert not any(stream.is_whole() for stream in streams)
            wait_for(lambda: call(second, key).status == 200, what="room for a call")
            assert_rest(second, requests=3)
        with serving(tmp_path, tables) as third:
            assert_rest(third, requests=3)


def test_a_second_signal_while_calls_are_in_flight_loses_nothing(
    tmp_path: Path, upstream: ModelServer
) -> None:
    """SIGTERM twice stops at once: what was in flight is charged at what it held."""
    tables = settings(upstream)
    with serving(tmp_path, tables, workers=2) as first:
        key = str(create_key(first.config)["key"])
        for _ in range(20):
            assert call(first, key).status == 200
        streams = [Stream(first, key), Stream(first, key)]
        for _ in range(2):
            first.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not listening(first), what="closing the listeners")
        assert first.process.wait(30) == 0
        first.stopped = True
        assert not any(stream.is_whole() for stream in streams)
    with serving(tmp_path, tables) as second:
        assert_rest(second, requests=22)
