"""The demo upstream as a child of the supervisor: on a Unix socket below the state."""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from llmrouter.daemon import children, listeners, unix
from llmrouter.daemon.children import Child

_SOCKET = "demo.sock"


class DemoChild:
    """Its socket, bound once; and whoever serves there."""

    def __init__(self, state: Path, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Raises OSError if the socket cannot be bound."""
        self.path = state / _SOCKET
        self.child = Child("demo", self._start, clock)
        self._environ = environ
        self._listener: socket.socket = unix.listen(
            self.path, mode=0o600, backlog=listeners.BACKLOG
        )

    def __repr__(self) -> str:
        return f"<DemoChild {self.path} {self.child!r}>"

    async def _start(self) -> asyncio.subprocess.Process:
        fd = self._listener.fileno()
        return await children.spawn_child(
            "llmrouter.daemon.demo",
            [str(fd)],
            fds=[fd],
            stdin=subprocess.PIPE,  # its end tells the demo that we are gone
            environ=self._environ,
        )

    def close(self) -> None:
        """Accept nothing new."""
        self._listener.close()
