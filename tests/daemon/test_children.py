"""Children of the supervisor: what they inherit, how they end, and how they are replaced."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmrouter.contracts.store import StoreError
from llmrouter.daemon.children import Child, Respawn, ending, environment
from llmrouter.tasks import spawn
from tests.support.leaks import Failures
from tests.support.waiting import until

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.mark.parametrize(
    ("lives", "waits"),
    [
        pytest.param([3_600.0], [0.0], id="replaced at once"),
        pytest.param([5.0, 5.0, 5.0], [0.0, 0.0, 0.0], id="a long life each time"),
        pytest.param(
            [0.1] * 10,
            [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0],
            id="ever later, to a bound",
        ),
        pytest.param([0.1, 4.9, 0.1], [0.0, 0.1, 0.2], id="not long enough"),
        pytest.param([0.1, 0.1, 0.1, 60.0, 0.1], [0.0, 0.1, 0.2, 0.0, 0.1], id="a new start"),
    ],
)
def test_a_child_that_dies_young_again_and_again_is_replaced_ever_later(
    lives: list[float], waits: list[float]
) -> None:
    respawn = Respawn()

    assert [respawn.wait_s(lived_s) for lived_s in lives] == pytest.approx(waits)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (1, "exit status 1"), (-9, "signal SIGKILL"), (-11, "signal SIGSEGV")],
)
def test_an_ending_is_told_in_words(status: int, words: str) -> None:
    assert ending(status) == words


def test_an_ending_by_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert ending(-40) == "signal 40"


def test_the_environment_of_children_lacks_what_holds_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    monkeypatch.setenv("LANG", "C.UTF-8")

    environ = environment(["OPENAI_API_KEY", "NOT_SET_AT_ALL"])

    assert environ.keys() == os.environ.keys() - {"OPENAI_API_KEY"}
    assert environ["LANG"] == "C.UTF-8"


@pytest.mark.asyncio
async def test_a_child_inherits_the_sockets_it_is_given_and_nothing_else(
    tmp_path: Path,
) -> None:
    """No child gets at the state or at another worker's channel by an open file."""
    (tmp_path / "seen.py").write_text(
        "import os, sys\n"
        "names = {int(name) for name in os.listdir('/proc/self/fd')}\n"
        "print(sorted(n for n in names if os.path.exists(f'/proc/self/fd/{n}')), sys.argv[1:],"
        " sorted(os.environ))\n"
    )
    given, other = socket.socketpair()
    secret = (tmp_path / "secret").open("w")
    os.set_inheritable(secret.fileno(), True)
    number = given.fileno()
    reading, writing = os.pipe()
    with given, other, secret:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SPAWN.format(fd=number),
            env={"PATH": "/nowhere", "PYTHONPATH": str(tmp_path), "LC_ALL": "C.UTF-8"},
            stdout=writing, pass_fds=[number, secret.fileno()],
        )  # fmt: skip
        os.close(writing)
        assert await process.wait() == 0
    with os.fdopen(reading) as pipe:
        descriptors, _, rest = pipe.read().strip().partition("] ")

    assert descriptors == f"[0, 1, 2, {number}"
    assert rest == "['one', 'two'] ['LC_ALL', 'PATH', 'PYTHONPATH']"


_SPAWN = """
import asyncio, os, subprocess
from llmrouter.daemon.children import spawn_child
async def main():
    process = await spawn_child(
        "seen", ["one", "two"], fds=[{fd}], stdin=subprocess.DEVNULL, environ=os.environ
    )
    assert await process.wait() == 0
asyncio.run(main())
"""


async def sleeping() -> asyncio.subprocess.Process:
    """A child that lives until it is killed."""
    return await asyncio.create_subprocess_exec("sleep", "600", stdin=subprocess.DEVNULL)


async def failing() -> asyncio.subprocess.Process:
    """A child that dies at once."""
    return await asyncio.create_subprocess_exec("false", stdin=subprocess.DEVNULL)


@asynccontextmanager
async def kept(start: Start) -> AsyncIterator[Child]:
    """A child in its place, watched; nothing of it is left afterwards."""
    child = Child("worker-0", start, asyncio.get_running_loop().time)
    keeper = spawn(child.keep(), name="keep")
    try:
        yield child
    finally:
        child.stopping = True
        child.signal(signal.SIGKILL)
        keeper.cancel()
        if child.process is not None:
            await child.process.wait()


