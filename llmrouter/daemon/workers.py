"""The workers as the supervisor sees them: processes, channels, and what each has confirmed.

Each place is taken by one worker after the other; a life of one is a *boot*. What a worker says of
limits goes to the treasury under the name of its boot, and so do its silence and its death; what it
says of deployments goes to the health desk.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import assert_never

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.daemon import children
from llmrouter.daemon.channel import (
    Applied,
    Channel,
    Conditions,
    Denied,
    Drain,
    Explain,
    Explained,
    Keys,
    Probed,
    Ready,
    Start,
    ToSupervisor,
)
from llmrouter.daemon.children import Child
from llmrouter.daemon.healthdesk import HealthDesk
from llmrouter.daemon.treasury import Treasury
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.quota.messages import Cancel, Force, FromLedger, GiveBack, Recalled, Take
from llmrouter.tasks import spawn

_log = logging.getLogger(__name__)

EXPLAIN_TIMEOUT_S = 8.0
"""For all of them together: less than who asks on the control socket waits."""
EXPLAIN_EACH_S = 3.0
"""One that hangs says nothing; then the next is asked."""
PUBLISH_TIMEOUT_S = 1.0
"""For every worker to have a changed key in force before the change is answered."""
FAILED_STARTS_MAX = 3
"""So many workers may die before they serve; then the daemon says so instead of trying for ever."""


class WorkerTerms(msgspec.Struct, frozen=True):
    """What workers are started with."""

    start: Callable[[int, str], Start]
    """Of a number and a boot: all that it needs to serve, as things stand now."""
    listener_fds: Callable[[], list[int]]
    """What it inherits."""
    environ: Mapping[str, str]
    clock: Callable[[], float]


class Workers:
    """All workers of the node."""

    def __init__(self, count: int, terms: WorkerTerms) -> None:
        self.terms = terms
        self.treasury: Treasury
        self.health: HealthDesk
        """Both are set before the first is started."""
        self.failing = asyncio.Event()
        """Set once workers die before they serve, again and again."""
        self._failed_starts = 0
        self._serial = 0
        self._each = [Worker(self, number) for number in range(count)]

    def __repr__(self) -> str:
        return f"<Workers {self._each}>"

    def __len__(self) -> int:
        return len(self._each)

    @property
    def children(self) -> list[Child]:
        """Their places in the process tree."""
        return [worker.child for worker in self._each]

    @property
    def serving(self) -> int:
        """How many of them serve."""
        return sum(worker.ready.is_set() for worker in self._each)

    def boots(self) -> list[str]:
        """Those that can be told something."""
        return [worker.boot for worker in self._each if worker.hears]

    async def ready(self) -> None:
        """Wait until all of them serve."""
        for worker in self._each:
            await worker.ready.wait()

    def send(self, boot: str, message: FromLedger | Conditions | Probed) -> None:
        """Tell one of them what the ledger or the health desk says, if it lives."""
        for worker in self._each:
            if worker.boot == boot:
                worker.send(message)

    async def publish(self, keys: list[IssuedKey], generation: int) -> bool:
        """Have changed keys in force on all of them; one that starts meanwhile reads them.

        False if a worker has not confirmed them in time.
        """
        self._serial += 1
        message = Keys(self._serial, keys, generation)
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await asyncio.gather(*(worker.apply(message) for worker in self._each))
        except TimeoutError:
            _log.warning("keys=%s: a worker has not confirmed them yet", _ids(keys))
            return False
        return True

    async def explain(self, question: Question) -> Explanation | None:
        """What the first that serves and can answer says of a call; None if none does in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPLAIN_TIMEOUT_S):
                for worker in [each for each in self._each if each.ready.is_set()]:
                    self._serial += 1
                    said = await worker.explain(Explain(self._serial, question))
                    if said is not None:
                        return said
        return None

    def drain(self) -> None:
        """Tell all of them to finish and exit."""
        for worker in self._each:
            worker.drain()

    async def drained(self) -> None:
        """Wait until the processes have ended."""
        for child in self.children:
            if child.process is not None:
                await child.process.wait()

    async def heard(self) -> None:
        """Once the processes have ended: wait until all that they said has arrived."""
        while listening := [task for worker in self._each for task in worker.listening]:
            await asyncio.wait(listening)

    def start_failed(self) -> None:
        """One has died before it served."""
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS_MAX:
            self.failing.set()


