"""An upstream that goes wrong as it is told (see `faultyserver`), led by a test."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.support.daemon import wait_for
from tests.support.faults import Counts, Fault, Order, Port

_ROOT = Path(__file__).parents[2]


class Faulty:
    """The process, and its port; `text` of `faults` says what it answers."""

    def __init__(self, name: str, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/v1"
        self._process = process

    def order(
        self,
        faults: dict[str, Fault] | None = None,
        *,
        port: Port | None = None,
        first_s: tuple[float, float] | None = None,
        flap_s: float | None = None,
    ) -> Counts:
        """Tell it what to do from now on, and return what it has done; done when this returns."""
        order = Order(faults or {}, port, first_s, flap_s)
        reads, writes = self._process.stdout, self._process.stdin
        assert reads is not None
        assert writes is not None
        writes.write(msgspec.json.encode(order) + b"\n")
        writes.flush()
        line = reads.readline()
        assert line, "the upstream died"
        return msgspec.json.decode(line, type=Counts)

    @property
    def counts(self) -> Counts:
        """What it has done."""
        return self.order()

    def quiet(self) -> Counts:
        """What it has done, once it does nothing more."""
        wait_for(lambda: self.counts.open == 0, what=f"the end of all calls to {self.name}")
        return self.counts


@contextlib.contextmanager
def faulty(name: str) -> Iterator[Faulty]:
    """Run one called `name`, open and sound, until the `with` ends."""
    with socket.socket() as keeper:
        # Bound and never listening: while it holds the port, nobody else gets it.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faultyserver", name, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
        )
        with process:
            try:
                upstream = Faulty(name, port, process)
                upstream.order(port=Port.OPEN)
                yield upstream
                assert process.poll() is None, f"the upstream {name} died"
            finally:
                process.kill()
