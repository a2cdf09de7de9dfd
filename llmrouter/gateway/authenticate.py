"""First step: who is calling. Nothing is read, held or sent for anybody unknown."""

from collections.abc import Callable

from llmrouter.access.keyring import Keyring
from llmrouter.access.principal import Principal
from llmrouter.errors import MissingKey
from llmrouter.gateway.exchange import Exchange


class Authenticator:
    """Turns what a request presents into a principal; no I/O."""

    def __init__(self, keyring: Keyring, wall: Callable[[], float]) -> None:
        self._keyring = keyring
        self._wall = wall

    def authenticate(self, exchange: Exchange) -> Principal:
        """Raises MissingKey, InvalidKey, ExpiredKey, RevokedKey."""
        text = exchange.dialect.presented_key(exchange.request.headers)
        if not text:
            raise MissingKey("no key was sent; send `Authorization: Bearer <key>`")
        return self._keyring.authenticate(text, self._wall())
