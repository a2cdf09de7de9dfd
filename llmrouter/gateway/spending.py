"""What one call holds and spends: the reservation behind it, and the arithmetic of its end.

A call holds what it is foreseen to use. A stream that passes more than that extends its hold by
slices. At its end it is charged with what the upstream reported, else with what passed:

    reported by the upstream              that; of a stream that was left or cut after it, no less
                                          than the events that passed
    a stream without a report             the prompt as estimated, and the events that passed, but
                                          no more output than the call allows itself
    a plain answer without a report, cut  the prompt as estimated, and the output that was foreseen
    while it passed, or not waited for
    either of them under a strict budget  the most that it can have had: what is generated and not
                                          yet sent, or never shown, is billed as well
    refused by the upstream, or broken    nothing
    off before anything passed
"""

from collections.abc import Callable
from types import TracebackType
from typing import Final

import msgspec

from llmrouter.contracts.call import Usage
from llmrouter.errors import RouterError
from llmrouter.gateway.needs import Need
from llmrouter.gateway.room import Room
from llmrouter.metering import costs
from llmrouter.metering.prices import Price, PriceBook
from llmrouter.quota.estimate import SLICE, Estimator
from llmrouter.quota.leases import Refusal
from llmrouter.quota.reservation import Reservation
from llmrouter.routing.routes import Route

FRAME_EVENTS: Final = 8
"""So many events of a stream carry no token: its beginning, its end, its usage."""
NEAR: Final = 16
"""An estimate that is off by less than one part in so many teaches nothing new."""


class Flight:
    """What the calls of one worker share."""

    __slots__ = ("calls", "estimator", "now_ms", "prices")

    def __init__(self, estimator: Estimator, prices: PriceBook, now_ms: Callable[[], int]) -> None:
        self.calls = 0
        """How many are in flight."""
        self.prices = prices
        self.estimator = estimator
        self.now_ms = now_ms


