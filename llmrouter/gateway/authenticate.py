"""First step: who is calling. Nothing is read, held or sent for anybody unknown."""

from collections.abc import Callable

from llmrouter.access.keyring import Keyring
from llmrouter.errors import MissingKey
from llmrouter.gateway.exchange import Exchange

CONFIRM_AFTER_S = 1.0
"""Keys expire by the second; any other change of a key is noticed at once."""


class Authenticator:
    """Turns what a request presents into a principal; no I/O."""

    def __init__(
        self, keyring: Keyring, wall: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._keyring = keyring
        self._wall = wall
        self._clock = clock

    def authenticate(self, exchange: Exchange) -> None:
        """Set its principal; raises MissingKey, InvalidKey, ExpiredKey, RevokedKey."""
        text = exchange.dialect.presented_key(exchange.request.headers)
        if not text:
            raise MissingKey("no key was sent; send `Authorization: Bearer <key>`")
        exchange.principal = self._keyring.authenticate(text, self._wall())
        exchange.authenticated_at = self._clock()
        exchange.keyring_changes = self._keyring.changes

    def still_knows(self, since_s: float, changes: int, now_s: float) -> bool:
        """Whether a key that was authenticated then, after so many changes, needs no new look."""
        return changes == self._keyring.changes and now_s - since_s < CONFIRM_AFTER_S

    def confirm(self, exchange: Exchange) -> None:
        """Make sure that its key has not ended while it waited for its turn, or for its body."""
        since_s, changes = exchange.authenticated_at, exchange.keyring_changes
        if not self.still_knows(since_s, changes, self._clock()):
            self.authenticate(exchange)
