"""The gateway: carries every exchange along the path, and turns errors into answers."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from llmrouter.access.principal import Principal
from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import Dialect
from llmrouter.errors import (
    BodyTooLarge,
    Draining,
    HeadTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    Overloaded,
    RequestTimeout,
    RouterError,
    UnknownPath,
)
from llmrouter.gateway.admit import Admission, Foreseen
from llmrouter.gateway.attempt import Attempt
from llmrouter.gateway.authenticate import Authenticator
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.fallback import Fallbacks, TakeOver, told
from llmrouter.gateway.forward import Forwarder, Unserved
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.respond import respond, respond_whole
from llmrouter.gateway.route import Router
from llmrouter.gateway.shadow import Shadows
from llmrouter.gateway.spending import Spending
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import Request
from llmrouter.http1.server import Application

_log: Final = logging.getLogger(__name__)

_MESSAGE_ERRORS: Final[Mapping[int, type[RouterError]]] = {
    408: RequestTimeout,
    413: BodyTooLarge,
    431: HeadTooLarge,
    503: Overloaded,
}
"""By the status of a `MessageError`; whatever else breaks a request is an InvalidRequest."""
_SHOWN_PATH_BYTES_MAX: Final = 100


class ExchangeLog(Protocol):
    """Writes one line an exchange."""

    def __call__(self, exchange: Exchange) -> None:
        """`exchange` is over."""


@dataclass(frozen=True)
class Door:
    """What is served at a path."""

    dialect: Dialect
    operation: Operation | None
    """A call; None is the list of models."""


@dataclass(frozen=True)
class _Entered:
    """What a head alone tells: kept for the next of its connection that is alike."""

    door: Door
    principal: Principal
    authenticated_at: float
    keyring_changes: int


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of the path, and what they tell the time by."""

    authenticator: Authenticator
    router: Router
    admission: Admission
    forwarder: Forwarder
    fallbacks: Fallbacks
    shadows: Shadows | None
    """None where no route has one."""
    meter: Callable[[Exchange, Spending], Meter]
    clock: Callable[[], float]
    """The loop's."""


