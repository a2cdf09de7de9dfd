"""The queues of those who wait at the desk: one at each bucket that has no room.

Who wants parts of several buckets stands in the queue of each that has none for it, and nowhere
else: where there is room, others pass meanwhile. Its place is that of its arrival wherever it
stands, so who has to change queues loses nothing, and who comes later never overtakes.

Deliberately absent: time, balances, and any decision.
"""

import bisect
from collections.abc import Iterable
from operator import attrgetter

from llmrouter.quota.messages import Take

_number = attrgetter("number")


class Pending:
    """A Take that has not been answered yet."""

    __slots__ = (
        "arrived_ms",
        "awaited",
        "deadline_ms",
        "holder",
        "number",
        "queues",
        "recalled_ms",
        "take",
    )

    def __init__(self, holder: str, take: Take, number: int, now_ms: int) -> None:
        self.holder = holder
        self.take = take
        self.number = number
        """Its place in the order of arrival."""
        self.arrived_ms = now_ms
        self.deadline_ms: int | None = None
        """Until when it waits; None while a recall is under way."""
        self.recalled_ms = now_ms
        """When the latest recall began."""
        self.awaited: set[tuple[int, str]] = set()
        """The recalls, by serial and worker, whose answers are still to come."""
        self.queues: list[str] = []
        """The buckets that it stands at; none once it is answered."""

    def __repr__(self) -> str:
        return f"<Pending {self.holder}/{self.take.id} at={self.queues} awaited={self.awaited}>"

    def least(self, bucket: str) -> int:
        """What it needs there."""
        return sum(ask.least for ask in self.take.asks if ask.bucket == bucket)


class Queues:
    """Who stands where."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Pending]] = {}
        """By bucket; never empty."""
        self._needed: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Queues { ({name: len(queue) for name, queue in self._queues.items()}) }>"

    def __contains__(self, bucket: str) -> bool:
        return bucket in self._queues

    def buckets(self) -> list[str]:
        """Where somebody stands."""
        return list(self._queues)

    def first(self, bucket: str) -> Pending | None:
        """Who is next there."""
        queue = self._queues.get(bucket)
        return None if queue is None else queue[0]

    def needed(self, bucket: str) -> int:
        """What all who stand there need."""
        return self._needed.get(bucket, 0)

    def is_behind(self, pending: Pending, bucket: str) -> bool:
        """Whether somebody stands there who came before."""
        queue = self._queues.get(bucket)
        return queue is not None and queue[0].number < pending.number

    def enter(self, pending: Pending, buckets: Iterable[str]) -> None:
        """It waits there, in its place."""
        for bucket in buckets:
            bisect.insort(self._queues.setdefault(bucket, []), pending, key=_number)
            self._needed[bucket] = self.needed(bucket) + pending.least(bucket)
            pending.queues.append(bucket)

    def leave(self, pending: Pending, buckets: Iterable[str]) -> None:
        """It waits there no more."""
        for bucket in list(buckets):
            queue = self._queues[bucket]
            del queue[bisect.bisect_left(queue, pending.number, key=_number)]
            self._needed[bucket] -= pending.least(bucket)
            pending.queues.remove(bucket)
            if not queue:
                del self._queues[bucket], self._needed[bucket]
