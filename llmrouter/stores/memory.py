"""A store in memory, for tests: it keeps the contract and forgets everything at its end."""

from collections.abc import Iterator

from llmrouter.contracts.store import Store, StoreError


class MemoryStore:
    """Keeps named bytes in a dict."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore {'closed' if self._closed else len(self._values)}>"

    def get(self, name: str) -> bytes | None:
        return self._open().get(name)

    def put(self, name: str, value: bytes) -> None:
        self._open()[name] = value

    def put_new(self, name: str, value: bytes) -> bool:
        if name in self._open():
            return False
        self._values[name] = value
        return True

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter([item for item in self._open().items() if item[0].startswith(prefix)])

    def close(self) -> None:
        self._closed = True

    def _open(self) -> dict[str, bytes]:
        if self._closed:
            raise StoreError("the store in memory is closed; open another")
        return self._values


_: type[Store] = MemoryStore
