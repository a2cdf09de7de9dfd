"""What can go wrong on a connection, named by phase; never a reason to guess from a message."""


class HttpError(Exception):
    """A peer or the network broke an exchange."""


class MessageError(HttpError):
    """A downstream request that must not be served: answered with `status`, then closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        """400, 408, 413, 431 or 503."""
        self.reason = reason


class ConnectError(HttpError):
    """No connection to the upstream: refused, unreachable, unknown host or failed TLS."""


class ConnectTimeout(HttpError):
    """No connection to the upstream within the connect time-out."""


class ConnectionLost(HttpError):
    """The upstream closed or reset the connection before its answer was complete."""

    def __init__(self, reason: str, *, stale: bool) -> None:
        super().__init__(reason)
        self.stale = stale
        """The connection was a reused one and no byte came back: very likely nothing was read."""


class ResponseTimeout(HttpError):
    """The upstream was silent for too long."""


class ResponseError(HttpError):
    """The upstream sent bytes that are not HTTP, or more of a head than we take."""
