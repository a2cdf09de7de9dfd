"""Child processes of the supervisor: started by exec, watched, replaced when they die."""

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping

_log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
STABLE_S = 5.0
"""A child that lived for so long is replaced at once; one that dies sooner, ever later."""


class Respawn:
    """How long to wait before a child is replaced. Pure: time is an argument."""

    def __init__(self) -> None:
        self._wait_s = 0.0

    def wait_s(self, lived_s: float) -> float:
        """Seconds until a child that lived for `lived_s` is replaced: none the first time."""
        if lived_s >= STABLE_S:
            self._wait_s = 0.0
        waited = self._wait_s
        self._wait_s = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, waited * 2))
        return waited


async def spawn_child(
    module: str,
    arguments: Iterable[str],
    *,
    fds: Iterable[int],
    stdin: int,
    environ: Mapping[str, str],
) -> asyncio.subprocess.Process:
    """Start `python -m module`, with `fds` inherited under their numbers, and nothing else."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        module,
        *arguments,
        stdin=stdin,
        pass_fds=tuple(fds),
        env=dict(environ),
        start_new_session=True,  # a terminal's Ctrl-C is for us to act on, at any moment
    )


def environment(hidden: Iterable[str]) -> dict[str, str]:
    """Our environment without the variables that hold credentials: those go by channel."""
    names = set(hidden)
    return {name: value for name, value in os.environ.items() if name not in names}


def set_limits() -> None:
    """Have as many descriptors as we may (a call takes two) and no core files, children too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A core file would hold every credential, the digest key and callers' prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def ending(status: int) -> str:
    """How a child ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"  # a real-time one


class Child:
    """One place in the process tree: whoever stands there is replaced until `stopping`."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[asyncio.subprocess.Process]],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._start = start
        self._clock = clock
        self.process: asyncio.subprocess.Process | None = None
        self.stopping = False

    def __repr__(self) -> str:
        pid = self.process.pid if self.process is not None else None
        return f"<Child {self.name} pid={pid} stopping={self.stopping}>"

    async def keep(self) -> None:
        """Start it, and start it again whenever it dies, until it is stopping."""
        respawn = Respawn()
        while not self.stopping:
            started_at = self._clock()
            ended = await self._run()
            if self._is_stopping():
                return
            wait_s = respawn.wait_s(self._clock() - started_at)
            _log.warning("child=%s %s replaced_in_s=%g", self.name, ended, wait_s)
            await asyncio.sleep(wait_s)

    async def _run(self) -> str:
        """Start it, and wait for its end; returns how that was."""
        try:
            self.process = await self._start()
        except OSError as error:
            # Out of processes, memory or descriptors: that may be over soon.
            return f"cannot_start={error.strerror!r}"
        except Exception as error:  # noqa: BLE001 - whoever stands here must be tried again
            _log.error("child=%s cannot_start", self.name, exc_info=error)
            return f"cannot_start={str(error)!r}"
        if self._is_stopping():
            self.signal(signal.SIGTERM)  # nobody else knows of it yet
        status = await self.process.wait()
        return f"pid={self.process.pid} ended={ending(status)!r}"

    def _is_stopping(self) -> bool:
        return self.stopping

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
