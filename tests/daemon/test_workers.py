"""Workers as the supervisor sees them: real processes, a real treasury, and the test between."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmrouter.access.issued import IssuedKey
from llmrouter.contracts.call import Operation
from llmrouter.daemon import workers as module
from llmrouter.daemon.channel import Conditions, Start, ToSupervisor
from llmrouter.daemon.health import Plan
from llmrouter.daemon.healthdesk import HealthDesk
from llmrouter.daemon.treasury import Treasury
from llmrouter.daemon.workers import Worker, Workers, WorkerTerms
from llmrouter.gateway.explanation import Caller, Question
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.messages import Reopened
from llmrouter.quota.rulebook import Rulebook
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.report import Report
from llmrouter.stores.memory import MemoryStore
from llmrouter.tasks import spawn
from tests.daemon.spending import NOW_MS
from tests.daemon.test_worker import issued, start
from tests.support.leaks import Failures
from tests.support.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made


class Crew:
    """Two workers and who counts for them."""

    def __init__(self, directory: Path, listener: socket.socket, failures: Failures) -> None:
        self.boots: list[tuple[int, str]] = []
        self.failures = failures
        self.keys: list[IssuedKey] = []
        self._directory = directory
        self._listener = listener
        loop = asyncio.get_running_loop()
        terms = WorkerTerms(self._start_message, lambda: [listener.fileno()], os.environ, loop.time)
        self.workers = Workers(2, terms)
        self.health = self.workers.health = HealthDesk(
            Plan({"m": ("up/m",)}, ("up",)),
            {"up": BreakerTerms()},
            self.workers,
            loop,
            lambda: NOW_MS / 1_000,
        )
        self.treasury = self.workers.treasury = Treasury(
            MemoryStore(),
            directory,
            Rulebook({}),
            now_ms=lambda: NOW_MS,
            send=self.workers.send,
            terms=DeskTerms(hold_wait_ms=0, waiting_max=1),
        )

    def _start_message(self, number: int, boot: str) -> Start:
        self.boots.append((number, boot))
        return start(self._directory, self._listener, self.keys, number, boot)

    def pids(self) -> list[int]:
        processes = [child.process for child in self.workers.children]
        return [process.pid for process in processes if process is not None]

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.workers.ready()


@asynccontextmanager
async def crew(directory: Path, listener: socket.socket, failures: Failures) -> AsyncIterator[Crew]:
    made = Crew(directory, listener, failures)
    keepers = [spawn(child.keep(), name="keep") for child in made.workers.children]
    try:
        yield made
    finally:
        for child in made.workers.children:
            child.stopping = True
            child.signal(signal.SIGKILL)
        await asyncio.wait(keepers, timeout=PATIENCE_S)
        await made.workers.heard()
        made.treasury.close()


async def test_each_life_of_a_worker_has_a_name_of_its_own(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()
        os.kill(made.pids()[0], signal.SIGKILL)
        await until(lambda: len(made.boots) == 3, "it was not replaced")
        await made.ready()

        assert sorted(number for number, _ in made.boots) == [0, 0, 1]
        assert len({boot for _, boot in made.boots}) == 3
        assert "live=2" in repr(made.treasury)
    assert "live=0" in repr(made.treasury)
    assert len(no_leaks.seen) == 1  # that one died
    no_leaks.seen.clear()


async def test_keys_are_in_force_on_all_when_that_is_said(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    key, _ = issued()
    async with crew(tmp_path, listener, no_leaks) as made:
        assert await made.workers.publish([key], 1), "nobody is there who would not know it"
        await made.ready()

        assert await made.workers.publish([key], 2)


async def test_a_worker_that_hangs_is_not_waited_for_and_one_that_dies_needs_not_be(
    tmp_path: Path,
    listener: socket.socket,
    no_leaks: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, _ = issued()
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()
        hanging = made.pids()[1]
        os.kill(hanging, signal.SIGSTOP)
        monkeypatch.setattr(module, "PUBLISH_TIMEOUT_S", 0.05)
        assert not await made.workers.publish([key], 1)
        assert no_leaks.seen == [f"keys={key.id}: a worker has not confirmed them yet"]

        monkeypatch.setattr(module, "PUBLISH_TIMEOUT_S", PATIENCE_S)
        publishing = spawn(made.workers.publish([key], 2), name="publish")
        await asyncio.sleep(0)
        os.kill(hanging, signal.SIGKILL)

        assert await publishing, "its successor starts with the keys as they are"
    no_leaks.seen.clear()


async def test_a_call_is_explained_by_another_where_one_hangs_and_by_nobody_where_all_do(
    tmp_path: Path,
    listener: socket.socket,
    no_leaks: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caller = Caller(
        id="k", name=None, org="a", team=None, user=None, status="active", expires_at=None
    )
    question = Question(
        caller=caller, operation=Operation.CHAT, body=b"{}", is_sample=False, standings=(), at_ms=0
    )
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()
        first, second = made.pids()
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(module, "EXPLAIN_TIMEOUT_S", PATIENCE_S)
        monkeypatch.setattr(module, "EXPLAIN_EACH_S", 0.05)
        said = await made.workers.explain(question)
        assert said is not None
        assert said.caller == caller

        os.kill(second, signal.SIGSTOP)
        monkeypatch.setattr(module, "EXPLAIN_TIMEOUT_S", 0.2)
        assert await made.workers.explain(question) is None
    no_leaks.seen.clear()


async def test_told_to_drain_all_of_them_end(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()
        for child in made.workers.children:
            child.stopping = True

        made.workers.drain()

        async with asyncio.timeout(PATIENCE_S):
            await made.workers.drained()
            await made.workers.heard()
        assert "live=0" in repr(made.treasury)


async def test_what_is_said_to_a_life_that_is_over_reaches_nobody(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()

        made.workers.send("another", Reopened(("org/acme/requests/day",)))
        made.workers.send(made.boots[0][1], Reopened(("org/acme/requests/day",)))

        assert await made.workers.publish([], 1), "it was borne by who heard it"


async def test_what_a_worker_says_of_deployments_goes_to_the_health_desk_and_all_others(
    tmp_path: Path,
    listener: socket.socket,
    no_leaks: Failures,
) -> None:
    async with crew(tmp_path, listener, no_leaks) as made:
        await made.ready()
        assert (made.workers.serving, len(made.workers.boots())) == (2, 2)
        now_s = asyncio.get_running_loop().time()
        report = Report(
            deployment="up/m", state=State.OPEN, rest_s=9.0, reason="it failed", changed_s=now_s
        )

        made.workers._each[0]._hear(Conditions([report]), made.boots[0][1], 0)
        made.health.probed("up", "it answered 500")

        assert made.health.standing()[0][0].deployment == "up/m"
        assert await made.workers.publish([], 1), "it was borne by who heard it"
    no_leaks.seen.clear()  # both are warned of


async def test_a_worker_that_says_what_cannot_be_borne_is_ended_and_replaced(
    tmp_path: Path,
    listener: socket.socket,
    no_leaks: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bug of ours: what it claims must not be claimed for ever."""
    hear = Worker._hear

    def hear_badly(self: Worker, message: ToSupervisor, boot: str, pid: int) -> None:
        assert boot not in [first for _, first in made.boots[:2]], "a bug"
        hear(self, message, boot, pid)

    monkeypatch.setattr(Worker, "_hear", hear_badly)
    async with crew(tmp_path, listener, no_leaks) as made:
        await until(lambda: len(made.boots) == 4, "they were not replaced")
        await made.ready()

        assert "live=2" in repr(made.treasury)
        assert not made.workers.failing.is_set()
    assert any("failed" in said for said in no_leaks.seen)
    no_leaks.seen.clear()


async def test_workers_that_die_before_they_serve_are_told_of(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    in_the_way = tmp_path / "journal"
    in_the_way.write_text("precious")
    tmp_path.joinpath("own").mkdir()
    async with crew(tmp_path / "own", listener, no_leaks) as made:
        made._directory = in_the_way

        async with asyncio.timeout(PATIENCE_S):
            await made.workers.failing.wait()
    no_leaks.seen.clear()


async def test_repr_shows_the_state(
    tmp_path: Path, listener: socket.socket, no_leaks: Failures
) -> None:
    made = Crew(tmp_path, listener, no_leaks)

    assert repr(made.workers) == (
        "<Workers [<Worker 0 boot= ready=False>, <Worker 1 boot= ready=False>]>"
    )
    assert len(made.workers) == 2
    with contextlib.closing(made.treasury):
        made.workers.drain()  # nobody is there
