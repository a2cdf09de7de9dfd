"""Where keys (and later buckets) persist."""

from collections.abc import Iterator
from typing import Protocol


class StoreError(Exception):
    """The store cannot be read or written; the message says where, why and what to do."""


class Store(Protocol):
    """A map of text names to bytes, as durable as the store is.

    Names are `/`-separated, the kind first (`key/Ab12…`). Each method is one atomic operation: when
    it returns, what it wrote survives the end of the process, and of the machine where the store is
    a disk's. Every method raises StoreError when the store cannot be read or written, also after
    `close`; nothing of the failed operation is then stored.
    """

    def get(self, name: str) -> bytes | None:
        """The value under `name`, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Store `value` under `name`, replacing what was there."""

    def put_new(self, name: str, value: bytes) -> bool:
        """Store `value` unless `name` is taken; False, and nothing written, if it is."""

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every pair whose name starts with `prefix`, each once, in no order.

        The store may be written while they are read: what is there throughout is found.
        """

    def close(self) -> None:
        """Give back files and connections; closing again does nothing."""
