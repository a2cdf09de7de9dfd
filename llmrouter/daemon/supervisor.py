"""The supervisor: owns what there is one of, and keeps the processes that serve.

It opens the state for itself alone, binds the listeners, starts the workers on them, replaces those
that die, and answers the command line on the control socket. It never touches a request.

A worker has everything from its `Start` message, which holds the configuration as it was read here,
so that a worker replaced after router.toml was edited serves what its siblings serve.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from llmrouter.access.issued import IssuedKey, KeyStatus
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.addresses import DEMO_URL, listen_addresses
from llmrouter.config.credentials import credentials
from llmrouter.config.load import workers as worker_count
from llmrouter.config.schema import Config, Settings
from llmrouter.contracts.store import StoreError
from llmrouter.daemon import children, keydesk, listeners, notify, unix
from llmrouter.daemon.channel import Applied, Channel, Drain, Keys, Ready, Start
from llmrouter.daemon.children import Child
from llmrouter.daemon.control import ControlServer
from llmrouter.daemon.state import State
from llmrouter.tasks import spawn

_log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
"""For the first workers to serve; a slow disk or a huge table of keys may need seconds."""
PUBLISH_TIMEOUT_S = 1.0
"""For every worker to have a changed key in force before the change is answered."""
STOP_GRACE_S = 2.0
"""What a worker gets beyond its own drain time before it is killed."""
FAILED_STARTS_MAX = 3
"""So many workers may die before they serve; then the daemon says so instead of trying for ever."""
_DEMO_SOCKET = "demo.sock"


class StartError(Exception):
    """The daemon cannot start; the message says why."""


class Supervisor:
    """One node."""

    def __init__(self, config: Config, state: State) -> None:
        self._config = config
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._secrets = {
            name: secret.reveal() for name, secret in credentials(config, os.environ).items()
        }
        hidden = [
            upstream.credential.env
            for upstream in config.upstreams.values()
            if upstream.credential is not None and upstream.credential.env is not None
        ]
        self._environ = children.environment([*hidden, notify.VARIABLE])
        self._book = KeyBook(state.store, KeyDigest(state.digest_key))
        self._started_at_s = int(_wall())
        self._listeners: list[socket.socket] = []
        self._demo_listener: socket.socket | None = None
        self._workers = [_Worker(self, number) for number in range(worker_count(config.server))]
        self._children: list[Child] = [worker.child for worker in self._workers]
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._failing = asyncio.Event()
        self._failed_starts = 0
        self._serial = 0

    @property
    def addresses(self) -> list[str]:
        """Where we listen, as people write it."""
        return [listeners.shown(listener) for listener in self._listeners]

    async def run(self, on_ready: Callable[["Supervisor"], None]) -> None:
        """Serve until a signal says to stop; raises StartError, ListenError."""
        if (tls := self._config.server.tls) is not None:
            listeners.tls_context(tls.cert, tls.key)  # that a worker could not serve with it
        _set_limits()
        self._check_keys()
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_listeners)
            self._listeners = listeners.bind(listen_addresses(self._config.server))
            desk = keydesk.KeyDesk(self._book, _wall)
            control = ControlServer(
                self._state.control_path, keydesk.operations(desk, self._publish)
            )
            with _sockets_refused():
                await control.open()
                self._open_demo()
            stack.callback(control.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._on_stop_signal)
            self._loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)
            keepers = self._start_children()
            try:
                if await self._until_serving():
                    _notify(notify.READY)
                    on_ready(self)
                    await self._stopping.wait()
            finally:
                await self._stop_children(keepers)

    def _check_keys(self) -> None:
        """Refuse to start on keys that cannot be read; warn of those that no table limits."""
        try:
            keys = self._book.keys()
        except StoreError as error:
            raise StartError(str(error)) from error
        now_s = _wall()
        orgs = {key.org for key in keys if key.status(now_s) is KeyStatus.ACTIVE}
        for org in sorted(orgs - self._config.orgs.keys()):
            _log.warning(
                "org=%r has keys but no table in %s: no rule of an org applies to them",
                org,
                self._config.file,
            )

    # ---- children ---------------------------------------------------------------------------

    def _open_demo(self) -> None:
        if any(upstream.url == DEMO_URL for upstream in self._config.upstreams.values()):
            self._demo_listener = unix.listen(
                self._demo_path, mode=0o600, backlog=listeners.BACKLOG
            )
            self._children.append(Child("demo", self._start_demo, self._loop.time))

    @property
    def _demo_path(self) -> Path:
        return self._state.path / _DEMO_SOCKET

    def _start_children(self) -> list[asyncio.Task[None]]:
        return [spawn(child.keep(), name=f"keep {child.name}") for child in self._children]

    async def _start_demo(self) -> asyncio.subprocess.Process:
        assert self._demo_listener is not None
        fd = self._demo_listener.fileno()
        return await children.spawn_child(
            "llmrouter.daemon.demo",
            [str(fd)],
            fds=[fd],
            stdin=subprocess.PIPE,  # its end tells the demo that we are gone
            environ=self._environ,
        )

    async def _until_serving(self) -> bool:
        """Wait for every worker to serve; False if we are told to stop before."""
        waits = [self._all_ready(), self._stopping.wait(), self._failing.wait()]
        tasks = [spawn(wait, name="until serving") for wait in waits]
        done, waiting = await asyncio.wait(
            tasks, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in waiting:
            task.cancel()
        if self._stopping.is_set():
            return False
        if tasks[0] not in done:
            raise StartError("the workers do not start; the log lines above say why")
        return True

    async def _all_ready(self) -> bool:
        for worker in self._workers:
            await worker.ready.wait()
        return True

    def start_failed(self) -> None:
        """A worker has died before it served."""
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS_MAX:
            self._failing.set()

    async def _stop_children(self, keepers: Iterable[asyncio.Task[None]]) -> None:
        """Have workers drain, wait as long as they may take, then kill what is left."""
        _notify(notify.STOPPING)
        for child in self._children:
            child.stopping = True
        self._close_listeners()
        for worker in self._workers:
            worker.drain()
        grace_s = self._config.server.timeouts.drain + STOP_GRACE_S
        drained = spawn(self._drained(), name="drained")
        killing = spawn(self._killing.wait(), name="killing")
        await asyncio.wait([drained, killing], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, killing):
            task.cancel()
        for child in self._children:
            child.signal(signal.SIGKILL)
        for keeper in keepers:
            keeper.cancel()
        for child in self._children:
            if child.process is not None:
                await child.process.wait()

    async def _drained(self) -> None:
        for worker in self._workers:
            if worker.child.process is not None:
                await worker.child.process.wait()

    # ---- what workers and operators ask for ---------------------------------------------------

    def start_message(self, number: int) -> Start:
        """What the worker `number` needs to serve, as things stand now."""
        names = Settings.__struct_fields__
        settings = Settings(**{name: getattr(self._config, name) for name in names})
        demo = self._demo_listener is not None
        return Start(
            worker=number,
            workers=len(self._workers),
            config=msgspec.msgpack.encode(settings),
            secrets=self._secrets,
            digest_key=self._state.digest_key,
            keys=self._book.keys(),
            journal_dir=str(self._state.journal_dir),
            listener_fds=self.listener_fds(),
            demo_path=str(self._demo_path) if demo else None,
            started_at_s=self._started_at_s,
        )

    def listener_fds(self) -> list[int]:
        """The listeners that workers inherit."""
        return [listener.fileno() for listener in self._listeners]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of children."""
        return self._environ

    @property
    def clock(self) -> Callable[[], float]:
        """The loop's clock."""
        return self._loop.time

    async def _publish(self, keys: Iterable[IssuedKey]) -> bool:
        """Put changed keys in force on every worker; one that starts meanwhile reads them.

        False if a worker has not confirmed them in time.
        """
        self._serial += 1
        message = Keys(self._serial, list(keys))
        waiting = [worker.apply(message) for worker in self._workers]
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await asyncio.gather(*waiting)
        except TimeoutError:
            _log.warning("keys=%s: a worker has not confirmed them yet", _ids(message.keys))
            return False
        return True

    def _on_stop_signal(self) -> None:
        if self._stopping.is_set():
            _log.warning("told to stop twice: stopping at once")
            self._killing.set()
        self._stopping.set()

    def _on_reload_signal(self) -> None:
        _log.warning("reload is not supported yet: restart to read %s anew", self._config.file)

    def _close_listeners(self) -> None:
        listeners.close(self._listeners, listen_addresses(self._config.server))
        if self._demo_listener is not None:
            self._demo_listener.close()


