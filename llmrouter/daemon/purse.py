"""The quota side of a worker: what it may spend, what it has refused, and the way to the ledger.

What there is to say goes over the channel in one write a turn of the loop. Every SWEEP_EVERY_S what
no call needed goes back to the ledger, and denials that are new are told.
"""

import asyncio
from collections.abc import Callable

from llmrouter.config.schema import Settings
from llmrouter.daemon import build
from llmrouter.daemon.channel import Channel, Denied, Keys, Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.quota.denials import Denials
from llmrouter.quota.leases import Leases
from llmrouter.quota.messages import FromLedger

SWEEP_EVERY_S = 0.25
DENIALS_EVERY = 4
"""Counts of denials are told every so many sweeps; one that is new, with the next."""


class Purse:
    """The leases of one worker, and its denials."""

    def __init__(
        self,
        settings: Settings,
        start: Start,
        channel: Channel,
        flush_journal: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._channel = channel
        self._now_ms = SteadyClock(start.clock_offset_ms).now_ms
        self._rulebook = build.rulebook(settings, start.keys, start.rules)
        leases = Leases(self._rulebook, wake=self._wake, flush_journal=flush_journal)
        self.quota = build.Quota(leases, Denials())
        """What calls are admitted with."""
        self._sweeps = 0
        self._sweeping = self._loop.call_later(SWEEP_EVERY_S, self._sweep)

    def __repr__(self) -> str:
        return f"<Purse {self.quota.leases!r} {self.quota.denials!r}>"

    def apply(self, message: Keys) -> None:
        """Put the rules of changed keys in force."""
        self._rulebook.generation = message.rules
        build.apply_rules(self._rulebook, self._settings, message.keys)

    def hear(self, message: FromLedger) -> None:
        """The ledger has spoken."""
        self.quota.leases.hear(message, self._now_ms())

    def ledger_gone(self) -> None:
        """The supervisor has died: what is here is all that there is."""
        self.quota.leases.ledger_gone()

    def tell_denials(self) -> None:
        """Have the denials of late looked up by whoever asks for them."""
        if denials := self.quota.denials.take():
            self._channel.send(Denied(denials))

    def close(self) -> None:
        """Sweep no more."""
        self._sweeping.cancel()

    def _wake(self) -> None:
        self._loop.call_soon(self._speak)

    def _speak(self) -> None:
        """Send what there is for the ledger."""
        outbox = self.quota.leases.outbox
        self._channel.send(*outbox)
        outbox.clear()

    def _sweep(self) -> None:
        self._sweeping = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        self.quota.leases.sweep()
        self._sweeps += 1
        if self.quota.denials.has_new or self._sweeps % DENIALS_EVERY == 0:
            self.tell_denials()
