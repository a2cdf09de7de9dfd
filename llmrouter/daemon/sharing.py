"""A worker's part in conditions: what it sees of deployments the others hear, and it hears them.

What changes is told within the same turn of the loop, all of it in one message and each deployment
as it is by then: so however many calls fail at once, a turn costs one message. What is heard is not
told on; the supervisor does that.
"""

import asyncio
from collections.abc import Mapping

from llmrouter.daemon.channel import Channel, Probed, Start
from llmrouter.daemon.channel import Conditions as Told
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.conditions import Conditions


class Sharing:
    """Between the conditions of a worker and its channel."""

    __slots__ = ("_changed", "_channel", "_loop", "conditions")

    def __init__(self, terms: Mapping[str, BreakerTerms], start: Start, channel: Channel) -> None:
        """Begin where the others are, as `start` says; `terms` are by upstream."""
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._changed: dict[str, Condition] = {}
        self.conditions = Conditions(terms, now_s=self._loop.time(), on_change=self._on_change)
        """For the gateway to route by."""
        self.hear(Told(start.conditions))
        for upstream in start.down:
            self.hear(Probed(upstream, sound=False))

    def __repr__(self) -> str:
        return f"<Sharing untold={len(self._changed)}>"

    def hear(self, said: Told | Probed) -> None:
        """What the supervisor says."""
        match said:
            case Told(reports=reports):
                self.conditions.adopt(reports, self._loop.time())
            case Probed(upstream=upstream, sound=sound):
                self.conditions.set_sound(upstream, sound)

    def _on_change(self, condition: Condition) -> None:
        if not self._changed:
            self._loop.call_soon(self._tell)
        self._changed[condition.name] = condition

    def _tell(self) -> None:
        now_s = self._loop.time()
        changed = list(self._changed.values())
        self._changed.clear()
        self._channel.send(Told([condition.report(now_s) for condition in changed]))
