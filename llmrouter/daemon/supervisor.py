"""The supervisor: owns what there is one of, and keeps the processes that serve.

It opens the state for itself alone, binds the listeners, starts the workers on them, replaces those
that die, probes the upstreams, and answers the command line on the control socket and whoever
watches the node on the admin listener. It never touches a call.

A worker has everything from its `Start` message, which holds the configuration as it was read here,
so that a worker replaced after router.toml was edited serves what its siblings serve.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.addresses import DEMO_URL, admin_address, listen_addresses
from llmrouter.config.credentials import credentials
from llmrouter.config.load import workers as worker_count
from llmrouter.config.schema import Config, Settings
from llmrouter.daemon import (
    admin,
    build,
    children,
    listeners,
    notify,
    opening,
    operations,
    routing,
    watching,
)
from llmrouter.daemon.admin import Admin
from llmrouter.daemon.bookkeeper import Bookkeeper
from llmrouter.daemon.channel import Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.control import ControlServer, Operation
from llmrouter.daemon.demochild import DemoChild
from llmrouter.daemon.errors import StartError
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.explaindesk import ExplainDesk
from llmrouter.daemon.healthdesk import HealthDesk
from llmrouter.daemon.keydesk import KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.prober import Prober
from llmrouter.daemon.state import State
from llmrouter.daemon.treasury import Treasury
from llmrouter.daemon.workers import Workers, WorkerTerms
from llmrouter.metering.prices import PriceTable
from llmrouter.quota.rulebook import Rulebook
from llmrouter.tasks import spawn

_log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
"""For the first workers to serve; a slow disk or a huge table of keys may need seconds."""
STOP_GRACE_S = 2.0
"""What a worker gets beyond its own drain time before it is killed."""


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
        self._clock = SteadyClock()
        self._listeners: list[socket.socket] = []
        self._admin_listeners: list[socket.socket] = []
        self._demo: DemoChild | None = None
        terms = WorkerTerms(self._start_message, self._fds, self._environ, self._loop.time)
        self._workers = Workers(worker_count(config.server), terms)
        self._children = self._workers.children
        self._health = self._workers.health = HealthDesk(
            watching.plan(config), routing.breakers(config), self._workers, self._loop, _wall
        )
        self._admin = Admin(self._health.health)
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._rules = 0
        """The generation of the rules: grows whenever those of a key change."""
        self._prices = PriceTable()
        self._rulebook: Rulebook
        self._treasury: Treasury
        self._bookkeeper: Bookkeeper

    @property
    def addresses(self) -> list[str]:
        """Where we listen, as people write it."""
        return [listeners.shown(listener) for listener in self._listeners]

    @property
    def admin_addresses(self) -> list[str]:
        """Where health is answered; several where a name has several addresses."""
        return [listeners.shown(listener) for listener in self._admin_listeners]

    async def run(self, on_ready: Callable[["Supervisor"], None]) -> None:
        """Serve until a signal says to stop; raises StartError, ListenError."""
        if (tls := self._config.server.tls) is not None:
            listeners.tls_context(tls.cert, tls.key)  # that a worker could not serve with it
        children.set_limits()
        keys = opening.read_keys(self._book, self._config)
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_admin)
            stack.callback(self._close_listeners)
            self._bind()
            self._prices = await opening.read_prices(self._config)
            self._bookkeeper = opening.open_books(self._state, self._config, self._clock)
            stack.callback(self._bookkeeper.close)
            self._open_treasury(keys)
            stack.callback(self._treasury.close)
            control = ControlServer(self._state.control_path, self._operations())
            with opening.sockets_refused():
                await control.open()
                self._open_demo()
            stack.callback(control.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._on_stop_signal)
            self._loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)
            async with admin.serving(self._admin, self._admin_listeners):
                await self._serve(on_ready)

    async def _serve(self, on_ready: Callable[["Supervisor"], None]) -> None:
        """Keep children, count what they spend and book it; all end as this does."""
        counting = spawn(self._treasury.run(), name="treasury")
        booking = spawn(self._bookkeeper.run(), name="books")
        probing = spawn(self._prober().run(), name="probes")
        keepers = [spawn(child.keep(), name=f"keep {child.name}") for child in self._children]
        try:
            if await self._until_serving():
                notify.tell(notify.READY)
                on_ready(self)
                await self._until_told(counting)
        finally:
            await self._stop_children(keepers)
            for task in (counting, booking, probing):
                task.cancel()
            await asyncio.wait([counting, booking, probing])

    def _bind(self) -> None:
        """Listen on all that we serve, or raise ListenError."""
        server = self._config.server
        self._listeners = listeners.bind(listen_addresses(server))
        self._admin_listeners = listeners.bind([admin_address(server)], key="server.admin_listen")

    def _prober(self) -> Prober:
        terms = watching.probes(self._config, self._secrets, self._demo_path())
        return Prober(terms, self._health.probed)

    def _open_treasury(self, keys: Iterable[IssuedKey]) -> None:
        """Bring the ledger to where the journals are, before anybody serves."""
        self._rulebook = build.rulebook(self._config, keys, self._rules)
        self._treasury = opening.open_treasury(
            self._state, self._config, self._rulebook, self._clock, self._workers.send
        )
        self._workers.treasury = self._treasury

    def _operations(self) -> dict[str, Operation]:
        return {
            **operations.operations(
                KeyDesk(self._book, _wall),
                EventDesk(self._treasury.events),
                LimitDesk(self._rulebook, self._treasury.standing),
                ExplainDesk(
                    self._book, self._rulebook, self._treasury.standing, self._clock.now_ms
                ),
                publish=self._publish,
                answer=self._workers.explain,
            ),
            "quota.counts": self._count_quotas,
        }

    async def _count_quotas(self, args: dict[str, object]) -> object:
        """What limits and budgets cost the supervisor."""
        return {"asked": self._treasury.asked}

    # ---- children ---------------------------------------------------------------------------

    def _open_demo(self) -> None:
        if any(upstream.url == DEMO_URL for upstream in self._config.upstreams.values()):
            self._demo = DemoChild(self._state.path, self._environ, self._loop.time)
            self._children.append(self._demo.child)

    async def _until_serving(self) -> bool:
        """Wait for every worker to serve; False if we are told to stop before."""
        serving = spawn(self._workers.ready(), name="serving")
        others = (self._stopping.wait(), self._workers.failing.wait())
        await _first(serving, *others, timeout_s=READY_TIMEOUT_S)
        if self._stopping.is_set():
            return False
        if serving.cancelled():
            raise StartError("the workers do not start; the log lines above say why")
        return True

    async def _until_told(self, counting: "asyncio.Task[None]") -> None:
        """Wait for a signal; what counts for the limits ends before only by a bug of ours."""
        stopping = spawn(self._stopping.wait(), name="stopping")
        await asyncio.wait([stopping, counting], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if counting.done():
            counting.result()  # raises: to go on would be to limit nobody rightly

    async def _stop_children(self, keepers: Iterable[asyncio.Task[None]]) -> None:
        """Have workers drain, wait as long as they may take, then kill what is left."""
        notify.tell(notify.STOPPING)
        for child in self._children:
            child.stopping = True
        self._close_listeners()
        self._workers.drain()
        drained = spawn(self._workers.drained(), name="drained")
        grace_s = self._config.server.timeouts.drain + STOP_GRACE_S
        await _first(drained, self._killing.wait(), timeout_s=grace_s)
        for child in self._children:
            child.signal(signal.SIGKILL)
        for keeper in keepers:
            keeper.cancel()
        for child in self._children:
            if child.process is not None:
                await child.process.wait()
        await self._workers.heard()

    # ---- what workers and operators ask for ---------------------------------------------------

    def _start_message(self, number: int, boot: str) -> Start:
        """What the worker `number` needs to serve, as things stand now."""
        conditions, down = self._health.standing()
        names = Settings.__struct_fields__
        settings = Settings(**{name: getattr(self._config, name) for name in names})
        return Start(
            worker=number,
            workers=len(self._workers),
            config=msgspec.msgpack.encode(settings),
            secrets=self._secrets,
            digest_key=self._state.digest_key,
            keys=self._book.keys(),
            journal_dir=str(self._state.journal_dir),
            listener_fds=self._fds(),
            demo_path=self._demo_path(),
            started_at_s=self._started_at_s,
            boot=boot,
            rules=self._rules,
            prices=self._prices,
            clock_offset_ms=self._clock.offset_ms,
            conditions=conditions,
            down=down,
        )

    def _demo_path(self) -> str | None:
        return None if self._demo is None else str(self._demo.path)

    def _fds(self) -> list[int]:
        """The listeners that workers inherit."""
        return [listener.fileno() for listener in self._listeners]

    async def _publish(self, changed: Iterable[IssuedKey]) -> bool:
        """Put changed keys in force here, then on every worker; False if one does not confirm."""
        keys = list(changed)
        self._rules += 1
        self._rulebook.generation = self._rules
        build.apply_rules(self._rulebook, self._config, keys)
        try:
            return await self._workers.publish(keys, self._rules)
        finally:
            self._treasury.rules_changed()

    def _on_stop_signal(self) -> None:
        if self._stopping.is_set():
            _log.warning("told to stop twice: stopping at once")
            self._killing.set()
        self._admin.draining = True
        self._stopping.set()

    def _on_reload_signal(self) -> None:
        _log.warning("reload is not supported yet: restart to read %s anew", self._config.file)

    def _close_listeners(self) -> None:
        listeners.close(self._listeners, listen_addresses(self._config.server))
        if self._demo is not None:
            self._demo.close()

    def _close_admin(self) -> None:
        listeners.close(self._admin_listeners, [admin_address(self._config.server)])


async def _first(
    task: "asyncio.Task[None]", *others: Coroutine[Any, Any, Any], timeout_s: float
) -> None:
    """Wait until `task` or one of `others` has ended, or for `timeout_s`; then all have ended."""
    tasks = [task, *(spawn(other, name="first") for other in others)]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)


_wall = time.time  # noqa: TID251 - keys and records are dated by the calendar
