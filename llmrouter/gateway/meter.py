"""What a call used and how it ended, written to the journal: once begun, always ended, once.

A call may take several attempts. The one that answered, or failed last, is the call's own; what
each of the others used is said beside it. Where another model took over, a record of that model
stands for the call, and this one says so.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol

import msgspec

from llmrouter.contracts.call import Call, Usage
from llmrouter.errors import RouterError, Source, UpstreamTimeout
from llmrouter.gateway.drain import has_left
from llmrouter.gateway.exchange import Exchange, upstream_of
from llmrouter.gateway.spending import Spending
from llmrouter.gateway.unrecorded import Unrecorded
from llmrouter.metering.journal import Journal
from llmrouter.metering.records import NO_USAGE, Attempt, Begin, End, Hold


class PassedOver(Protocol):
    """An attempt that did not answer."""

    @property
    def was_made(self) -> bool:
        """Its upstream was tried."""

    @property
    def model(self) -> str:
        """The model's name there."""

    def record(self) -> Attempt:
        """What there is to say of it, without its cost."""


class Meter:
    """Follows one call; `with` ends it, however it ends."""

    __slots__ = (
        "_before",
        "_begun",
        "_charged",
        "_clock",
        "_deployment",
        "_ended_at",
        "_exchange",
        "_failed_by",
        "_first_byte_at",
        "_is_pending",
        "_is_recorded",
        "_journal",
        "_now_ms",
        "_others",
        "_seq",
        "_unrecorded",
        "attempts",
        "gave_nothing",
        "has_passed",
        "instead_of",
        "is_sent",
        "is_whole",
        "outcome",
        "spending",
        "streams",
        "usage",
    )

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        unrecorded: Unrecorded | None,
        exchange: Exchange,
        spending: Spending,
    ) -> None:
        """What is the same for all calls comes first."""
        self._journal = journal
        self._exchange = exchange
        self.spending = spending
        """What it holds, and what its end is charged to."""
        self._clock = clock
        self._now_ms = now_ms
        self._unrecorded = unrecorded
        """Where calls are served although the journal cannot take their begin."""
        self._begun = False
        self._is_recorded = True
        self._seq = 0
        self._first_byte_at = 0.0
        self._deployment = ""
        """Where it began."""
        self._others: tuple[Attempt, ...] = ()
        self._charged: tuple[Usage, bool, int | None] | None = None
        """What it was settled at, once it was: usage, whether that is estimated, and cost."""
        self.attempts = 1
        """With those at the models that it takes over from."""
        self.instead_of: tuple[str, ...] = ()
        """The models that it takes over from."""
        self._before: Meter | None = None
        """Of the model that it takes over from; its record ends once there is one of this."""
        self._failed_by: RouterError | None = None
        self._ended_at = ""
        """The deployment that failed last."""
        self._is_pending = False
        self.is_sent = False
        """Its first byte has left for upstream."""
        self.gave_nothing = False
        """The upstream refused it, or broke off before it had said anything."""
        self.streams = False
        """Whether the answer is a stream; until it has begun, whether one was asked for."""
        self.has_passed = False
        """Whether part of a plain answer has gone to the caller before it was whole."""
        self.is_whole = False
        """The end of a stream has come, whoever was there to hear it."""
        self.usage: Usage | None = None
        """What the upstream said was used."""
        self.outcome = "ok"

    def begin(
        self, call: Call, then: Callable[[], None], failed: Callable[[OSError], None]
    ) -> None:
        """Have the call's begin written, if it is not yet; `then` sends an attempt's first byte.

        `failed` is told where it cannot be written, and the call must not be sent.
        """
        if self._begun:
            then()
            return
        exchange = self._exchange
        principal = exchange.principal
        assert principal is not None
        self._seq = self._journal.next_seq()
        self.streams = call.stream
        self._deployment = exchange.deployment
        spending = self.spending
        hold_tokens, hold_nano_usd = spending.held
        record = Begin(
            seq=self._seq,
            at_ms=spending.admitted_ms,
            request_id=exchange.request_id,
            org=principal.org,
            team=principal.team,
            user=principal.user,
            key_id=principal.key_id,
            model=exchange.model,
            deployment=exchange.deployment,
            upstream=exchange.upstream_name,
            dialect=exchange.dialect.name,
            operation=call.operation,
            stream=call.stream,
            hold_tokens=hold_tokens,
            hold_nano_usd=hold_nano_usd,
            rules=spending.reservation.rules,
            instead_of=self.instead_of,
        )
        written = then if self._before is None else partial(self._stands_for_call, then)
        self._journal.begin(record, written, partial(self._not_recorded, then, failed))
        self._begun = True

    @property
    def has_begun(self) -> bool:
        """There is a record of it: it was sent, or is about to be."""
        return self._begun

    @property
    def is_settled(self) -> bool:
        """What it used is charged, though its record may end later."""
        return self._charged is not None

    def extended(self) -> None:
        """The hold has grown: who dies now is charged with that."""
        if self._is_recorded and self._begun:
            tokens, nano_usd = self.spending.held
            self._journal.hold(Hold(seq=self._seq, tokens=tokens, nano_usd=nano_usd))

    def held_again(self) -> None:
        """The same before another attempt is sent: it is in the file when this returns."""
        self.extended()
        self._journal.flush()

    def _stands_for_call(self, then: Callable[[], None]) -> None:
        """Its begin is written: from now on its record stands for the call, and no other."""
        self._end_before(replaced=True)
        then()

    def _end_before(self, *, replaced: bool) -> None:
        before, self._before = self._before, None
        if before is not None:
            before.finish(replaced=replaced)

    def _not_recorded(
        self, then: Callable[[], None], failed: Callable[[OSError], None], error: OSError
    ) -> None:
        """The journal could not take the begin.

        If the call goes on, it is settled all the same. What it used is known to this worker alone:
        its leases have so much less until it ends.
        """
        if self._unrecorded is None:
            self._begun = False
            failed(error)
        else:
            self._unrecorded.note(error)
            self._is_recorded = False
            then()

    def sent(self) -> None:
        """The first byte of an attempt leaves for upstream."""
        self.is_sent, self.gave_nothing = True, False

    def first_byte(self) -> None:
        """The answer has begun to arrive."""
        self._first_byte_at = self._clock()

    def passed_over(self, attempt: PassedOver) -> None:
        """An attempt did not answer, and another one may."""
        if not attempt.was_made:
            return
        record = attempt.record()
        cost, price = self.spending.also_used(record.upstream, attempt.model, record.usage)
        priced = msgspec.structs.replace(record, cost_nano_usd=cost, price=price)
        self._others = (*self._others, priced)
        self.attempts += 1

    def settle_failed(self, error: RouterError, usage: Usage, *, estimated: bool) -> None:
        """No deployment of this model answers: what the call holds of its limits is given back.

        Its last attempt has used this. Its record ends later, when it is known whether another
        model takes over: by `finish`, or with this.
        """
        if not self._begun:
            self.spending.release()
            return
        self.outcome = "upstream_error"
        self._failed_by = error
        cost = self.spending.settle(usage, estimated=estimated, whole=False)
        self._charged = usage, estimated, cost
        self._ended_at = self._exchange.deployment

    def hand_over(self) -> "Meter | None":
        """The meter whose record is still to end if another model takes over, if there is one."""
        if self._begun and self._is_recorded:
            self._is_pending = True
            return self
        before, self._before = self._before, None
        return before

    def take_over(self, models: tuple[str, ...], attempts: int, before: "Meter | None") -> None:
        """It takes over from these models, after so many attempts; `before` is still to end."""
        self.instead_of = models
        self.attempts += attempts
        self._before = before

    def finish(self, *, replaced: bool) -> None:
        """Another model has taken over, or none could: have the record end.

        Not before the begin of that one is written, lest the call be in no record if we die.
        """
        assert self._charged is not None
        if self._is_recorded:
            self._end(*self._charged, replaced=replaced)

    def _note_failure(self, error: BaseException) -> None:
        self.outcome = "router_error"
        if isinstance(error, asyncio.CancelledError):
            if has_left(error):
                self.outcome = "client_gone"
        elif isinstance(error, RouterError):
            self._exchange.error = error
            if error.source is Source.UPSTREAM:
                self.outcome = "upstream_error"

    def _used(self) -> tuple[Usage, bool]:
        """What the call is charged with, and whether that is our own count."""
        usage = self.usage
        spending = self.spending
        if usage is not None:
            if self.outcome == "ok" or self.is_whole or not self.streams:
                return usage, False
            used = spending.passed_since(usage)
            return used, used is not usage
        was_silent = isinstance(self._exchange.error, UpstreamTimeout)
        refused = self.outcome == "upstream_error" and not was_silent
        if self.gave_nothing or (refused and not (spending.events or self.has_passed)):
            return NO_USAGE, True  # it refused, or broke off before it had said anything
        return spending.passed(stream=self.streams), True

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._begun and not self.is_sent:
            self._journal.flush()  # so that it is known whether its begin is in the file
            self.gave_nothing = True
        if self._is_pending:
            return
        if not self._begun:
            if error is not None:
                self._note_failure(error)
            self._end_before(replaced=False)
            return
        if error is not None:
            self._note_failure(error)
        if self._charged is None:
            usage, estimated = self._used()
            whole = self.outcome == "ok"
            cost = self.spending.settle(usage, estimated=estimated, whole=whole)
            self._charged = usage, estimated, cost
        self._end_before(replaced=False)  # if this has no record that could stand for the call
        if self._is_recorded:
            usage, estimated, cost = self._charged  # a starred call costs 1,700 instructions more
            self._end(usage, estimated, cost, replaced=False)

    def _end(
        self, usage: Usage, estimated: bool, cost_nano_usd: int | None, *, replaced: bool
    ) -> None:
        """Have the call's end written."""
        exchange, now = self._exchange, self._clock()
        first_at = self._first_byte_at
        refusal = self._failed_by if replaced else exchange.error
        ended_at = self._ended_at or exchange.deployment
        has_moved = ended_at != self._deployment
        self._journal.end(
            End(
                seq=self._seq,
                at_ms=self._now_ms(),
                request_id=exchange.request_id,
                status=0 if replaced else exchange.status or (refusal.status if refusal else 0),
                outcome=self.outcome,
                error_code=refusal.code if refusal else None,
                deployment=ended_at if has_moved else None,
                upstream=upstream_of(ended_at) if has_moved else None,
                attempts=self.attempts,
                usage=usage,
                estimated=estimated,
                cost_nano_usd=cost_nano_usd,
                price=self.spending.price_text,
                ttft_ms=int((first_at - exchange.arrived_at) * 1000) if first_at else None,
                duration_ms=int((now - exchange.arrived_at) * 1000),
                others=self._others,
                replaced=replaced,
            )
        )
