"""Log lines: what they look like, that nobody can forge one, and that none ever makes us wait."""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.daemon import exchangelog, logs
from llmrouter.daemon.exchangelog import ExchangeLog
from llmrouter.daemon.logs import Writer
from llmrouter.errors import InternalError, InvalidKey, RouterError, UpstreamTimeout
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


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    os.set_blocking(found.reading, True)
    os.close(found.writing)
    os.close(found.reading)


@contextmanager
def logging_to(fd: int, timers: Timers) -> Iterator[ExchangeLog]:
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


def test_a_served_call_is_one_line_of_fields(pipe: Pipe) -> None:
    logged = exchange(model="gpt-4o", deployment="openai/gpt-4o-2024-08-06")

    assert line_of(pipe, logged) == (
        f"time={STAMP} level=info process=worker-1 request=req_1a org=acme key=3fQ9xW2LbT0c"
        " method=POST path=/v1/chat/completions model=gpt-4o"
        " deployment=openai/gpt-4o-2024-08-06 status=200 ms=12.5"
    )


def test_what_was_refused_before_anybody_was_known_has_fewer_fields(pipe: Pipe) -> None:
    logged = exchange(status=401, principal=None, error=InvalidKey("the key is not valid"))

    assert line_of(pipe, logged) == (
        f"time={STAMP} level=info process=worker-1 request=req_1a"
        " method=POST path=/v1/chat/completions status=401 code=invalid_key ms=12.5"
    )


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (None, "info"),
        (InvalidKey("wrong"), "info"),
        (UpstreamTimeout("late"), "warning"),
        (InternalError("a bug"), "error"),
    ],
)
def test_the_level_says_whose_fault_it_was(
    pipe: Pipe, error: RouterError | None, level: str
) -> None:
    found = fields(line_of(pipe, exchange(error=error)))

    assert found["level"] == level
    assert found.get("code") == (error.code if error is not None else None)


def test_the_query_of_a_path_is_not_logged(pipe: Pipe) -> None:
    """Some clients put their key there."""
    line = line_of(pipe, exchange(target=b"/v1/models?key=sk-lr-secret"))

    assert fields(line)["path"] == "/v1/models"
    assert "secret" not in line


