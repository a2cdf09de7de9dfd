"""Every answer of ours that is not the model's: one class per code, its facts as attributes.

A `RouterError` says what was wrong and what to do, and carries what a caller needs to act on it.
It is raised anywhere below the path and becomes a response in exactly one place; the caller's
dialect decides the shape. `CODES` is the table of all of them: README documents it, and a test
compares the two.
"""

import enum
from typing import ClassVar

import msgspec


class LimitState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limit or budget that a call met, as it stood then: what a caller may know of it."""

    scope: str
    """Whom it applies to: `org`, `team`, `user` or `key`."""
    name: str
    """The org's, team's or user's name, or the key's id."""
    kind: str
    """What it counts: `requests`, `tokens`, `concurrent` or `usd`."""
    limit: int | float
    """How much of it fits; USD for `usd`."""
    per: str | None
    """The time it is counted over; None for calls at once."""
    model: str | None = None
    """The model or pattern that it is limited to; None means every model."""
    used: int | float
    """How much of it was used."""
    resets_at: str | None
    """When there is room again, in ISO 8601 and UTC; None where time alone makes none."""


class Source(enum.Enum):
    """Whose fault an error is; logs take their level from it."""

    CLIENT = "client"
    ROUTER = "router"
    UPSTREAM = "upstream"


class RouterError(Exception):
    """An answer that is not the model's."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    source: ClassVar[Source] = Source.ROUTER

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        """What was wrong, with the value, and what to do; no secret, prompt or other org's name."""
        self.param = param
        """The request member at fault, where there is one."""
        self.retry_after_s = retry_after_s
        """Whole seconds after which the same request may succeed; None if waiting does not help."""


class InternalError(RouterError):
    """A bug of ours; the log has the traceback under the same request id."""


class ClientError(RouterError):
    """The request is at fault: the same bytes will be refused again."""

    source = Source.CLIENT


class InvalidJson(ClientError):
    """The body is not JSON."""

    status, code = 400, "invalid_json"


class InvalidRequest(ClientError):
    """The request is malformed, as HTTP or as a call."""

    status, code = 400, "invalid_request"


class UnsupportedParameter(ClientError):
    """A parameter that no deployment of ours can honour."""

    status, code = 400, "unsupported_parameter"


class MissingKey(ClientError):
    """No key was sent."""

    status, code = 401, "missing_key"


class InvalidKey(ClientError):
    """The key is none of ours."""

    status, code = 401, "invalid_key"


class ExpiredKey(ClientError):
    """The key was ours until it expired."""

    status, code = 401, "expired_key"


class RevokedKey(ClientError):
    """The key was ours until it was revoked."""

    status, code = 401, "revoked_key"


class ModelNotAllowed(ClientError):
    """The model exists, but not for this key."""

    status, code = 403, "model_not_allowed"


class ModelNotFound(ClientError):
    """No route has this name."""

    status, code = 404, "model_not_found"


class UnknownPath(ClientError):
    """Nothing is served at this path."""

    status, code = 404, "unknown_path"


class MethodNotAllowed(ClientError):
    """The path is served, but not by this method."""

    status, code = 405, "method_not_allowed"


class RequestTimeout(ClientError):
    """The request did not arrive in time."""

    status, code = 408, "request_timeout"


class BodyTooLarge(ClientError):
    """The body is longer than `server.limits.body_bytes`."""

    status, code = 413, "body_too_large"


class HeadTooLarge(ClientError):
    """Request line and headers are longer than `server.limits.head_bytes`."""

    status, code = 431, "head_too_large"


class QuotaRefused(ClientError):
    """A limit or a budget stands against the call."""

    def __init__(
        self,
        message: str,
        *,
        limit: LimitState | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.limit = limit
        """Which one, and how it stands; None where no single one is to blame."""


class InsufficientQuota(QuotaRefused):
    """A budget is spent. Nothing to wait for within a caller's patience: no `retry_after_s`."""

    status, code = 402, "insufficient_quota"


class LimitReached(QuotaRefused):
    """A limit has no room now, but will have: it cannot be raised without saying when."""

    status = 429

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int,
        limit: LimitState | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, limit=limit, param=param, retry_after_s=retry_after_s)


class RateLimitExceeded(LimitReached):
    """As many requests or tokens have passed as may in this time."""

    code = "rate_limit_exceeded"


class ConcurrencyLimitExceeded(LimitReached):
    """As many calls are in flight as may be at once."""

    code = "concurrency_limit_exceeded"


class QuotaHeld(LimitReached):
    """There would be room, but for what calls in flight hold: it comes free as they settle."""

    code = "quota_held"


class QueueTimeout(LimitReached):
    """The call waited in the queue for as long as it may, and its turn did not come."""

    code = "queue_timeout"


class UpstreamError(RouterError):
    """The upstream answered, but not with an answer that can be passed on as whole."""

    status, code, source = 502, "upstream_error", Source.UPSTREAM


class UpstreamUnreachable(RouterError):
    """No connection to the upstream could be made, or it was lost before an answer began."""

    status, code, source = 502, "upstream_unreachable", Source.UPSTREAM


class UpstreamTimeout(RouterError):
    """The upstream stayed silent for longer than its time-outs allow."""

    status, code, source = 504, "upstream_timeout", Source.UPSTREAM


class Overloaded(RouterError):
    """The node holds as many connections, calls or bytes as it may."""

    status, code = 503, "overloaded"


class NoDeploymentAvailable(RouterError):
    """The route has deployments, but none of them can be used now."""

    status, code = 503, "no_deployment_available"


class Draining(RouterError):
    """The node finishes what is in flight and accepts nothing new."""

    status, code = 503, "draining"


CODES: tuple[type[RouterError], ...] = (
    InternalError,
    InvalidJson,
    InvalidRequest,
    UnsupportedParameter,
    MissingKey,
    InvalidKey,
    ExpiredKey,
    RevokedKey,
    ModelNotAllowed,
    ModelNotFound,
    UnknownPath,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    HeadTooLarge,
    InsufficientQuota,
    RateLimitExceeded,
    ConcurrencyLimitExceeded,
    QuotaHeld,
    QueueTimeout,
    UpstreamError,
    UpstreamUnreachable,
    UpstreamTimeout,
    Overloaded,
    NoDeploymentAvailable,
    Draining,
)
