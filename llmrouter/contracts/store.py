"""Where keys, buckets and events persist."""

from collections.abc import Iterator, Mapping
from typing import Protocol


class StoreError(Exception):
    """The store cannot be read or written; the message says where, why and what to do."""


class Store(Protocol):
    """A map of text names to bytes, as durable as the store is.

    Names are `/`-separated, the kind first (`key/Ab12…`). Each method is one atomic operation: when
    it returns, what it wrote survives the end of the process, and, where the store is a disk's and
    it was not `write`, of the machine. Every method raises StoreError when the store cannot be read
    or written, also after `close`; nothing of the failed operation is then stored.

    Any thread may call them; a read never waits for another thread's write.
    """

    def get(self, name: str) -> bytes | None:
        """The value under `name`, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Store `value` under `name`, replacing what was there."""

    def put_new(self, name: str, value: bytes) -> bool:
        """Store `value` unless `name` is taken; False, and nothing written, if it is."""

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Store every value under its name and delete the names that have None: all, or nothing.

        It may be called many times a second: the end of the machine may take the latest of these,
        each as a whole, and none without all that were written after it. Whatever else is stored
        later, and `sync`, keeps them.

        To delete what is not there is no failure. Nothing is read and nothing depends on what is
        stored, so that a store across a network sends it as one batch (MULTI … EXEC).
        """

    def sync(self) -> None:
        """Have all that was written survive the end of the machine."""

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every pair whose name starts with `prefix`, each once, in no order.

        The store may be written while they are read: what is there throughout is found.
        """

    def close(self) -> None:
        """Give back files and connections, those of all threads; closing again does nothing.

        It waits for what other threads have under way.
        """
