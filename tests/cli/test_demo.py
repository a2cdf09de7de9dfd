"""`llmrouter demo`, as somebody tries it who has never seen it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from llmrouter.cli import demo
from tests.support.daemon import LLMROUTER, START_TIMEOUT_S

TOGETHER_S = 20.0
"""It takes about one second; a busy machine may need more."""


class Tried:
    """The command, and what it showed."""

    def __init__(self, directory: Path, *options: str, env: Mapping[str, str] | None = None):
        self.directory = directory
        self.process = subprocess.Popen(
            [*LLMROUTER, "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(directory), **(env or {})},
            start_new_session=True,
        )
        self.shown = ""

    def until(self, words: str) -> str:
        """Everything that was shown before these words."""
        assert self.process.stdout is not None
        while words not in self.shown:
            line = self.process.stdout.readline()
            assert line, self.shown + (self.process.stderr.read() if self.process.stderr else "")
            self.shown += line
        return self.shown

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C, as a terminal does it; the exit status and what was shown last."""
        os.killpg(self.process.pid, signal.SIGINT)
        rest, _ = self.process.communicate(timeout=START_TIMEOUT_S)
        return self.process.returncode, rest


@contextlib.contextmanager
def tried(directory: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Tried]:
    found = Tried(directory, *options, env=env)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def pasted(command: str) -> str:
    """What a shell prints for it."""
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.e2e
def test_it_answers_soon_and_what_it_prints_works_when_pasted(tmp_path: Path) -> None:
    """SC: from nothing to a streamed answer in one command."""
    began = time.monotonic()
    with tried(tmp_path, "--port", "0") as found:
        found.until("demo: ")
        answered_s = time.monotonic() - began
        shown = found.until("Ctrl-C stops it.")
        print(f"answered after {answered_s:.2f} s")  # noqa: T201
        (directory,) = tmp_path.iterdir()

        assert answered_s < TOGETHER_S
        assert "You said: What is llmrouter?" in shown
        assert f"its state is {directory}/state\n" in shown
        curl, _, python = shown.partition("Try it yourself:\n\n")[2].partition("\n\n")
        if shutil.which("curl") is not None:
            answer = msgspec.json.decode(pasted(curl))
            assert "You said: Hello" in answer["choices"][0]["message"]["content"]
        code = python.partition("Ctrl-C stops it.")[0]
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        assert "You said: Hello" in done.stdout, done.stderr

        status, rest = found.interrupt()

    assert status == 0
    assert rest.splitlines()[-1] == "stopped; the temporary state is gone."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_port_that_is_taken_is_told_where_the_user_looks(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with tried(tmp_path, "--port", str(port)) as found:
            shown, said = found.process.communicate(timeout=START_TIMEOUT_S)

    assert found.process.returncode == 1
    assert shown == ""
    assert said.startswith(f"llmrouter: cannot listen on 127.0.0.1:{port}: address already in use")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_demo_that_cannot_start_shows_why(tmp_path: Path) -> None:
    site, temporary = tmp_path / "site", tmp_path / "temporary"
    site.mkdir()
    temporary.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'llmrouter.daemon.worker' in sys.orig_argv:\n"
        "    os.write(2, b'the disk is broken\\n')\n"
        "    os._exit(3)\n"
    )
    with tried(temporary, "--port", "0", env={"PYTHONPATH": str(site)}) as found:
        shown, said = found.process.communicate(timeout=START_TIMEOUT_S)

    assert found.process.returncode == 1
    assert shown == ""
    assert "the disk is broken" in said
    assert said.splitlines()[-1].startswith("llmrouter: the workers do not start")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("port", ["-1", "65536", "high"])
def test_a_port_that_is_none_is_a_usage_error(tmp_path: Path, port: str) -> None:
    with tried(tmp_path, "--port", port) as found:
        shown, said = found.process.communicate(timeout=START_TIMEOUT_S)

    assert found.process.returncode == 2
    assert shown == ""
    assert "--port" in re.sub(r"\x1b\[[0-9;]*m", "", said)


def test_the_usual_port_is_taken_if_it_is_free_and_any_other_if_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        monkeypatch.setattr(demo, "_PORT", other.getsockname()[1])
        other.listen()
        assert demo._free_port() == 0

    assert demo._free_port() == demo._PORT