def lives(child: Child) -> bool:
    return child.process is not None and child.process.returncode is None


@pytest.mark.asyncio
async def test_a_child_that_is_killed_is_replaced_and_it_is_told(no_leaks: Failures) -> None:
    async with kept(sleeping) as child:
        await until(lambda: lives(child), "it never started")
        assert child.process is not None
        first = child.process.pid

        child.signal(signal.SIGKILL)

        await until(lambda: child.process is not None and child.process.pid != first, "no heir")
        assert lives(child)
    assert no_leaks.seen == [f"child=worker-0 pid={first} ended='signal SIGKILL' replaced_in_s=0"]
    no_leaks.seen.clear()


@pytest.mark.asyncio
async def test_a_child_that_dies_at_once_is_replaced_ever_later(no_leaks: Failures) -> None:
    async with kept(failing):
        await until(lambda: len(no_leaks.seen) >= 3, "it was not replaced", lambda: no_leaks.seen)
    waits = [line.rpartition("=")[2] for line in no_leaks.seen[:3]]
    no_leaks.seen.clear()

    assert waits == ["0", "0.1", "0.2"]


@pytest.mark.asyncio
async def test_a_child_that_cannot_even_be_started_is_tried_again(no_leaks: Failures) -> None:
    """The machine may be out of processes, memory or descriptors for a moment."""
    refused = [BlockingIOError(11, "Resource temporarily unavailable"), OSError(24, "Too many")]

    async def start() -> asyncio.subprocess.Process:
        if refused:
            raise refused.pop(0)
        return await sleeping()

    async with kept(start) as child:
        await until(lambda: lives(child), "it was given up")
    assert no_leaks.seen == [
        "child=worker-0 cannot_start='Resource temporarily unavailable' replaced_in_s=0",
        "child=worker-0 cannot_start='Too many' replaced_in_s=0.1",
    ]
    no_leaks.seen.clear()


@pytest.mark.asyncio
async def test_a_child_whose_start_fails_for_any_reason_is_tried_again(no_leaks: Failures) -> None:
    """Whatever it needs, such as the keys, may be there again soon."""
    refused = [StoreError("the store cannot be read"), ValueError("none of ours")]

    async def start() -> asyncio.subprocess.Process:
        if refused:
            raise refused.pop(0)
        return await sleeping()

    async with kept(start) as child:
        await until(lambda: lives(child), "it was given up")
    said = [line.splitlines()[0] for line in no_leaks.seen]
    no_leaks.seen.clear()
    assert said == [
        "child=worker-0 cannot_start",
        "child=worker-0 cannot_start='the store cannot be read' replaced_in_s=0",
        "child=worker-0 cannot_start",
        "child=worker-0 cannot_start='none of ours' replaced_in_s=0.1",
    ]


@pytest.mark.asyncio
async def test_a_child_that_ends_while_we_stop_is_not_replaced() -> None:
    starts: list[int] = []

    async def start() -> asyncio.subprocess.Process:
        process = await sleeping()
        starts.append(process.pid)
        return process

    child = Child("worker-0", start, asyncio.get_running_loop().time)
    keeper = spawn(child.keep(), name="keep")
    await until(lambda: lives(child), "it never started")

    child.stopping = True
    child.signal(signal.SIGTERM)
    await keeper

    assert child.process is not None
    assert starts == [child.process.pid]


@pytest.mark.asyncio
async def test_a_child_that_starts_while_we_stop_is_told_to_end() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def start() -> asyncio.subprocess.Process:
        begun.set()
        await go_on.wait()
        return await sleeping()

    child = Child("worker-0", start, asyncio.get_running_loop().time)
    keeper = spawn(child.keep(), name="keep")
    await begun.wait()
    child.stopping = True
    go_on.set()
    await keeper

    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM


@pytest.mark.asyncio
async def test_a_signal_to_a_child_that_is_not_there_goes_nowhere() -> None:
    child = Child("worker-0", failing, asyncio.get_running_loop().time)
    child.signal(signal.SIGTERM)

    child.process = await failing()
    await child.process.wait()
    child.signal(signal.SIGTERM)

    assert repr(child) == f"<Child worker-0 pid={child.process.pid} stopping=False>"


LIMITS = """
import resource
from llmrouter.daemon.children import set_limits
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
set_limits()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(soft == hard, resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def test_we_may_have_every_descriptor_that_we_are_allowed_and_leave_no_core() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITS], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "True 0\n"
