"""`llmrouter serve`, as an operator runs it; what it serves and how it ends is tested in daemon."""

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from llmrouter.daemon.state import open_state
from tests.support.compiled import library
from tests.support.daemon import DEMO, LLMROUTER, START_TIMEOUT_S, Daemon, wait_for, write_config

pytestmark = pytest.mark.e2e
Served: TypeAlias = "subprocess.Popen[str]"


@contextmanager
def begun(config: Path, *, umask: int = 0o022) -> Iterator[Served]:
    """Start it, and do not wait for anything."""
    process = subprocess.Popen(
        [*LLMROUTER, "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=umask,
        env={**os.environ, "LLMROUTER_CONFIG": str(config)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def announced(process: Served) -> str:
    """The line that says where it serves."""
    assert process.stderr is not None
    return next(line for line in process.stderr if "serving addresses=" in line)


def stopped(process: Served) -> tuple[str, str]:
    """Stop it; what it printed and what it logged."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=START_TIMEOUT_S)


def holds_open(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if os.readlink(link) == str(path):
                return True
    return False


def test_it_says_where_it_serves_and_when_it_has_stopped(tmp_path: Path) -> None:
    with begun(write_config(tmp_path, DEMO)) as process:
        first = announced(process)
        printed, rest = stopped(process)

    assert process.returncode == 0
    assert printed == ""
    assert " level=info process=supervisor serving addresses=127.0.0.1:" in first
    how = "interpreted" if library() is None else "compiled"
    assert first.endswith(f" pid={process.pid} path={how}\n")
    assert rest.splitlines()[-1].endswith(" level=info process=supervisor stopped")


def test_what_it_makes_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    with begun(write_config(tmp_path, DEMO), umask=0) as process:
        announced(process)
        modes = {
            path.name: stat.S_IMODE(path.lstat().st_mode)
            for path in (tmp_path / "state", *(tmp_path / "state").rglob("*"))
        }
        stopped(process)

    assert {"control.sock", "demo.sock", "digest.key", "store", "journal"} <= modes.keys()
    assert all(mode in (0o600, 0o700) for mode in modes.values()), modes


def test_it_waits_for_a_command_that_has_the_state_open(tmp_path: Path) -> None:
    """An admin's `keys create` in the moment of a restart does not stop the restart."""
    config = write_config(tmp_path, DEMO)
    with contextlib.ExitStack() as stack:
        with open_state(tmp_path / "state"):
            process = stack.enter_context(begun(config))
            lock = tmp_path / "state" / "lock"
            wait_for(lambda: holds_open(process.pid, lock), what="its first look")
            assert process.poll() is None
        announced(process)
        stopped(process)


def test_told_to_stop_before_it_serves_it_stops(tmp_path: Path) -> None:
    with begun(write_config(tmp_path, DEMO, workers=4)) as process:
        wait_for((tmp_path / "state" / "demo.sock").exists, what="its first steps")
        wait_for(lambda: holds_signals(process.pid), what="its handlers")
        printed, said = stopped(process)

    assert process.returncode == 0
    assert printed == ""
    assert "Traceback" not in said
    with open_state(tmp_path / "state", wait_s=10):
        pass


def holds_signals(pid: int) -> bool:
    """Whether SIGTERM is handled, and not simply deadly."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_directory_of_its_own_is_not_needed(tmp_path: Path) -> None:
    """Relative paths start at the file, wherever it is started from."""
    config = write_config(tmp_path, {**DEMO, "state": "var/lib/state"})
    daemon = Daemon(config)
    try:
        assert (tmp_path / "var" / "lib" / "state" / "control.sock").is_socket()
        assert daemon.stop() == 0
    finally:
        daemon.kill()