class Gateway:
    """Everything that one worker serves; see the package for the path."""

    def __init__(
        self,
        dialects: Iterable[Dialect],
        steps: Steps,
        *,
        request_ids: Callable[[], str],
        log: ExchangeLog,
        started_at_s: int,
    ) -> None:
        self._steps = steps
        self._request_ids = request_ids
        self._log = log
        self._started_at_s = started_at_s
        self._doors: dict[bytes, Door] = {}
        for dialect in dialects:
            self._doors[dialect.models_path] = Door(dialect, None)
            for path, operation in dialect.paths.items():
                self._doors[path] = Door(dialect, operation)
        self._default_dialect = next(iter(self._doors.values())).dialect
        self.draining = False

    @property
    def steps(self) -> Steps:
        """The steps of the path."""
        return self._steps

    # ---- the connection calls these ---------------------------------------------------------

    def open(self, connection: ServerConnection, request: Request) -> Exchange:
        """A head has arrived: who calls, and what for. What is refused here is not read on."""
        exchange = Exchange(self, connection, request, self._request_ids())
        exchange.dialect = self._default_dialect
        exchange.arrived_at = self._steps.clock()
        try:
            self._enter(exchange)
        except Exception as error:  # noqa: BLE001 - one of the two places that rescue
            exchange.refuse(self._rescue(error, exchange))
        return exchange

    async def serve(self, exchange: Exchange) -> None:
        """Carry one exchange to its end; every `RouterError` becomes a response here."""
        try:
            if exchange.refusal is not None:
                exchange.reject(exchange.refusal)
                return
            self._steps.authenticator.confirm(exchange)
            if exchange.operation is None:
                self._list_models(exchange)
            else:
                await self._carry(exchange, exchange.operation)
        except Exception as error:  # noqa: BLE001 - one of the two places that rescue
            exchange.reject(self._rescue(error, exchange))
        finally:
            self._log(exchange)

    def reject(self, request: Request, error: MessageError) -> tuple[bytes, bytes]:
        """Say what was wrong with bytes that are no proper request."""
        kind = _MESSAGE_ERRORS.get(error.status, InvalidRequest)
        retry_after_s = 1 if kind is Overloaded else None
        refusal = kind(error.reason, retry_after_s=retry_after_s)
        door = self._doors.get(request.path)
        dialect = door.dialect if door is not None else self._default_dialect
        return self.refusal(dialect, refusal)

    def refusal(self, dialect: Dialect, error: RouterError) -> tuple[bytes, bytes]:
        """Head and body for a refusal that no exchange stands behind."""
        request_id = self._request_ids()
        exchange_head = b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\n" % error.status
        head = exchange_head + b"x-request-id: %b\r\n" % request_id.encode()
        if error.retry_after_s is not None:
            head += b"retry-after: %d\r\n" % error.retry_after_s
        return head, dialect.error_body(error, request_id)

    async def close(self) -> None:
        """Leave what nobody waits for, once the last exchange has ended."""
        if self._steps.shadows is not None:
            await self._steps.shadows.stop()

    # ---- the path ---------------------------------------------------------------------------

    def _enter(self, exchange: Exchange) -> None:
        """Find the door, and who stands before it."""
        if self.draining:
            raise Draining("this node is draining; try again on another", retry_after_s=1)
        request = exchange.request
        known, authenticator = request.known, self._steps.authenticator
        if known is not None and isinstance(entered := known.kept, _Entered):
            since_s, changes = entered.authenticated_at, entered.keyring_changes
            if authenticator.still_knows(since_s, changes, exchange.arrived_at):
                exchange.dialect = entered.door.dialect
                exchange.operation = entered.door.operation
                exchange.principal = entered.principal
                exchange.authenticated_at = since_s
                exchange.keyring_changes = changes
                return
        door = self._door(request.path)
        exchange.dialect = door.dialect
        exchange.operation = door.operation
        if request.method not in exchange.methods:
            method, right = request.method.decode("ascii"), exchange.methods[0].decode()
            raise MethodNotAllowed(f"{method} is not served here; use {right}")
        authenticator.authenticate(exchange)
        if known is not None and exchange.principal is not None:
            since_s, changes = exchange.authenticated_at, exchange.keyring_changes
            known.kept = _Entered(door, exchange.principal, since_s, changes)

    def _door(self, path: bytes) -> Door:
        door = self._doors.get(path)
        if door is not None:
            return door
        for listing, candidate in self._doors.items():
            if candidate.operation is None and path.startswith(listing + b"/"):
                return candidate
        shown = path[:_SHOWN_PATH_BYTES_MAX].decode("ascii", "replace")
        served = ", ".join(sorted(path.decode() for path in self._doors))
        raise UnknownPath(f"nothing is served at {shown!r}; served are: {served}")

    async def _carry(self, exchange: Exchange, operation: Operation) -> None:
        """Carry one call: route, admit, forward, meter, respond."""
        principal = exchange.principal
        assert principal is not None
        steps = self._steps
        exchange.call = call = exchange.dialect.read_call(operation, exchange.request.body)
        found = steps.router.find(call.model, principal)
        route, exchange.asked = found.route, found.asked
        exchange.model = route.model_of(found.asked)
        if found.asked != call.model:
            exchange.served_by = exchange.model
        exchange.timeouts = steps.forwarder.timeouts.asked(exchange.request.headers, route)
        admission = steps.admission
        spending = admission.try_admit(exchange, call, route)
        if isinstance(spending, Foreseen):
            spending = await admission.admit(exchange, call, spending)
            self._confirm(exchange, spending)
        if steps.shadows is not None:
            steps.shadows.cast(exchange, spending.route.name)
        del call  # it holds the prompt, and a stream may last for minutes
        taking_over = await self._answer(exchange, spending, None)
        while taking_over is not None:
            taking_over = await self._answer(exchange, taking_over.spending, taking_over)

    async def _answer(
        self, exchange: Exchange, spending: Spending, before: TakeOver | None
    ) -> TakeOver | None:
        """Have one model answer the call; returns what takes over where it cannot."""
        steps = self._steps
        with spending, steps.meter(exchange, spending) as meter:
            if before is not None:
                meter.take_over(before.counted, before.attempts, before.meter)
            attempt: Attempt | Unserved
            try:
                attempt = await steps.forwarder.forward(exchange, meter)
            except Unserved as unserved:
                attempt = unserved
            if isinstance(attempt, Unserved):
                return await self._go_on(exchange, meter, attempt, before)
            passed = False
            try:
                reply = attempt.reply
                if reply.is_stream:
                    exchange.drop_body()
                if reply.complete and not reply.is_stream:
                    respond_whole(exchange, reply, meter)
                else:
                    await respond(exchange, reply, meter)
                passed = True
            finally:
                attempt.close(passed=passed)
        return None

    async def _go_on(
        self, exchange: Exchange, meter: Meter, unserved: Unserved, before: TakeOver | None
    ) -> TakeOver | None:
        """No deployment of this model answers: find what takes over, else tell the caller."""
        taking_over = await self._steps.fallbacks.take_over(exchange, meter, unserved, before)
        if taking_over is not None:
            return taking_over
        failure = told(exchange, meter, unserved, before)
        if failure.answer is None:
            raise failure.error
        await respond(exchange, failure.answer, meter)
        return None

    def _confirm(self, exchange: Exchange, spending: Spending) -> None:
        """Make sure that its key may still make this call: a queue lasts longer than some keys."""
        principal = exchange.principal
        try:
            self._steps.authenticator.confirm(exchange)
            if exchange.principal is not None and exchange.principal is not principal:
                self._steps.router.confirm(exchange.asked, exchange.principal)
        except RouterError:
            spending.release()
            raise

    def _list_models(self, exchange: Exchange) -> None:
        principal, dialect = exchange.principal, exchange.dialect
        assert principal is not None
        router = self._steps.router
        prefix = dialect.models_path + b"/"
        path = exchange.request.path
        if not path.startswith(prefix):
            body = dialect.models_body(router.names(principal), self._started_at_s)
        else:
            name = _unquote(path.removeprefix(prefix))
            router.check_listed(name, principal)
            body = dialect.model_body(name, self._started_at_s)
        exchange.respond_json(200, body)

    def _rescue(self, error: Exception, exchange: Exchange) -> RouterError:
        if isinstance(error, RouterError):
            return error
        _log.error("exchange %s failed", exchange.request_id, exc_info=error)
        return InternalError("this is a fault of the router; tell your operator the request id")


def _unquote(text: bytes) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


_: type[Application] = Gateway
