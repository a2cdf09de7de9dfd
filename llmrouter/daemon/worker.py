"""A worker: one event loop that serves on the supervisor's listeners.

    python -P -m llmrouter.daemon.worker CHANNEL_FD

It learns everything over its channel, serves until it is told to drain, and drains by itself when
the supervisor dies or on SIGTERM: what is in flight is finished, for `server.timeouts.drain` at
most, then it exits. SIGINT and SIGHUP of a terminal are the supervisor's to act on.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from llmrouter.access.keyring import Keyring
from llmrouter.config.schema import Settings
from llmrouter.daemon import build, listeners, logs, routing
from llmrouter.daemon.channel import (
    Applied,
    Channel,
    Conditions,
    Drain,
    Explain,
    Explained,
    Keys,
    Probed,
    Ready,
    Start,
)
from llmrouter.daemon.exchangelog import ExchangeLog
from llmrouter.daemon.purse import Purse
from llmrouter.daemon.sharing import Sharing
from llmrouter.gateway.explain import Explainer
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.gateway.pipeline import Gateway
from llmrouter.http1.server import Server
from llmrouter.metering.journal import Journal, JournalFiles
from llmrouter.metering.records import Header
from llmrouter.quota.messages import Granted, Recall, Refused, Reopened
from llmrouter.tasks import spawn

GC_AFTER = 100_000
"""A collection is due when so many objects more stand than after the last. Calls leave no cycles,
and each in flight has some forty: by Python's own 700 nearly every collection finds nothing, and
stops all streams for it. At so many, two thousand streams may begin at once without one."""
_log = logging.getLogger(__name__)


def main() -> None:
    """Serve until told otherwise."""
    end = socket.socket(fileno=int(sys.argv[1]))
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.exit(uvloop.run(_main(end)))


async def _main(end: socket.socket) -> int:
    draining = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, draining.set)
    channel = await Channel.over(end)
    start = await channel.to_worker()
    if not isinstance(start, Start):
        return 0  # the supervisor died before it had anything to say
    writer = logs.configure(f"worker-{start.worker}")
    settings = msgspec.msgpack.decode(start.config, type=Settings)
    with contextlib.ExitStack() as stack:
        try:
            worker = _Worker(settings, start, channel, writer, stack)
            # Before it listens: keys that were changed meanwhile are in force for the first call.
            obeying = spawn(worker.obey(draining), name="channel")
            # Whoever cannot hear what limits say must not serve on, though that be a bug of ours.
            obeying.add_done_callback(lambda _: draining.set())
            await worker.listen()
        except (OSError, listeners.ListenError) as error:
            _log.error("cannot_start=%r", str(error))
            return 1
        gc.collect()
        gc.freeze()  # what stands now stays; collections look only at what comes after
        gc.set_threshold(GC_AFTER)
        channel.send(Ready())
        await draining.wait()
        await worker.drain()
        worker.purse.tell_denials()
        obeying.cancel()
        channel.close()
    return 0


class _Worker:
    """What one worker consists of."""

    def __init__(
        self,
        settings: Settings,
        start: Start,
        channel: Channel,
        writer: logs.Writer,
        stack: contextlib.ExitStack,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._start = start
        self._channel = channel
        self._keyring: Keyring = build.keyring(start)
        journal = _journal(settings, start, stack)
        self.purse = Purse(settings, start, channel, journal.flush)
        """Its part in limits and budgets."""
        stack.callback(self.purse.close)
        self._sharing = Sharing(routing.breakers(settings), start, channel)
        log = ExchangeLog(writer, call_later=loop.call_later, clock=loop.time)
        stack.callback(log.flush)
        parts = build.Parts(self._keyring, journal, self.purse.quota, self._sharing.conditions)
        self._gateway: Gateway = build.gateway(settings, start, parts, log)
        self._server: Server = build.server(settings, start, self._gateway)
        self._explainer: Explainer = build.explainer(settings, self._gateway, self._keyring)
        self._listeners: list[asyncio.Server] = []

    async def listen(self) -> None:
        """Accept connections on the supervisor's listeners."""
        loop = asyncio.get_running_loop()
        table = self._settings.server.tls
        head_s = self._settings.server.timeouts.head
        tls = None if table is None else listeners.tls_context(table.cert, table.key)
        for fd in self._start.listener_fds:
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            is_unix = listener.family == socket.AF_UNIX
            make = loop.create_unix_server if is_unix else loop.create_server
            serving = await make(
                self._server.protocol,
                sock=listener,
                ssl=None if is_unix else tls,
                ssl_handshake_timeout=None if is_unix or tls is None else head_s,
                backlog=4096,
            )
            self._listeners.append(serving)

    async def obey(self, draining: asyncio.Event) -> None:
        """Do what the supervisor says, until it dies."""
        channel = self._channel
        while True:
            match await channel.to_worker():
                case Keys() as changed:
                    self._keyring.apply(changed.keys)
                    self.purse.apply(changed)
                    channel.send(Applied(changed.serial))
                case Drain():
                    draining.set()
                case Explain(serial=serial, question=question):
                    channel.send(Explained(serial, self._explain(question)))
                case None:
                    if not draining.is_set():
                        _log.warning("the supervisor is gone; draining")
                    self.purse.ledger_gone()
                    draining.set()
                    return
                case Start():
                    raise AssertionError("a worker starts once")
                case Granted() | Refused() | Recall() | Reopened() as said:
                    self.purse.hear(said)
                case Conditions() | Probed() as said:
                    self._sharing.hear(said)

    def _explain(self, question: Question) -> Explanation | None:
        """What would become of a call here; None where that cannot be said, for a fault of ours."""
        try:
            explanation = self._explainer.explain(question)
        except Exception:  # noqa: BLE001 - who serves goes on serving, whatever is asked of it
            _log.exception("a call could not be explained")
            return None
        if self._start.workers > 1:
            place = f"worker {self._start.worker} of {self._start.workers}"
            explanation.notes.append(f"{place} says so: calls, latencies and repeats are its own")
        return explanation

    async def drain(self) -> None:
        """Finish what is in flight, as far as it ends in time."""
        for listener in self._listeners:
            listener.close()
        self._gateway.draining = True
        self._server.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.server.timeouts.drain):
                await self._server.emptied()
        if self._server.connections:
            _log.warning("connections_cut=%d", len(self._server.connections))
        self._server.abort()
        await self._server.emptied()
        await self._gateway.close()


def _journal(settings: Settings, start: Start, stack: contextlib.ExitStack) -> Journal:
    loop = asyncio.get_running_loop()
    header = Header(worker=str(start.worker), boot=start.boot, pid=os.getpid())
    sync: Callable[[int], None] | None = None
    if settings.journal.fsync == "batch":
        syncing = concurrent.futures.ThreadPoolExecutor(1, "fsync")
        stack.callback(syncing.shutdown)

        def sync(fd: int) -> None:
            syncing.submit(_sync, fd)

    files = JournalFiles(Path(start.journal_dir), header, sync=sync)
    journal = Journal(files, call_soon=loop.call_soon, call_later=loop.call_later)
    stack.callback(_close, journal)
    return journal


def _close(journal: Journal) -> None:
    journal.close()
    if journal.ends_lost:
        _log.error("journal_ends_lost=%d reason=%r", journal.ends_lost, str(journal.error))


def _sync(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        _log.warning("journal_sync_failed=%r", error.strerror)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
