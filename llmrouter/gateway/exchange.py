"""One HTTP request, its response, and the connection they travel on."""

from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

from llmrouter.access.principal import Principal
from llmrouter.contracts.call import Call, Operation
from llmrouter.contracts.dialect import Dialect
from llmrouter.errors import RouterError
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.request import Request
from llmrouter.routing.attempts import Attempts

_NOTHING: Final[Mapping[str, float]] = {}
STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
# Plain numbers: looking up a member of HTTPStatus takes longer than comparing.
_UNAUTHORIZED, _NOT_ALLOWED = 401, 405
_JSON: Final = b"content-type: application/json\r\n"


def status_line(status: int) -> bytes:
    """The first line of a response."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def upstream_of(deployment: str) -> str:
    """The upstream of a deployment; names of upstreams hold no slash."""
    return deployment.partition("/")[0]


class Asking(Protocol):
    """What of an exchange decides how it is served; who only explains that makes up one."""

    principal: Principal | None
    dialect: Dialect
    call: Call
    asked: str
    model: str
    served_by: str


class Server(Protocol):
    """Carries exchanges to their end."""

    def serve(self, exchange: "Exchange") -> Awaitable[None]:
        """Answer `exchange`."""


class Exchange:
    """What travels along the path; who and what it is for is filled in on the way."""

    __slots__ = (
        "_server",
        "arrived_at",
        "asked",
        "attempts",
        "authenticated_at",
        "call",
        "connection",
        "deployment",
        "dialect",
        "error",
        "keyring_changes",
        "limit_headers",
        "model",
        "operation",
        "principal",
        "refusal",
        "request",
        "request_id",
        "resent",
        "served_by",
        "status",
        "timeouts",
    )

    def __init__(
        self, server: Server, connection: ServerConnection, request: Request, request_id: str
    ) -> None:
        self._server = server
        self.connection = connection
        self.request = request
        self.request_id = request_id
        self.arrived_at = 0.0
        """When its head was complete, on the loop's clock."""
        self.dialect: Dialect
        self.operation: Operation | None = None
        """What is asked for, if it is a call."""
        self.principal: Principal | None = None
        self.authenticated_at = 0.0
        """On the loop's clock, while `keyring_changes` changes had been made to the keys."""
        self.keyring_changes = 0
        self.refusal: RouterError | None = None
        """Why it is refused, if its head alone already says so."""
        self.call: Call
        """What is asked for, once its body was read."""
        self.timeouts: Mapping[str, float] = _NOTHING
        """The time-outs that its caller asks for, in seconds; see `timeouts`."""
        self.attempts: Attempts | None = None
        """What was tried; None until an attempt has failed, or is late."""
        self.resent = False
        """It was sent anew, as a connection was closed in the moment in which it was reused."""
        self.asked = ""
        """The name that its route is asked for: the caller's, or that of `served_by`."""
        self.served_by = ""
        """The model that serves in place of the one asked for, if another does."""
        self.limit_headers = b""
        """How the limits of an admitted call stand."""
        # for the log
        self.model = ""
        self.deployment = ""
        self.status = 0
        """What was answered; 0 while nothing was."""
        self.error: RouterError | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.request_id} {self.request!r} status={self.status}>"

    @property
    def methods(self) -> tuple[bytes, ...]:
        """By which what it asks for is served."""
        return (b"GET", b"HEAD") if self.operation is None else (b"POST",)

    @property
    def upstream_name(self) -> str:
        """The upstream of its deployment."""
        return upstream_of(self.deployment)

    def may_resend(self) -> bool:
        """Whether it may be sent anew on a fresh connection: once, and that counts as an attempt.

        A call's first attempt may always: else a single one would fail for an idle connection.
        """
        if self.resent or (self.attempts is not None and not self.attempts.may_add()):
            return False
        self.resent = True
        return True

    def drop_body(self) -> None:
        """Its prompt has gone upstream for good: it is not needed any more."""
        self.call = self.call.without_body()
        self.request.drop_body()

    def serve(self) -> Awaitable[None]:
        """Its turn on the connection has come."""
        return self._server.serve(self)

    def refuse(self, error: RouterError) -> None:
        """Refuse it now; its body is not waited for."""
        self.refusal = error
        self.request.wants_body = False

    def head(self, status: int, headers: bytes = b"") -> bytes:
        """Status line, `headers`, and those that every response has."""
        self.status = status
        return b"%b%bx-request-id: %b\r\n" % (
            status_line(status),
            headers,
            self.request_id.encode(),
        )

    def respond_json(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Answer with JSON of our own."""
        self.connection.respond(self.head(status, _JSON + headers), body)

    def reject(self, error: RouterError) -> None:
        """Answer with an error; where an answer has begun already, cut it."""
        self.error = error
        if self.connection.has_begun():
            self.connection.cut()
            return
        headers = b""
        if error.retry_after_s is not None:
            headers = b"retry-after: %d\r\n" % error.retry_after_s
        if error.status == _UNAUTHORIZED:
            headers += b"www-authenticate: Bearer\r\n"
        if error.status == _NOT_ALLOWED:
            headers += b"allow: %b\r\n" % b", ".join(self.methods)
        self.respond_json(error.status, self.dialect.error_body(error, self.request_id), headers)
