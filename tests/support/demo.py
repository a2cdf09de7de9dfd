"""The demo upstream of a running daemon, seen from behind: straight, and by its counters."""

import http.client
import socket
from pathlib import Path
from typing import Any, cast

import msgspec

from llmrouter.daemon import unix


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("demo", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(unix.address(self._path))


def _get(state: Path, path: str) -> dict[str, Any]:
    connection = _Connection(state / "demo.sock")
    try:
        connection.request("GET", path)
        return cast("dict[str, Any]", msgspec.json.decode(connection.getresponse().read()))
    finally:
        connection.close()


def counters(state: Path) -> dict[str, Any]:
    """What the demo has counted: `requests`, `plain`, `streams`, `open`, `cancelled` …"""
    return _get(state, "/demo/counters")


def last_request(state: Path) -> dict[str, Any]:
    """The last request as it arrived there: `method`, `target`, `headers`, `body`."""
    return _get(state, "/demo/last")
