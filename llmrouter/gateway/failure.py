"""From what broke on a connection to an upstream to the error that the caller is told."""

from llmrouter.errors import Overloaded, RouterError, UpstreamError, UpstreamTimeout
from llmrouter.errors import UpstreamUnreachable as Unreachable
from llmrouter.http1.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    ResponseTimeout,
)


def translated(error: HttpError | OSError | UpstreamError, upstream: str) -> RouterError:
    """The `RouterError` for a failure between us and the upstream of that name."""
    match error:
        case UpstreamError():
            return error
        case ConnectError() | ConnectTimeout():
            return Unreachable(f"the upstream '{upstream}' cannot be reached: {error}")
        case ConnectionLost():
            return Unreachable(f"the upstream '{upstream}' broke off: {error}")
        case ResponseTimeout():
            return UpstreamTimeout(f"the upstream '{upstream}' was silent for too long")
        case HttpError():
            return UpstreamError(f"the upstream '{upstream}' does not answer properly: {error}")
        case _:
            reason = "the journal cannot be written, so no call is sent; tell your operator"
            return Overloaded(reason, retry_after_s=1)