HOSTILE = [
    "a b",
    "a\nlevel=error",
    "a\r\ntime=0 level=error",
    'a" status=200 "',
    "a\\",
    'a\\" status=200',
    "a=b",
    "\x1b[2Jcleared",
    "\x00\x07\x7f",
    "a\u2028b\u0085c",
    "a%0alevel=error",
    "status=500 ms=0",
    "ü\udcff",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_a_caller_chooses_forges_a_line_or_a_field(pipe: Pipe, text: str) -> None:
    path = b"/" + text.encode("utf-8", "surrogateescape")
    hostile = exchange(target=path, model=text, deployment=f"up/{text}")

    line = line_of(pipe, hostile)

    found = fields(line)
    assert line.isascii()
    assert line.isprintable()
    assert found["status"] == "200"
    assert found["level"] == "info"
    assert found["ms"] == "12.5"


def test_an_org_named_with_spaces_stays_one_field(pipe: Pipe) -> None:
    spaced = Principal(
        org="Acme level=error", team=None, user=None, key_id="3fQ9xW2LbT0c", models=ModelPatterns()
    )

    assert fields(line_of(pipe, exchange(principal=spaced)))["org"] == '"Acme level=error"'


def test_an_ordinary_percent_encoded_path_is_logged_as_it_came(pipe: Pipe) -> None:
    assert fields(line_of(pipe, exchange(target=b"/v1/models/a%0ab")))["path"] == "/v1/models/a%0ab"


def test_long_values_are_cut(pipe: Pipe) -> None:
    line = line_of(pipe, exchange(target=b"/" + b"x" * 60_000, model="m" * 60_000, deployment="d"))

    assert len(line) < 700


def test_lines_of_one_moment_are_written_at_once(pipe: Pipe) -> None:
    timers = Timers()
    with logging_to(pipe.writing, timers) as log:
        for _ in range(3):
            log(exchange())
        assert len(timers.due) == 1
        assert pipe.read() == ""

        timers.fire()

        assert len(pipe.lines(3)) == 3
        log(exchange())
        assert len(timers.due) == 1


def test_closing_writes_what_is_left(pipe: Pipe) -> None:
    with logging_to(pipe.writing, Timers()) as log:
        log(exchange())

    assert "status=200" in pipe.read()


def test_a_reader_that_is_stuck_never_stops_us_and_is_told_what_it_missed(pipe: Pipe) -> None:
    """Each call below would hang the test if it waited for the pipe."""
    timers = Timers()
    long = exchange(target=b"/" + b"x" * 90)
    rounds, a_round = 100, 500  # twice what is kept, and more
    with logging_to(pipe.writing, timers) as log:
        for _ in range(rounds):
            for _ in range(a_round):
                log(long)
            timers.fire()

        written = pipe.lines(1)  # it reads again: room appears little by little
        while "log_lines_lost" not in "\n".join(written):
            log(long)
            timers.fire()
            written += pipe.lines(1)
    written += pipe.read().splitlines()

    lost = [line for line in written if "log_lines_lost" in line]
    found = fields(lost[0])
    assert found["level"] == "warning"
    assert found["process"] == "worker-1"
    whole = [line for line in written if line.endswith("ms=12.5")]
    assert int(found["log_lines_lost"]) > 0
    assert len(whole) + int(found["log_lines_lost"]) >= rounds * a_round


def test_a_burst_is_written_whole(pipe: Pipe) -> None:
    """As many tracebacks as calls may be in flight, in one turn of the loop."""
    with logged_to(pipe):
        for number in range(2_000):
            logging.getLogger("llmrouter.test").error("number=%d", number)
        lines = pipe.lines(2_000)

    assert [line.rpartition("=")[2] for line in lines] == [str(n) for n in range(2_000)]


def test_a_full_pipe_that_does_not_block_loses_no_line(pipe: Pipe) -> None:
    """Whoever started us may have set it so; its being full is no end of it."""
    os.set_blocking(pipe.writing, False)
    fill(pipe)
    with logged_to(pipe):
        for number in range(2_000):
            logging.getLogger("llmrouter.test").error("number=%d", number)
        lines = pipe.lines(2_000)

    assert [line.rpartition("=")[2] for line in lines] == [str(n) for n in range(2_000)]


def fill(pipe: Pipe) -> None:
    """Leave no room at all."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe.writing, b"-" * PIPE_BYTES)


def test_lines_of_ours_do_not_wait_for_a_stuck_reader_either(pipe: Pipe) -> None:
    """A worker that warns while its log is stuck must still serve and drain."""
    with logged_to(pipe):
        log = logging.getLogger("llmrouter.test")
        for _ in range(3_000):
            log.warning("a line of some length %s", "x" * 100)

        assert "level=warning process=supervisor a line of some length" in pipe.lines(1)[0]


def test_closing_waits_but_a_moment_for_a_stuck_reader(pipe: Pipe) -> None:
    writer = Writer("worker-1", fd=pipe.writing)
    for _ in range(2 * logs.PENDING_BYTES_MAX // PIPE_BYTES):
        writer.put(b"x" * PIPE_BYTES)

    began = time.monotonic()
    writer.close()

    assert time.monotonic() - began < 10 * logs.CLOSE_S
    while writer._thread.is_alive():
        pipe.read()  # it ends before the number of its pipe belongs to another


def test_a_reader_that_is_gone_does_not_stop_us(pipe: Pipe) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    timers = Timers()
    with logging_to(writing, timers) as log:
        for _ in range(5):
            log(exchange())
            timers.fire()
    os.close(writing)


@contextmanager
def logged_to(pipe: Pipe) -> Iterator[None]:
    """Log as a process of ours does, into the pipe."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    writer = logs.configure("supervisor", fd=pipe.writing)
    try:
        yield
    finally:
        while root.handlers:
            root.removeHandler(root.handlers[0])
        root.handlers[:] = handlers
        root.setLevel(level)
        reader = asyncio.new_event_loop()
        reader.add_reader(pipe.reading, pipe.read)
        reader.run_until_complete(reader.run_in_executor(None, writer.close))
        reader.close()


def test_a_line_of_ours_has_the_time_the_level_and_the_process(pipe: Pipe) -> None:
    with logged_to(pipe):
        logging.getLogger("llmrouter.test").warning("child=%s ended=%r", "worker-0", "signal 9")
        (line,) = pipe.lines(1)

    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warning process=supervisor"
        r" child=worker-0 ended='signal 9'",
        line,
    )


def test_a_traceback_stands_below_its_line(pipe: Pipe) -> None:
    with logged_to(pipe):
        try:
            int("a bug")
        except ValueError:
            logging.getLogger("llmrouter.test").exception("exchange %s failed", "req_1")
        lines = pipe.lines(5)

    assert lines[0].endswith("level=error process=supervisor exchange req_1 failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1].startswith("ValueError: ")


def test_what_is_less_than_information_is_not_logged(pipe: Pipe) -> None:
    with logged_to(pipe):
        logging.getLogger("llmrouter.test").debug("a detail")
        logging.getLogger("llmrouter.test").info("a fact")
        (line,) = pipe.lines(1)

    assert line.endswith("a fact")


def test_what_is_remembered_of_a_long_path_is_short(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    what = exchangelog._what

    def noted(method: bytes, path: bytes) -> str:
        asked.append(path)
        return what(method, path)

    monkeypatch.setattr(exchangelog, "_what", noted)
    line_of(pipe, exchange(target=b"/" + b"x" * 60_000))
    (path,) = asked
    assert len(path) <= exchangelog._VALUE_CHARS_MAX + 1