class Worker:
    """One of them."""

    def __init__(self, workers: Workers, number: int) -> None:
        # For the life of the node:
        self._workers = workers
        self._number = number
        self.child = Child(f"worker-{number}", self._start, workers.terms.clock)
        self.ready = asyncio.Event()
        self.listening: set[asyncio.Task[None]] = set()
        """To this one, and to those before it that may have said more."""
        # For the life of a process:
        self.boot = ""
        self._channel: Channel | None = None
        self._applied: dict[int, asyncio.Future[None]] = {}
        self._explaining: dict[int, asyncio.Future[Explanation | None]] = {}

    def __repr__(self) -> str:
        return f"<Worker {self._number} boot={self.boot} ready={self.ready.is_set()}>"

    @property
    def hears(self) -> bool:
        """Whether it has been started, and has not gone silent."""
        return self._channel is not None

    async def _start(self) -> asyncio.subprocess.Process:
        terms = self._workers.terms
        ours, theirs = socket.socketpair()
        with theirs:
            process = await children.spawn_child(
                "llmrouter.daemon.worker",
                [str(theirs.fileno())],
                fds=[theirs.fileno(), *terms.listener_fds()],
                stdin=subprocess.DEVNULL,
                environ=terms.environ,
            )
        channel = await Channel.over(ours)
        boot = secrets.token_hex(8)
        try:
            start = terms.start(self._number, boot)
        except BaseException:
            channel.close()  # the child has nothing to serve with, and ends
            raise
        self._channel = channel  # no await since the keys were read: none is missed
        self.boot = boot
        self._workers.treasury.worker_started(boot)
        channel.send(start)
        listening = spawn(self._listen(channel, boot, process), name=f"listen to {self.child.name}")
        self.listening.add(listening)
        listening.add_done_callback(self.listening.discard)
        return process

    async def _listen(
        self, channel: Channel, boot: str, process: asyncio.subprocess.Process
    ) -> None:
        treasury = self._workers.treasury
        try:
            while (message := await channel.to_supervisor()) is not None:
                self._hear(message, boot, process.pid)
        finally:  # also where what it said could not be borne: it is to end then
            channel.close()
            self._silent(channel)
            treasury.worker_silent(boot)
            await process.wait()
            treasury.worker_dead(boot)

    def _hear(self, message: ToSupervisor, boot: str, pid: int) -> None:
        treasury = self._workers.treasury
        match message:
            case Take() | GiveBack() | Force() | Recalled() | Cancel():
                treasury.hear(boot, message)
            case Denied(denials=denials):
                treasury.denied(denials)
            case Conditions(reports=reports):
                self._workers.health.hear(boot, reports)
            case Ready():
                self.ready.set()
                _log.info("child=%s pid=%d serving", self.child.name, pid)
            case Applied(serial=serial):
                _confirm(self._applied.pop(serial, None))
            case Explained(serial=serial, explanation=explanation):
                _answer(self._explaining.pop(serial, None), explanation)
            case _:
                assert_never(message)

    def _silent(self, channel: Channel) -> None:
        if not self.ready.is_set():
            self._workers.start_failed()
        if self._channel is channel:
            self._channel = None
            self.ready.clear()
            for waiting in self._applied.values():
                _confirm(waiting)  # its successor starts with the keys as they are
            self._applied.clear()
            for asked in self._explaining.values():
                _answer(asked, None)
            self._explaining.clear()

    def send(self, message: FromLedger | Conditions | Probed) -> None:
        """Tell it, if it hears."""
        if self._channel is not None:
            self._channel.send(message)

    async def apply(self, message: Keys) -> None:
        """Have changed keys in force when this returns."""
        if self._channel is None or self.child.stopping:
            return
        applied = asyncio.get_running_loop().create_future()
        self._applied[message.serial] = applied
        self._channel.send(message)
        await applied

    async def explain(self, message: Explain) -> Explanation | None:
        """What it says of a call; None if it cannot say, hangs or goes silent."""
        if self._channel is None:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Explanation | None] = loop.create_future()
        self._explaining[message.serial] = answer
        self._channel.send(message)
        try:
            async with asyncio.timeout(EXPLAIN_EACH_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._explaining.pop(message.serial, None)

    def drain(self) -> None:
        """Tell it to finish and exit."""
        if self._channel is not None:
            self._channel.send(Drain())
        elif self.child.process is not None:
            self.child.signal(signal.SIGTERM)


def _confirm(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _answer(
    asked: asyncio.Future[Explanation | None] | None, explanation: Explanation | None
) -> None:
    if asked is not None and not asked.done():
        asked.set_result(explanation)


def _ids(keys: Iterable[IssuedKey]) -> str:
    return ",".join(key.id for key in keys)
