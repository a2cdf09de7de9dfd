"""A node whose processes are killed while calls of all kinds, by several keys, are under way."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import cast

from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path
from llmrouter.metering.replay import JournaledCall
from llmrouter.tasks import spawn
from tests.support.daemon import Daemon, wait_for, write_config
from tests.support.load import Line, request
from tests.support.streams import NEVER_OPEN, PRICES, Upstream, upstream

WORKERS = 3
LINES = 17
DRAIN_S = 6
EXACT = {"per": "day", "burst": 10**9}
"""With an amount of one: a rate that admits anything, and drains less than a unit in a test."""
LIMITS = [
    {"requests": 1, **EXACT},
    {"tokens": 1, **EXACT},
    {"tokens": 86_400_000, "per": "day", "model": "demo"},  # drains one each millisecond
    {"concurrent": 400},
]
BUDGETS = [{"usd": 1_000_000, "per": "day"}, {"usd": 1_000_000, "per": "total", "model": "demo-*"}]
OWN = "requests=1/day,burst=1000000000"
KEYS: tuple[tuple[str, dict[str, object]], ...] = (
    ("acme", {"limits": [OWN, "concurrent=300"]}),
    ("acme", {"limits": [OWN, "tokens=1/day,burst=1000000000"], "team": "research", "user": "ann"}),
    ("globex", {}),
    ("globex", {"budgets": ["usd=99999/day,model=demo-*", "usd=1000000/month"], "user": "bob"}),
    ("globex", {"limits": [OWN, "concurrent=2,at_limit=queue,wait=60"]}),
)
"""The last one's calls wait for each other, so that kills also hit those that wait."""
MODEL = "demo-tokens=700,gap=2"
FAILING, REPLACED = "demo-error=500", "replaced"
"""What fails at every attempt; and what does so until another model takes over."""
ATTEMPTS_MAX = 3
"""As it is by default."""
LOST = (OSError, asyncio.IncompleteReadError)


def orgs() -> dict[str, object]:
    exact = {"limits": [{"tokens": 1, **EXACT}], "budgets": [{"usd": 1_000_000, "per": "total"}]}
    return {
        "acme": {
            "limits": LIMITS,
            "budgets": BUDGETS,
            "teams": {"research": exact},
            "users": {"*": exact},
        },
        "globex": {"limits": LIMITS, "budgets": BUDGETS},
    }


class Node:
    """A state, and the daemons that live on it one after the other."""

    def __init__(self, directory: Path, far: Upstream) -> None:
        server = {"timeouts": {"drain": DRAIN_S}}
        settings = far.settings(orgs=orgs(), server=server)
        settings["upstreams"]["far"]["breaker"] = NEVER_OPEN
        settings["models"][REPLACED] = {
            "deployments": [{"upstream": "far", "model": FAILING}],
            "fallbacks": ["demo"],
            "price": PRICES["demo-*"],
        }
        self.far = far
        self.config = write_config(directory, settings, workers=WORKERS)
        self.pids: set[int] = set()
        self.daemon = self.start()
        self.keys = [self._key(*options) for options in KEYS]

    def _key(self, org: str, more: dict[str, object]) -> dict[str, str]:
        """Issue a key with limits of its own."""
        terms = {"org": org, "limits": [OWN], "budgets": ["usd=1000000/month"], **more}
        issued = ask(control_path(self.daemon.state), "keys.create", terms)
        return cast("dict[str, str]", issued)

    def start(self) -> Daemon:
        """Live again, on the same state."""
        self.daemon = Daemon(self.config)
        self.note()
        return self.daemon

    def note(self) -> list[int]:
        """Remember the workers: once their supervisor is dead, nobody can tell whose they are."""
        workers = self.daemon.workers()
        self.pids.update(workers)
        return workers

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill any worker; False if none lives at the moment."""
        workers = self.note()
        if workers:
            try:
                os.kill(chance.choice(workers), signal.SIGKILL)
            except ProcessLookupError:  # one that was killed before has been reaped just now
                return False
        return bool(workers)

    def kill_supervisor(self) -> None:
        """Kill it, and only it."""
        self.note()
        self.daemon.process.kill()
        self.daemon.process.wait()

    def kill_everything(self) -> None:
        """Kill it with all of its children."""
        self.note()
        self.daemon.kill()
        self.end_workers()

    def wait_for_workers(self) -> None:
        """Workers without a supervisor drain, then exit."""
        lone = self.pids - set(self.daemon.workers())
        wait_for(lambda: not any(map(lives, lone)), what="the exit of lone workers")

    def end_workers(self) -> None:
        """Kill those that are left."""
        for pid in filter(lives, self.pids):
            os.kill(pid, signal.SIGKILL)
        self.wait_for_workers()


def lives(pid: int) -> bool:
    """Whether it is a worker that has not ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # of a zombie it is empty
    except OSError:
        return False
    return b"llmrouter.daemon.worker" in command


