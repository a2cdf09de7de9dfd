"""What every store promises, held against each of them."""

import pkgutil
from collections.abc import Callable, Iterator
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


def test_a_closed_store_refuses_everything(store: Store) -> None:
    store.put("key/a", b"1")
    store.close()

    for operation in (
        lambda: store.get("key/a"),
        lambda: store.put("key/a", b"2"),
        lambda: store.put_new("key/b", b"2"),
        lambda: list(store.items("")),
    ):
        with pytest.raises(StoreError, match="is closed; open"):
            operation()
    store.close()


NAMES = st.sampled_from(["a", "a/", "a/b", "ab", "b", "é", "\U0010ffff"])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put_new"]), NAMES, st.binary(max_size=3)))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, prefix=NAMES)
def test_agrees_with_a_dict(store: Store, steps: list[tuple[str, str, bytes]], prefix: str) -> None:
    model = dict(store.items(""))
    for act, name, value in steps:
        if act == "put":
            store.put(name, value)
            model[name] = value
        else:
            assert store.put_new(name, value) is (name not in model)
            model.setdefault(name, value)

    assert {name: store.get(name) for name in model} == model
    assert dict(store.items(prefix)) == {
        name: value for name, value in model.items() if name.startswith(prefix)
    }
