"""Log lines: what they look like, and that none ever makes us wait."""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llmrouter.daemon import logs
from llmrouter.daemon.logs import Writer
from tests.support.logged import (
    PIPE_BYTES,
    Pipe,
    Timers,
    exchange,
    fields,
    logging_to,
)


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
