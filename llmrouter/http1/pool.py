"""The connections to one origin: reused last in, first out, so that those not needed grow old.

`take` decides synchronously; only making a new connection waits. A reused connection may have been
closed by the upstream in the very moment it is used; then the receiver hears `ConnectionLost` with
`stale` set, and may try once more on a `fresh` one.

Every fresh connection looks its host's name up anew, and none is kept beyond its age: so a change
of DNS is followed, however busy the pool is.
"""

import asyncio
import contextlib
import random
import ssl
from typing import Final

from llmrouter.http1.deadlines import NEVER, Deadlines
from llmrouter.http1.errors import ConnectError, ConnectTimeout
from llmrouter.http1.origin import Origin
from llmrouter.http1.upstream import UpstreamConnection

IDLE_S = 55.0
"""How long an unused connection is kept: shorter than the 60 s of common load balancers."""
IDLE_MAX = 1024
"""How many unused connections are kept, so that a burst of streams does not leave its sockets."""
_AGE_SPREAD: Final = 0.2
"""Connections that were made together retire over this share of their age, not together."""


class Pool:
    """All connections of one loop to one origin."""

    def __init__(self, origin: Origin, deadlines: Deadlines, *, age_max_s: float = NEVER) -> None:
        """A connection older than `age_max_s` serves what it has begun, and nothing after."""
        self.origin = origin
        self._age_max_s = age_max_s
        self._deadlines = deadlines
        self.loop = asyncio.get_running_loop()
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()

    def __repr__(self) -> str:
        return f"<Pool {self.origin!r} open={len(self._open)} idle={len(self._idle)}>"

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None: then make a `fresh` one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
        return None

    async def fresh(self, timeout_s: float) -> UpstreamConnection:
        """Make a new connection; raises ConnectTimeout or ConnectError."""
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connect()
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {timeout_s:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise ConnectError(f"its certificate is not valid: {error.verify_message}") from error
        except OSError as error:
            raise ConnectError(error.strerror or str(error)) from error
        except UnicodeError as error:
            raise ConnectError(f"{self.origin.host!r} is no host name") from error
        if not connection.is_open():
            raise ConnectError("the connection was closed as soon as it was made")
        connection.retires_at = self.loop.time() + self._age_max_s * _spread()
        self._open.add(connection)
        self._deadlines.watch(connection)
        return connection

    def release(self, connection: UpstreamConnection, idle_s: float) -> None:
        """A response is complete: keep its connection for the next, for `idle_s` at most."""
        now = self.loop.time()
        if len(self._idle) >= IDLE_MAX or idle_s <= 0 or connection.retires_at <= now:
            connection.close()
            return
        connection.deadline = min(now + min(IDLE_S, idle_s), connection.retires_at)
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection."""
        self._open.discard(connection)
        self._deadlines.forget(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._open):
            connection.close()

    async def _connect(self) -> UpstreamConnection:
        origin, loop = self.origin, self.loop

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(self, loop)

        if origin.unix_path is not None:
            _, connection = await loop.create_unix_connection(protocol, origin.unix_path)
        elif origin.tls is not None:
            _, connection = await loop.create_connection(
                protocol, origin.host, origin.port, ssl=origin.tls, server_hostname=origin.host
            )
        else:
            _, connection = await loop.create_connection(protocol, origin.host, origin.port)
        return connection


def _spread() -> float:
    return 1.0 - _AGE_SPREAD * random.random()  # noqa: S311 - nothing is kept secret by it
