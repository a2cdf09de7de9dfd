"""A store in memory, for tests: it keeps the contract and forgets everything at its end."""

import threading
from collections.abc import Iterator, Mapping

from llmrouter.contracts.store import Store, StoreError


class MemoryStore:
    """Keeps named bytes in a dict, which is never changed but replaced."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._closed = False
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryStore {'closed' if self._closed else len(self._values)}>"

    def get(self, name: str) -> bytes | None:
        return self._open().get(name)

    def put(self, name: str, value: bytes) -> None:
        self.write({name: value})

    def put_new(self, name: str, value: bytes) -> bool:
        with self._writing:
            if name in self._open():
                return False
            self._values = {**self._values, name: value}
            return True

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        with self._writing:
            changed = {**self._open(), **changes}
            self._values = {name: value for name, value in changed.items() if value is not None}

    def sync(self) -> None:
        self._open()

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter([item for item in self._open().items() if item[0].startswith(prefix)])

    def close(self) -> None:
        with self._writing:
            self._closed = True

    def _open(self) -> dict[str, bytes]:
        if self._closed:
            raise StoreError("the store in memory is closed; open another")
        return self._values


_: type[Store] = MemoryStore
