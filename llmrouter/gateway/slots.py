"""The places that an upstream has for our calls, over all workers of the node.

They are a bucket like any other: a worker has leases of it, and the ledger the rest, so that
together they never hold more calls at an upstream than it may have.
"""

from llmrouter.gateway.room import Room
from llmrouter.quota.leases import Account, Refusal
from llmrouter.quota.reservation import Reservation

_ONE = (0, 0, 0, 1, 0)


class Slots:
    """The places at one upstream; each is given back by `release`."""

    __slots__ = ("_account", "_room")

    def __init__(self, room: Room, account: Account) -> None:
        self._room = room
        self._account = account

    def __repr__(self) -> str:
        return f"<Slots {self._account.gating}>"

    def take_here(self) -> Reservation | None:
        """A place that this worker has; None if the ledger has to be asked."""
        return self._room.take_here(self._account, _ONE)

    async def take(self, *, waits: bool) -> Reservation | None:
        """A place, waited for in order if `waits`; None if none came free.

        Raises Draining, Overloaded.
        """
        found = await self._room.take(self._account, _ONE, at_once=not waits, asks=waits)
        return None if isinstance(found, Refusal) else found
