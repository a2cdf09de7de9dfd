"""What every store promises, held against each of them."""

import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmrouter.stores
from llmrouter.contracts.store import Store, StoreError
from llmrouter.stores.diskcache import DiskcacheStore
from llmrouter.stores.memory import MemoryStore

STORES: dict[str, Callable[[Path], Store]] = {
    "diskcache": lambda path: DiskcacheStore.create(path / "store"),
    "memory": lambda path: MemoryStore(),
}


def test_every_store_is_covered_here() -> None:
    assert {module.name for module in pkgutil.iter_modules(llmrouter.stores.__path__)} == set(
        STORES
    )


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


def test_a_name_that_was_never_put_has_no_value(store: Store) -> None:
    assert store.get("key/a") is None


@pytest.mark.parametrize("value", [b"", b"x", b"\x00\xff" * 100, b"\x80\x04N.", b"m" * 2_000_000])
def test_what_was_put_is_got(store: Store, value: bytes) -> None:
    store.put("key/a", value)

    assert store.get("key/a") == value
    assert type(store.get("key/a")) is bytes


def test_put_replaces(store: Store) -> None:
    store.put("key/a", b"1")
    store.put("key/a", b"2")

    assert store.get("key/a") == b"2"
    assert list(store.items("")) == [("key/a", b"2")]


def test_put_new_takes_a_free_name_only(store: Store) -> None:
    assert store.put_new("key/a", b"1")
    assert not store.put_new("key/a", b"2")

    assert store.get("key/a") == b"1"


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("", {"bucket/a", "key/a", "key/b", "key/é", "key0", "kez/a"}),
        ("key/", {"key/a", "key/b", "key/é"}),
        ("key/a", {"key/a"}),
        ("key", {"key/a", "key/b", "key/é", "key0"}),
        ("nothing/", set()),
        ("zzz", set()),
        ("k%y_", set()),
    ],
)
def test_items_are_those_under_the_prefix(store: Store, prefix: str, found: set[str]) -> None:
    for name in ("bucket/a", "key/a", "key/b", "key/é", "key0", "kez/a"):
        store.put(name, name.encode())

    assert dict(store.items(prefix)) == {name: name.encode() for name in found}


def test_a_store_of_many_names_is_listed_whole(store: Store) -> None:
    names = {f"key/{number:04}" for number in range(450)}
    for name in names:
        store.put(name, b"v")

    listed = [name for name, _ in store.items("key/")]

    assert len(listed) == len(names)
    assert set(listed) == names


def test_the_store_may_be_written_while_it_is_listed(store: Store) -> None:
    names = {f"key/{number:04}" for number in range(250)}
    for name in names:
        store.put(name, b"old")

    seen = []
    for name, _ in store.items("key/"):
        seen.append(name)
        store.put(name, b"new")

    assert sorted(seen) == sorted(names)
    assert {value for _, value in store.items("key/")} == {b"new"}


def test_what_is_written_at_once_is_there_and_what_has_none_is_gone(store: Store) -> None:
    store.put("a/1", b"old")
    store.put("a/2", b"old")
    store.put("a/3", b"old")

    store.write({"a/1": b"new", "a/2": None, "a/4": b"", "a/5": None})

    assert dict(store.items("")) == {"a/1": b"new", "a/3": b"old", "a/4": b""}
    assert store.put_new("a/2", b"again")


def test_a_sync_changes_nothing(store: Store) -> None:
    store.write({"a": b"1"})

    store.sync()

    assert dict(store.items("")) == {"a": b"1"}


def test_no_changes_are_none(store: Store) -> None:
    store.put("a", b"1")

    store.write({})

    assert dict(store.items("")) == {"a": b"1"}


def test_what_was_written_at_once_can_be_replaced_one_by_one(store: Store) -> None:
    store.write({"a": b"1", "b": b"1"})

    store.put("a", b"2")
    assert not store.put_new("b", b"2")
    store.write({"a": None})

    assert (store.get("a"), store.get("b")) == (None, b"1")


class Halting(Mapping[str, bytes | None]):
    """Changes of which the second is known only when `go_on` is set; it may be a failure."""

    def __init__(self, second: bytes | Exception) -> None:
        self._second = second
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __getitem__(self, name: str) -> bytes | None:
        if name == "a":
            return b"new"
        self.reached.set()
        assert self.go_on.wait(10)
        if isinstance(self._second, Exception):
            raise self._second
        return self._second

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "b"))

    def __len__(self) -> int:
        return 2