@contextlib.contextmanager
def node(directory: Path) -> Iterator[Node]:
    """A node that can be killed; whatever is left of it in the end is killed, too."""
    with upstream() as far:
        living = Node(directory, far)
        try:
            yield living
            assert "Traceback" not in living.daemon.log
        finally:
            living.kill_everything()


class Load:
    """Callers with all kinds of calls, for as long as the `async with` lasts."""

    def __init__(self, living: Node, *, seed: int) -> None:
        self._node = living
        self._chance = random.Random(seed)
        self._over = asyncio.Event()
        self.whole = 0
        self.lost = 0
        self.statuses: dict[int, int] = {}

    def _calls(self, key: str) -> Iterator[bytes]:
        """An endless mix: the short answers teach what to hold, and the long ones outgrow it."""
        chat: dict[str, object] = {"messages": [{"role": "user", "content": "Hello there"}]}
        streamed = chat | {"stream": True}
        learned = streamed | {"model": MODEL}
        kinds = [
            chat | {"model": "demo"},
            chat | {"model": "demo-slow=0.2"},
            chat | {"model": "demo-cached=3"},
            chat | {"model": FAILING},
            chat | {"model": REPLACED},
            streamed | {"model": "demo-tokens=40,gap=4"},
            streamed | {"model": "demo-no-usage,tokens=60,gap=3"},
            learned | {"max_tokens": 12},
            learned,
        ]
        messages = [request(key, kind) for kind in kinds]
        while True:
            yield from self._chance.sample(messages, len(messages))

    async def __aenter__(self) -> "Load":
        self._callers = [
            spawn(self._call(key["key"]), name=f"caller {number}")
            for number, key in zip(range(LINES), itertools.cycle(self._node.keys), strict=False)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._callers)

    async def _call(self, key: str) -> None:
        calls = self._calls(key)
        while not self._over.is_set():
            try:
                line = await Line.to(self._node.daemon)
            except OSError:  # nobody listens at the moment
                await asyncio.sleep(0.02)
                continue
            try:
                # Connections that came at once may all have come to one worker: spread them anew.
                for message in itertools.islice(calls, self._chance.randint(1, 5)):
                    status, _ = await line.call(message)
                    self.whole += status == 200
                    self.statuses[status] = self.statuses.get(status, 0) + 1
                    if self._over.is_set():
                        break
            except LOST:
                self.lost += 1
            finally:
                await line.close()


@contextlib.asynccontextmanager
async def loaded(living: Node, *, seed: int) -> AsyncIterator[Load]:
    """Load, and what must be true of what it saw."""
    async with Load(living, seed=seed) as load:
        yield load
    # 503 is what a draining worker says; whoever is refused for a limit was so by mistake.
    assert load.statuses.keys() <= {200, 500, 503}, load.statuses
    assert load.whole


def seen_most(calls: Iterable[JournaledCall]) -> int:
    """How many attempts an upstream can have seen of these: what was interrupted does not say."""
    return sum(map(_seen_most, calls))


def _seen_most(call: JournaledCall) -> int:
    if call.end is not None:
        return 1 + len(call.end.others)
    return ATTEMPTS_MAX if call.begin.model in {FAILING, REPLACED} else 1