class Spending:
    """The hold of one call; given back when its `with` ends, if nothing was settled by then."""

    __slots__ = (
        "_flight",
        "_more",
        "_need",
        "_others",
        "_price",
        "admitted_ms",
        "events",
        "events_held",
        "on_extended",
        "reservation",
        "route",
    )

    def __init__(
        self, flight: Flight, reservation: Reservation, route: Route, need: Need, admitted_ms: int
    ) -> None:
        self._flight = flight
        self.admitted_ms = admitted_ms
        """When it was admitted, Unix time."""
        self._need = need
        self._price: Price | None = None
        self._more: tuple[Reservation, ...] = ()
        """What is held for further attempts."""
        self._others = (0, 0)
        """Tokens and money that attempts used which did not answer."""
        self.route = route
        """What serves the call."""
        self.reservation = reservation
        self.events = 0
        """Events with data that have passed; told when more is to be held, and at the end."""
        self.events_held = 0
        """For so many the hold suffices; 0 until the first has passed."""
        self.on_extended: Callable[[], None] | None = None
        """Called whenever more is held than before."""

    def __repr__(self) -> str:
        return f"<Spending {self.reservation!r} events={self.events}>"

    def now_ms(self) -> int:
        """Unix time."""
        return self._flight.now_ms()

    def __enter__(self) -> None:
        self._flight.calls += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._flight.calls -= 1
        if self.reservation.is_open:
            self.release()

    def release(self) -> None:
        """Give back what is held, if nothing was settled: nothing was sent, so nothing counts."""
        for more in self._more:
            more.settle(0, 0)
        self.reservation.release()

    def served_at(self, upstream: str, model: str) -> None:
        """The deployment that serves it is known; it was held at the price of the dearest."""
        self._price = self._price_at(upstream, model)

    def _price_at(self, upstream: str, model: str) -> Price | None:
        return self._flight.prices.price(self.route.name, upstream, model)

    @property
    def held(self) -> tuple[int, int]:
        """Tokens and nano-USD that are held, for all its attempts together."""
        tokens, nano_usd = self.reservation.tokens, self.reservation.nano_usd
        for more in self._more:
            tokens += more.tokens
            nano_usd += more.nano_usd
        return tokens, nano_usd

    async def hold_again(self, room: Room) -> bool:
        """Hold as much once more, for an attempt beside or after one that may be billed.

        False where there is no room for it now, or it cannot be asked for.
        """
        try:
            found = await room.take(
                self.reservation.account, self.reservation.again(), at_once=True
            )
        except RouterError:
            return False
        if isinstance(found, Refusal):
            return False
        self._more = (*self._more, found)
        return True

    def also_used(self, upstream: str, model: str, usage: Usage) -> tuple[int | None, str | None]:
        """An attempt that did not answer used this; its cost in nano-USD, and by which price."""
        price = self._price_at(upstream, model)
        cost = _cost(usage, price)
        tokens, nano_usd = self._others
        self._others = (
            tokens + usage.prompt_tokens + usage.output_tokens,
            nano_usd + (cost or 0),
        )
        return cost, None if price is None else price.text

    @property
    def price_text(self) -> str | None:
        """The price that its cost is worked out by, for people to read; None where there is none.

        Where the upstream itself says what a call without a price cost, that is the cost.
        """
        return None if self._price is None else self._price.text

    # ---- while a stream runs ----------------------------------------------------------------

    def extend(self, cut: Callable[[Refusal], None]) -> None:
        """More events have passed than are held: hold a slice more, or have the stream cut."""
        need, estimator = self._need, self._flight.estimator
        if not self.events_held:
            self.events_held = estimator.events(need.who.model, need.output_tokens)
        if self.events <= self.events_held:
            return
        slice_tokens = estimator.passed_tokens(need.who.model, SLICE)  # in that many events
        per_slice = max(1, SLICE * SLICE // max(1, slice_tokens))
        slices = 1 + (self.events - self.events_held) // per_slice
        self.events_held += slices * per_slice
        tokens = slices * SLICE
        price = self._price
        nano_usd = 0
        if price is not None:  # output costs more behind a long prompt
            prompt = need.prompt_tokens
            nano_usd = costs.estimate(price, prompt, tokens) - costs.estimate(price, prompt, 0)
        self.reservation.extend(tokens, nano_usd, cut, self._flight.now_ms())
        if self.on_extended is not None:
            self.on_extended()

    # ---- at the end -------------------------------------------------------------------------

    def settle(self, usage: Usage, *, estimated: bool, whole: bool) -> int | None:
        """Charge what was used; the cost in nano-USD, None where there is no price."""
        cost = _cost(usage, self._price)
        tokens, nano_usd = self._others
        tokens += usage.prompt_tokens + usage.output_tokens
        nano_usd += cost or 0
        for more in self._more:
            # Each takes its part: what one gives back before another takes may go elsewhere.
            part = min(tokens, more.tokens), min(nano_usd, more.nano_usd)
            more.settle(*part)
            tokens, nano_usd = tokens - part[0], nano_usd - part[1]
        self.reservation.settle(tokens, nano_usd)
        if not estimated:
            self._learn(usage, whole=whole)
        return cost

    def passed(self, *, stream: bool) -> Usage:
        """What was used as far as we can tell, where the upstream does not say."""
        need = self._need
        if need.is_strict or not stream:
            return Usage(prompt_tokens=need.prompt_most, output_tokens=need.output_most)
        return Usage(prompt_tokens=need.prompt_tokens, output_tokens=self._output_passed())

    def passed_since(self, usage: Usage) -> Usage:
        """What was used by a stream that broke off after it had reported `usage`.

        Some servers report with every event, or first of all: what passed since was used, too.
        """
        output = self._output_passed()
        if usage.output_tokens + FRAME_EVENTS >= output:
            return usage
        return msgspec.structs.replace(usage, output_tokens=output)

    def _output_passed(self) -> int:
        need = self._need
        output = self._flight.estimator.passed_tokens(need.who.model, self.events)
        most = need.output_max
        return output if most is None or output < most else most

    def _learn(self, usage: Usage, *, whole: bool) -> None:
        need, estimator = self._need, self._flight.estimator
        who, said = need.who, usage.prompt_tokens
        if abs(said - need.prompt_tokens) > said // NEAR:
            estimator.learn_prompt(who.model, need.body_bytes, said)
        if whole:
            estimator.learn_output(who.key_id, who.model, usage.output_tokens)
            # Reasoning that was not shown is in no event: most of that would teach nonsense.
            if self.events and usage.reasoning_tokens * 2 <= usage.output_tokens:
                estimator.learn_events(who.model, self.events, usage.output_tokens)


def _cost(usage: Usage, price: Price | None) -> int | None:
    """In nano-USD; what an upstream itself says counts where we have no price."""
    return usage.cost_nano_usd if price is None else costs.cost(price, usage)
