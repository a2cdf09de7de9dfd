"""What came of an attempt, judged: an answer that can be passed on, or a failure and its kind.

An answer is judged by what arrived: its framing, its status, whether it is whole, and by the codes
in a refusal; never by words. Nothing here awaits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrouter.contracts.call import Call, Objection
from llmrouter.contracts.dialect import RefusedInStream
from llmrouter.errors import RouterError, UpstreamError
from llmrouter.gateway.failure import translated
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    ResponseTimeout,
)
from llmrouter.routing.failure import FailureKind
from llmrouter.units import MS_PER_S

# Plain numbers: looking up a member of http.HTTPStatus costs more than all that is compared here.
REDIRECTS_FROM, ERRORS_FROM, SERVER_ERRORS_FROM = 300, 400, 500
_BY_STATUS: Final[Mapping[int, FailureKind]] = {
    401: FailureKind.DISOWNED,
    402: FailureKind.DISOWNED,
    403: FailureKind.ABSENT,
    404: FailureKind.ABSENT,
    408: FailureKind.BROKEN,
    429: FailureKind.THROTTLED,
}
_BY_OBJECTION: Final[Mapping[Objection | None, FailureKind]] = {
    Objection.CONTEXT_LENGTH: FailureKind.TOO_LONG,
    Objection.CONTENT_FILTER: FailureKind.FILTERED,
    None: FailureKind.UNFIT,
}
_DISOWNED: Final = {401: "refused our credential", 402: "says that our account may not pay"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An attempt that gave no answer to the call."""

    kind: FailureKind
    error: RouterError
    """What the caller is told, if nothing else is tried."""
    answer: Reply | None = None
    """The upstream's own refusal, which the caller is given in place of `error`."""
    retry_after_s: float | None = None
    """When the upstream says that it has room again."""


def judge(reply: Reply, upstream: Upstream, call: Call) -> Failure | None:
    """Why what has arrived is no answer to pass on; None if it is one.

    The usage of a whole plain answer is read, since that shows whether it is whole JSON. Raises
    Overloaded where nothing was sent, as the journal could not be written.
    """
    error = reply.error
    if error is not None and reply.is_lost():
        return _of_connection(error, upstream.name)
    name, status = upstream.name, reply.status
    if reply.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return _broken(f"the upstream '{name}' answered in a coding not asked for")
    if upstream.is_given_away_by(reply.body):
        kind = _BY_STATUS.get(status, FailureKind.BROKEN)
        said = f"the upstream '{name}' answered {status} and showed our credential"
        return Failure(kind=kind, error=UpstreamError(f"{said}; tell your operator"))
    if status >= ERRORS_FROM:
        return _of_refusal(reply, upstream)
    if status >= REDIRECTS_FROM:
        return _broken(f"the upstream answered with a redirect ({status})")
    return _unsound(reply, upstream, call)


def _unsound(reply: Reply, upstream: Upstream, call: Call) -> Failure | None:
    """Why an answer with a status of success is not whole, as far as it has come."""
    try:
        if reply.is_stream:
            if not reply.has_begun:
                _check_unopened(reply, upstream, call)
        elif reply.complete:
            reply.usage = upstream.dialect.read_usage(reply.body)
    except UpstreamError as malformed:
        return broken(malformed)
    return None


def _check_unopened(reply: Reply, upstream: Upstream, call: Call) -> None:
    """An answer may be empty, but its end marker must have come."""
    tap = upstream.dialect.tap(call)
    tap.feed(reply.body)
    if not tap.complete:
        said = f"the upstream '{upstream.name}' ended its answer before the first event"
        raise UpstreamError(said)


def _of_connection(error: HttpError | OSError | UpstreamError, upstream: str) -> Failure:
    told = translated(error, upstream)
    match error:
        case ConnectError() | ConnectTimeout():
            kind = FailureKind.UNREACHABLE
        case ConnectionLost():
            kind = FailureKind.LOST
        case ResponseTimeout():
            kind = FailureKind.SILENT
        case RefusedInStream(objection=objection) if objection is not None:
            kind = _BY_OBJECTION[objection]
        case HttpError() | UpstreamError():
            kind = FailureKind.BROKEN
        case _:
            raise told from error
    return Failure(kind=kind, error=told)


def _of_refusal(reply: Reply, upstream: Upstream) -> Failure:
    """The upstream has answered with an error of its own."""
    name, status = upstream.name, reply.status
    default = FailureKind.BROKEN if status >= SERVER_ERRORS_FROM else None
    kind = _BY_STATUS.get(status, default)
    if kind is FailureKind.DISOWNED:
        # The caller would take it for its own key's fault, and the body may show our credential.
        said = f"the upstream '{name}' {_DISOWNED[status]}; tell your operator"
        return Failure(kind=kind, error=UpstreamError(said))
    if not reply.complete:
        return _broken(f"the upstream answered {status} at a length that cannot be checked")
    if kind is None:
        kind = _BY_OBJECTION[upstream.dialect.objection(reply.body)]
    error = UpstreamError(f"the upstream '{name}' answered {status}")
    return Failure(kind=kind, error=error, answer=reply, retry_after_s=retry_after_s(reply.headers))


def filtered(reply: Reply, upstream: Upstream) -> Failure:
    """A plain answer that a content filter has kept back, where that leads to another model."""
    error = UpstreamError(f"the content filter of the upstream '{upstream.name}' cut the answer")
    return Failure(kind=FailureKind.FILTERED, error=error, answer=reply)


def unreachable(error: HttpError, upstream: Upstream) -> Failure:
    """No connection was made."""
    return Failure(kind=FailureKind.UNREACHABLE, error=translated(error, upstream.name))


def broken(error: UpstreamError) -> Failure:
    """What came is no whole answer."""
    return Failure(kind=FailureKind.BROKEN, error=error)


def _broken(said: str) -> Failure:
    return broken(UpstreamError(said))


def retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """What an upstream says to wait: `retry-after-ms`, else `retry-after` (RFC 9110, 10.2.3).

    A date there is taken relative to the upstream's own `date`. None where nothing usable is said.
    """
    for name, per_s in ((b"retry-after-ms", MS_PER_S), (b"retry-after", 1)):
        if (value := headers.get(name)) is not None and (number := _number(value)) is not None:
            return number / per_s
    return _until_date(headers.get(b"retry-after"), headers.get(b"date"))


def _number(value: bytes) -> float | None:
    text = value.strip()[:12]
    return float(text) if text.replace(b".", b"", 1).isdigit() else None


def _until_date(until: bytes | None, now: bytes | None) -> float | None:
    if until is None or now is None:
        return None
    from email.utils import parsedate_to_datetime  # rare, and large for every worker to load

    try:
        ends, begins = (parsedate_to_datetime(text.decode("latin-1")) for text in (until, now))
        return max(0.0, (ends - begins).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one of them without its zone
        return None
