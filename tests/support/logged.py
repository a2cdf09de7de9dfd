"""A log as tests read it: through a pipe that is read when they say so."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.daemon.exchangelog import ExchangeLog
from llmrouter.daemon.logs import Writer
from llmrouter.errors import RouterError
from llmrouter.gateway.exchange import Exchange
from llmrouter.http1.request import Request
from tests.support.idle import idle_exchange

AT_S = 1_700_000_000.5
ARRIVED_S = 100.0
STAMP = "2023-11-14T22:13:20.500Z"
PIPE_BYTES = 65_536
ACME = Principal(org="acme", team=None, user=None, key_id="3fQ9xW2LbT0c", models=ModelPatterns())


class Timers:
    """Timers that the test fires."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def fire(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Pipe:
    """Standard error as somebody may have connected it: read by nobody until it is read."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def read(self) -> str:
        """What has come so far."""
        pieces = []
        try:
            while piece := os.read(self.reading, PIPE_BYTES):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return b"".join(pieces).decode()

    def lines(self, count: int) -> list[str]:
        """Wait for so many lines."""
        text, ends = "", time.monotonic() + 10
        while text.count("\n") < count:
            assert time.monotonic() < ends, text
            text += self.read()
        return text.splitlines()


@contextmanager
def piped() -> Iterator[Pipe]:
    """One that nobody reads yet."""
    found = Pipe()
    yield found
    os.set_blocking(found.reading, True)
    os.close(found.writing)
    os.close(found.reading)


@contextmanager
def logging_to(fd: int, timers: Timers) -> Iterator[ExchangeLog]:
    """A log of exchanges that is written there."""
    writer = Writer("worker-1", lambda: AT_S, fd=fd)
    log = ExchangeLog(writer, call_later=timers.call_later, clock=lambda: ARRIVED_S + 0.0125)
    yield log
    log.flush()
    writer.close()


def exchange(
    *,
    method: bytes = b"POST",
    target: bytes = b"/v1/chat/completions",
    status: int = 200,
    principal: Principal | None = ACME,
    model: str = "",
    deployment: str = "",
    error: RouterError | None = None,
) -> Exchange:
    """One that is over."""
    request = Request(target)
    request.method = method
    made = idle_exchange(request, "req_1a")
    made.arrived_at = ARRIVED_S
    made.status, made.principal, made.error = status, principal, error
    made.model, made.deployment = model, deployment
    return made


def line_of(pipe: Pipe, logged: Exchange) -> str:
    """The one line that is written for it."""
    timers = Timers()
    with logging_to(pipe.writing, timers) as log:
        log(logged)
        timers.fire()
        (line,) = pipe.lines(1)
    return line


def fields(line: str) -> dict[str, str]:
    """A line as a program reads it: words, of which some are quoted."""
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ ]*)(?: |$)', line)
    assert " ".join(f"{name}={value}" for name, value in pairs) == line
    assert len({name for name, _ in pairs}) == len(pairs), f"a field stands twice: {line}"
    return dict(pairs)
