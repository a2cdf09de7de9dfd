"""The demo as the supervisor starts it: a process with an inherited socket."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.demo.running import chat, decoded
from tests.support.waiting import PATIENCE_S

COMMAND = (sys.executable, "-P", "-m", "llmrouter.daemon.demo")
ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def process(
    listener: socket.socket, stdin: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """The demo on `listener`; killed at the end if it still runs."""
    fd = listener.fileno()
    with subprocess.Popen(
        [*COMMAND, str(fd)],
        pass_fds=[fd],
        stdin=stdin,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture(params=["unix", "tcp"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    family = socket.AF_UNIX if request.param == "unix" else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind(str(tmp_path / "s") if request.param == "unix" else ("127.0.0.1", 0))
        sock.listen()
        yield sock


def ask(listener: socket.socket) -> int:
    """One call; it waits in the listener's queue until the process has started."""
    with socket.socket(listener.family) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(listener.getsockname())
        sock.sendall(chat())
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert decoded(response.read())["object"] == "chat.completion"
        return response.status


def ended(child: subprocess.Popen[bytes]) -> tuple[int, str]:
    assert child.stderr is not None
    status = child.wait(PATIENCE_S)
    return status, child.stderr.read().decode()


def test_it_serves_an_inherited_socket_until_its_input_ends(listener: socket.socket) -> None:
    with process(listener) as child:
        assert ask(listener) == 200
        assert child.stdin is not None
        child.stdin.write(b"what comes here means nothing\n")
        child.stdin.flush()
        assert ask(listener) == 200

        child.stdin.close()

        assert ended(child) == (0, "")


def test_it_ends_at_sigterm_and_not_at_sigint(listener: socket.socket) -> None:
    with process(listener) as child:
        assert ask(listener) == 200
        child.send_signal(signal.SIGINT)
        assert ask(listener) == 200

        child.send_signal(signal.SIGTERM)

        assert ended(child) == (0, "")


def test_it_does_not_wait_for_answers_that_are_being_given(listener: socket.socket) -> None:
    with process(listener) as child, socket.socket(listener.family) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(listener.getsockname())
        sock.sendall(chat("demo-stall=0", stream=True))
        assert sock.recv(15) == b"HTTP/1.1 200 OK"

        assert child.stdin is not None
        child.stdin.close()

        assert ended(child) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [([], "usage: "), (["x"], "usage: "), (["3", "4"], "usage: "), (["999"], "Bad file descr")],
)
def test_it_says_what_it_needs(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 2
    assert complaint in done.stderr.decode()


def test_an_input_whose_end_cannot_be_seen_is_refused(listener: socket.socket) -> None:
    with process(listener, stdin=subprocess.DEVNULL) as child:
        status, complaint = ended(child)

    assert (status, complaint) == (
        2,
        "llmrouter demo: standard input cannot be watched; give it a pipe\n",
    )
