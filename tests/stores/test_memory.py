from llmrouter.stores.memory import MemoryStore


def test_two_stores_share_nothing() -> None:
    one, other = MemoryStore(), MemoryStore()
    one.put("a", b"1")

    assert other.get("a") is None


def test_repr_shows_the_state() -> None:
    store = MemoryStore()
    store.put("a", b"1")
    assert repr(store) == "<MemoryStore 1>"

    store.close()
    assert repr(store) == "<MemoryStore closed>"
