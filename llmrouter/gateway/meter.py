"""What a call used and how it ended, written to the journal: once begun, always ended, once."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from llmrouter.contracts.call import Call, Usage
from llmrouter.errors import RouterError, Source, UpstreamTimeout
from llmrouter.gateway.drain import has_left
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.spending import Spending
from llmrouter.metering.journal import Journal
from llmrouter.metering.records import NO_USAGE, Begin, End, Hold


class Meter:
    """Follows one call; `with` ends it, however it ends."""

    __slots__ = (
        "_begun",
        "_clock",
        "_exchange",
        "_first_byte_at",
        "_is_recorded",
        "_journal",
        "_now_ms",
        "_seq",
        "attempts",
        "gave_nothing",
        "has_passed",
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
        exchange: Exchange,
        spending: Spending,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._exchange = exchange
        self.spending = spending
        """What it holds, and what its end is charged to."""
        self._clock = clock
        self._now_ms = now_ms
        self._begun = False
        self._is_recorded = True
        self._seq = 0
        self._first_byte_at = 0.0
        self.attempts = 1
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
        """Have the call's begin written; `then` sends its first upstream byte."""
        exchange = self._exchange
        principal = exchange.principal
        assert principal is not None
        self._seq = self._journal.next_seq()
        self.streams = call.stream
        spending = self.spending
        reservation = spending.reservation
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
            hold_tokens=reservation.tokens,
            hold_nano_usd=reservation.nano_usd,
            rules=reservation.rules,
        )
        self._journal.begin(record, then, failed)
        self._begun = True

    def extended(self) -> None:
        """The hold has grown: who dies now is charged with that."""
        if self._is_recorded:
            reservation = self.spending.reservation
            self._journal.hold(
                Hold(seq=self._seq, tokens=reservation.tokens, nano_usd=reservation.nano_usd)
            )

    def never_begun(self) -> None:
        """The journal could not take the begin, so there is nothing to end."""
        self._begun = False

    def unrecorded(self) -> None:
        """The journal could not take the begin, but the call goes on: it is settled all the same.

        What it used is known to this worker alone: its leases have so much less until it ends.
        """
        self._is_recorded = False

    def first_byte(self) -> None:
        """The answer has begun to arrive."""
        self._first_byte_at = self._clock()

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
            self.gave_nothing = True
            self._journal.flush()  # so that it is known whether its begin is in the file
        if not self._begun:
            return
        if error is not None:
            self._note_failure(error)
        usage, estimated = self._used()
        whole = self.outcome == "ok"
        cost = self.spending.settle(usage, estimated=estimated, whole=whole)
        if self._is_recorded:
            self._end(usage, cost, estimated=estimated)

    def _end(self, usage: Usage, cost_nano_usd: int | None, *, estimated: bool) -> None:
        """Have the call's end written."""
        exchange, now = self._exchange, self._clock()
        first_at = self._first_byte_at
        refusal = exchange.error
        self._journal.end(
            End(
                seq=self._seq,
                at_ms=self._now_ms(),
                request_id=exchange.request_id,
                status=exchange.status or (refusal.status if refusal else 0),
                outcome=self.outcome,
                error_code=refusal.code if refusal else None,
                attempts=self.attempts,
                usage=usage,
                estimated=estimated,
                cost_nano_usd=cost_nano_usd,
                price=self.spending.price_text,
                ttft_ms=int((first_at - exchange.arrived_at) * 1000) if first_at else None,
                duration_ms=int((now - exchange.arrived_at) * 1000),
            )
        )