class _Worker:
    """The supervisor's side of one worker: its process, its channel, what it has confirmed."""

    def __init__(self, supervisor: Supervisor, number: int) -> None:
        self._supervisor = supervisor
        self._number = number
        self.child = Child(f"worker-{number}", self._start, supervisor.clock)
        self.ready = asyncio.Event()
        self._channel: Channel | None = None
        self._applied: dict[int, asyncio.Future[None]] = {}

    async def _start(self) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await children.spawn_child(
                "llmrouter.daemon.worker",
                [str(theirs.fileno())],
                fds=[theirs.fileno(), *self._supervisor.listener_fds()],
                stdin=subprocess.DEVNULL,
                environ=self._supervisor.environ,
            )
        channel = await Channel.over(ours)
        try:
            start = self._supervisor.start_message(self._number)
        except BaseException:
            channel.close()  # the child has nothing to serve with, and ends
            raise
        self._channel = channel  # no await since the keys were read: none is missed
        channel.send(start)
        spawn(self._listen(channel), name=f"listen to {self.child.name}")
        return process

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.to_supervisor()) is not None:
            match message:
                case Ready():
                    self.ready.set()
                    pid = self.child.process.pid if self.child.process is not None else 0
                    _log.info("child=%s pid=%d serving", self.child.name, pid)
                case Applied(serial=serial):
                    self._confirm(self._applied.pop(serial, None))
        channel.close()
        if not self.ready.is_set():
            self._supervisor.start_failed()
        if self._channel is channel:
            self._channel = None
            self.ready.clear()
            for waiting in self._applied.values():
                self._confirm(waiting)  # its successor starts with the keys as they are
            self._applied.clear()

    def _confirm(self, waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def apply(self, message: Keys) -> None:
        """Have changed keys in force when this returns."""
        if self._channel is None or self.child.stopping:
            return
        applied = asyncio.get_running_loop().create_future()
        self._applied[message.serial] = applied
        self._channel.send(message)
        await applied

    def drain(self) -> None:
        """Tell it to finish and exit."""
        if self._channel is not None:
            self._channel.send(Drain())
        elif self.child.process is not None:
            self.child.signal(signal.SIGTERM)


def _set_limits() -> None:
    """Have as many descriptors as we may (a call takes two) and no core files, children too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A core file would hold every credential, the digest key and callers' prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _notify(state: str) -> None:
    try:
        notify.notify(state)
    except OSError as error:
        _log.warning("the service manager cannot be told %s: %s", state, error.strerror)


def _ids(keys: Iterable[IssuedKey]) -> str:
    return ",".join(key.id for key in keys)


@contextlib.contextmanager
def _sockets_refused() -> Iterator[None]:
    """Say what is wrong where a socket below `state` cannot be made."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartError(
            f"the daemon cannot listen on {error.filename or 'its sockets'}: {reason};"
            " remove what is there, if it is not needed"
        ) from error


_wall = time.time  # noqa: TID251 - keys and records are dated by the calendar
