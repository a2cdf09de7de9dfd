"""Log lines: `key=value` pairs on standard error, one a change of state and one an exchange.

Exchange lines are gathered and written a few times a second by a thread of their own, so that a
terminal or a pipe that nobody reads can never stop the loop; what it does not take in time is
dropped, and the number of lost lines is logged. Nothing here ever sees a key, a body or a header.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from llmrouter.errors import Source
from llmrouter.gateway.exchange import Exchange

FLUSH_EVERY_S = 0.1
PENDING_MAX = 64
"""Writes that wait for a slow reader of our log: about 6 s of them."""
_LEVELS = {Source.CLIENT: "info", Source.UPSTREAM: "warning", Source.ROUTER: "error"}


class _Formatter(logging.Formatter):
    """`time=… level=… process=… message`, with a traceback on the lines below."""

    def __init__(self, process: str) -> None:
        super().__init__(f"time=%(asctime)s level=%(levelname)s process={process} %(message)s")

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def configure(process: str) -> None:
    """Send this process's log lines to standard error, under the name `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class ExchangeLog:
    """Writes a line an exchange."""

    def __init__(
        self,
        process: str,
        *,
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        wall: Callable[[], float],
        fd: int = 2,
    ) -> None:
        self._process = process
        self._call_later = call_later
        self._clock = clock
        self._wall = wall
        self._fd = fd
        self._lines: list[str] = []
        self._lost = 0
        self._writes: queue.Queue[bytes | None] = queue.Queue(PENDING_MAX)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def __call__(self, exchange: Exchange) -> None:
        """Note that `exchange` is over."""
        if not self._lines:
            self._call_later(FLUSH_EVERY_S, self.flush)
        self._lines.append(self._line(exchange))

    def flush(self) -> None:
        """Hand what was gathered to the thread."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            self._writes.put_nowait("".join(lines).encode())
        except queue.Full:
            self._lost += len(lines)
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            logging.getLogger(__name__).warning("log_lines_lost=%d", lost)

    def close(self) -> None:
        """Write what is left, as far as it is taken within a second."""
        self.flush()
        try:
            self._writes.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _line(self, exchange: Exchange) -> str:
        error, principal, request = exchange.error, exchange.principal, exchange.request
        level = "info" if error is None else _LEVELS[error.source]
        who = f" org={principal.org} key={principal.key_id}" if principal is not None else ""
        call = f" model={exchange.model} deployment={exchange.deployment}" if exchange.model else ""
        code = f" code={error.code}" if error is not None else ""
        now = self._wall()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return (
            f"time={stamp}.{int(now * 1000) % 1000:03d}Z level={level} process={self._process}"
            f" request={exchange.request_id}{who} method={request.method.decode()}"
            f" path={request.path[:100].decode('ascii', 'replace')}{call} status={exchange.status}"
            f"{code} ms={(self._clock() - exchange.arrived_at) * 1000:.1f}\n"
        )

    def _write_all(self) -> None:
        while (data := self._writes.get()) is not None:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except OSError:
                    break  # nobody reads our log any more; the daemon serves on
