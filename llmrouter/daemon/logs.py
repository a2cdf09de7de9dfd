"""Log lines: `key=value` pairs on standard error, one a change of state and one an exchange.

All lines are written by a thread of their own, so that a terminal or a pipe that nobody reads can
never stop the loop; what it does not take in time is dropped, and the number of lines is logged
when it takes more. Nothing here ever sees a key, a body or a header.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from llmrouter.daemon.logline import LineStart

PENDING_BYTES_MAX = 4 * 1024 * 1024
"""Lines that wait for a slow reader of our log: about 20,000."""
CLOSE_S = 1.0
"""What a slow reader gets to take the rest when we end."""

Wall = Callable[[], float]
_wall = time.time  # noqa: TID251 - a log line tells the time of the day


class Writer:
    """Writes lines to a file descriptor; `put` never waits."""

    def __init__(self, process: str, wall: Wall = _wall, *, fd: int = 2) -> None:
        self.line_start = LineStart(process, wall)
        """What every line begins with."""
        self._fd = fd
        self._changed = threading.Condition()
        # guarded by it:
        self._pending: list[bytes] = []
        self._pending_bytes = 0  # with what is being written
        self._lost = 0
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def put(self, lines: bytes) -> None:
        """Have whole lines written, as soon as those before them are."""
        with self._changed:
            if self._pending_bytes + len(lines) > PENDING_BYTES_MAX:
                self._lost += lines.count(b"\n")
                return
            if self._lost:
                lines = self._loss() + lines
                self._lost = 0
            self._pending.append(lines)
            self._pending_bytes += len(lines)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left, as far as it is taken soon."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=CLOSE_S)

    def _loss(self) -> bytes:
        return f"{self.line_start('warning')} log_lines_lost={self._lost}\n".encode()

    def _write_all(self) -> None:
        while data := self._next():
            self._write(data)
            with self._changed:
                self._pending_bytes -= len(data)

    def _next(self) -> bytes:
        """Everything that is pending, once there is something; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            pending, self._pending = self._pending, []
        return b"".join(pending)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                select.select([], [self._fd], [], CLOSE_S)  # it is ours alone to wait
            except OSError:
                return  # nobody reads our log any more; the daemon serves on


class _Handler(logging.Handler):
    """Hands records to the writer; a traceback follows on the lines below."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        start = self._writer.line_start(record.levelname.lower())
        self._writer.put(f"{start} {self.format(record)}\n".encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        self._writer.close()
        super().close()


def configure(process: str, *, fd: int = 2) -> Writer:
    """Send this process's log lines to standard error, under the name `process`."""
    writer = Writer(process, fd=fd)
    logging.basicConfig(level=logging.INFO, handlers=[_Handler(writer)], force=True)
    return writer