def test_a_write_that_fails_half_way_stores_nothing(store: Store) -> None:
    store.put("a", b"old")
    changes = Halting(ZeroDivisionError())
    changes.go_on.set()

    with pytest.raises(ZeroDivisionError):
        store.write(changes)

    assert dict(store.items("")) == {"a": b"old"}
    store.write({"b": b"1"})
    assert store.get("b") == b"1"


def test_a_read_does_not_wait_for_the_write_of_another_thread(store: Store) -> None:
    store.put("a", b"old")
    changes = Halting(b"new")
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(store.write, changes)
        assert changes.reached.wait(10)
        assert (store.get("a"), list(store.items(""))) == (b"old", [("a", b"old")])
        changes.go_on.set()
        writing.result(10)

    assert dict(store.items("")) == {"a": b"new", "b": b"new"}


def test_closing_waits_for_what_another_thread_has_under_way(store: Store) -> None:
    changes = Halting(b"new")
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(store.write, changes)
        assert changes.reached.wait(10)
        closing = threads.submit(store.close)
        with pytest.raises(TimeoutError):
            closing.result(0.05)
        changes.go_on.set()
        writing.result(10)
        closing.result(10)

    with pytest.raises(StoreError, match="is closed; open"):
        store.get("a")


def test_threads_lose_nothing_of_each_other(store: Store) -> None:
    def write(thread: str) -> None:
        for number in range(30):
            match number % 3:
                case 0:
                    store.write({f"{thread}/{number}": b"v", "shared": thread.encode()})
                case 1:
                    store.put(f"{thread}/{number}", b"v")
                case _:
                    assert store.put_new(f"{thread}/{number}", b"v")

    with ThreadPoolExecutor(3) as threads:
        for written in [threads.submit(write, name) for name in "abc"]:
            written.result(30)

    expected = {f"{thread}/{number}" for thread in "abc" for number in range(30)}
    assert {name for name, _ in store.items("")} == {*expected, "shared"}


def test_what_is_there_throughout_is_found_beside_the_writes_of_another_thread(
    store: Store,
) -> None:
    names = {f"key/{number:04}": b"v" for number in range(0, 500, 2)}
    store.write(names)
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            store.write({f"key/{number:04}": b"w" for number in range(1, 500, 2)})
            store.write({f"key/{number:04}": None for number in range(1, 500, 2)})

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        try:
            for _ in range(10):
                listed = [name for name, _ in store.items("key/")]
                assert len(listed) == len(set(listed))
                assert names.keys() <= set(listed)
        finally:
            enough.set()
        writing.result(30)


def test_a_closed_store_refuses_everything(store: Store) -> None:
    store.put("key/a", b"1")
    store.close()

    for operation in (
        lambda: store.get("key/a"),
        lambda: store.put("key/a", b"2"),
        lambda: store.put_new("key/b", b"2"),
        lambda: store.write({"key/a": b"2"}),
        lambda: store.write({}),
        lambda: list(store.items("")),
    ):
        with pytest.raises(StoreError, match="is closed; open"):
            operation()
    store.close()


NAMES = st.sampled_from(["a", "a/", "a/b", "ab", "b", "é", "\U0010ffff"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put_new"]), NAMES, st.binary(max_size=3))
    | st.dictionaries(NAMES, st.none() | st.binary(max_size=3))
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, prefix=NAMES)
def test_agrees_with_a_dict(
    store: Store, steps: list[tuple[str, str, bytes] | dict[str, bytes | None]], prefix: str
) -> None:
    model: dict[str, bytes | None] = dict(store.items(""))
    for step in steps:
        match step:
            case dict():
                store.write(step)
                model.update(step)
            case "put", name, value:
                store.put(name, value)
                model[name] = value
            case _, name, value:
                assert store.put_new(name, value) is (model.get(name) is None)
                if model.get(name) is None:
                    model[name] = value

    assert {name: store.get(name) for name in model} == model
    assert dict(store.items(prefix)) == {
        name: value
        for name, value in model.items()
        if name.startswith(prefix) and value is not None
    }
