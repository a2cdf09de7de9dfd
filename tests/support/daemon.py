"""The real daemon as a subprocess, on a temporary state and a port of its own."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import tomli_w

from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path

START_TIMEOUT_S = 60.0
"""Generous: the machine may be busy with other tests."""
STOP_TIMEOUT_S = 60.0
LLMROUTER = (sys.executable, "-m", "llmrouter")
Settings = Mapping[str, Any]

DEMO: Settings = {
    "upstreams": {"demo": {"url": "builtin:demo"}},
    "models": {
        "demo": {"deployments": [{"upstream": "demo", "model": "demo"}], "aliases": ["house"]},
        "demo-*": {"deployments": [{"upstream": "demo"}]},
    },
    "orgs": {"acme": {}},
}
"""What most tests serve: the demo upstream, every directive of it, and one org."""


def write_config(directory: Path, settings: Settings, *, workers: int = 1) -> Path:
    """Write a router.toml below `directory`, listening on a port that the system chooses."""
    server = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "workers": workers}
    server |= settings.get("server", {})
    path = directory / "router.toml"
    path.write_text(tomli_w.dumps({**settings, "server": server}))
    return path


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*LLMROUTER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT_S,
        env={**os.environ, **(env or {})},
    )


def create_key(config: Path, *options: str) -> dict[str, Any]:
    """Issue a key by the command line: what `--json` prints."""
    org = () if "--org" in options else ("--org", "acme")
    done = run("keys", "create", "--config", str(config), "--json", *org, *options)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", msgspec.json.decode(done.stdout))


class Daemon:
    """A running `llmrouter serve`."""

    def __init__(
        self,
        config: Path,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.config = config
        self.stopped = False
        self.log_path = config.parent / "serve.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*LLMROUTER, "serve", "--config", str(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.address, self.admin_address = self._wait_until_serving()
        self.host, _, port = self.address.rpartition(":")
        self.port = int(port) if port.isdigit() else 0  # a Unix socket has none

    @property
    def base_url(self) -> str:
        """What SDKs take."""
        return f"http://{self.address}/v1"

    @property
    def log(self) -> str:
        """Everything that was logged so far."""
        return self.log_path.read_text()

    @property
    def events(self) -> str:
        """The log without the lines of exchanges."""
        return "".join(line for line in self.log.splitlines(True) if " request=" not in line)

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.config.parent / "state"

    def workers(self) -> list[int]:
        """The process ids of the workers that live now."""
        return children(self.process.pid, "llmrouter.daemon.worker")

    def children(self) -> list[int]:
        """The process ids of the workers and of the demo."""
        return children(self.process.pid, "llmrouter")

    def admin(self, path: str, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Ask the admin listener: a status, and what it says."""
        host, _, port = self.admin_address.rpartition(":")
        with contextlib.closing(
            http.client.HTTPConnection(host, int(port), timeout=timeout_s)
        ) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read())

    def connection(self, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        """A client connection of its own."""
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    def stop(self) -> int:
        """Drain and stop: its exit status."""
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        for pid in [self.process.pid, *self.children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def _wait_until_serving(self) -> tuple[str, str]:
        addresses = r"addresses=(\S+?)(,\S*)? admin=(\S+)"
        serving = re.compile(rf"serving {addresses} pid={self.process.pid}\b")
        pause = threading.Event()
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := serving.search(self.log)) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the daemon did not start:\n{self.log}")
            pause.wait(0.02)
        return found[1], found[3]


def children(parent: int, module: str) -> list[int]:
    """The children of `parent` that run `module`, or one below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = b" " + (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            is_below = int(stat[1]) == parent and stat[0] != "Z"
            if is_below and b" -m " + module.encode() in command:
                found.append(int(entry.name))
    return sorted(found)


@contextlib.contextmanager
def serving(
    directory: Path,
    settings: Settings = DEMO,
    *,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Daemon]:
    """Serve `settings` while the `with` lasts; it must then stop cleanly."""
    daemon = Daemon(write_config(directory, settings, workers=workers), env=env, pass_fds=pass_fds)
    try:
        yield daemon
        if not daemon.stopped:
            assert daemon.process.poll() is None, f"the daemon died:\n{daemon.events}"
            assert daemon.stop() == 0, daemon.events
    finally:
        daemon.kill()


def wait_for(condition: Any, *, timeout_s: float = 30.0, what: str = "it") -> Any:
    """Poll until `condition()` is true, and return what it gave; for states of other processes."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        pause.wait(0.01)
    return found


def limits(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """How every bucket stands, by name: what the supervisor says on its control socket."""
    listed = ask(control_path(daemon.state), "limits.list", {})
    return {view["bucket"]: view for view in cast("list[dict[str, Any]]", listed)}
