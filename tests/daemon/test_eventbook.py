"""Events kept and looked up: in the transaction of the buckets, bounded, over restarts."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.contracts.store import Store, StoreError
from llmrouter.daemon import eventbook
from llmrouter.daemon.eventbook import EventBook
from llmrouter.quota.denials import MINUTE_MS, Action, Denial
from llmrouter.stores.diskcache import DiskcacheStore
from llmrouter.stores.memory import MemoryStore

NOW_MS = 1_763_892_000_000
KEY = "3fQ9xW2LbT0c"
ONE = Denial(
    at_ms=NOW_MS,
    last_ms=NOW_MS,
    org="acme",
    team="research",
    user="ann@example.com",
    key_id=KEY,
    model="gpt-4o",
    action=Action.REFUSED,
    code="insufficient_quota",
    bucket="org/acme/usd/month",
    limit=500_000_000_000,
    balance=-1_500,
    wanted=20_000_000,
)
Args = dict[str, object]


def denial(at_ms: int = NOW_MS, **members: object) -> Denial:
    return msgspec.structs.replace(ONE, **{"at_ms": at_ms, "last_ms": at_ms, **members})


def of_org(number: int, at_ms: int = NOW_MS) -> Denial:
    return denial(at_ms, org=f"org{number}")


def save(book: EventBook, store: Store) -> None:
    """What the ledger's writer does."""
    changes = book.changes()
    store.write(changes)
    book.written(changes)


def kept(store: Store) -> list[Denial]:
    """The rows as another program would read them."""
    rows = sorted(store.items("event/"))
    return [msgspec.json.decode(value, type=Denial) for _, value in rows]


def orgs(rows: Iterable[Denial]) -> list[str]:
    return [row.org for row in rows]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only three rows are kept."""
    monkeypatch.setattr(eventbook, "EVENTS_MAX", 3)


def test_equal_denials_of_a_minute_are_one_row_whichever_worker_tells_of_them() -> None:
    store = MemoryStore()
    book = EventBook(store)

    book.add([denial(count=2), denial(NOW_MS + 500, team=None)], NOW_MS + 600)
    save(book, store)
    book.add([denial(NOW_MS + 1_000, count=40)], NOW_MS + 1_600)
    book.add([], NOW_MS + 60_100)
    book.add([denial(NOW_MS + 59_000)], NOW_MS + 60_400)
    save(book, store)

    expected = [denial(count=43, last_ms=NOW_MS + 59_000), denial(NOW_MS + 500, team=None)]
    assert book.find() == expected
    assert kept(store) == expected


def test_another_minute_has_a_row_of_its_own() -> None:
    book = EventBook(MemoryStore())

    for minute in range(3):
        book.add([denial(NOW_MS + minute * MINUTE_MS)], NOW_MS + minute * MINUTE_MS)

    assert book.find() == [denial(NOW_MS + minute * MINUTE_MS) for minute in range(3)]


def test_rows_have_the_time_of_their_first_in_their_names() -> None:
    book = EventBook(MemoryStore())

    book.add([of_org(1), of_org(2, 5)], NOW_MS)

    assert sorted(book.changes()) == [
        "event/0000000000005/0000000002",
        f"event/{NOW_MS}/0000000001",
    ]


def test_what_is_not_written_yet_is_found_too() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add([of_org(1), of_org(2, NOW_MS + 1)], NOW_MS)
    save(book, store)

    book.add([of_org(1, NOW_MS + 3), of_org(3, NOW_MS + 2)], NOW_MS)

    assert [(row.org, row.count) for row in book.find()] == [("org1", 2), ("org2", 1), ("org3", 1)]
    assert orgs(kept(store)) == ["org1", "org2"]


def test_what_was_written_is_not_written_again_but_what_changed_since_is() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add([of_org(1), of_org(2)], NOW_MS)
    changes = book.changes()
    book.add([of_org(2)], NOW_MS)

    book.written(changes)

    assert [name[-1] for name in book.changes()] == ["2"]
    save(book, store)
    assert book.changes() == {}
    book.written(changes)
    assert book.changes() == {}


def test_a_write_that_failed_is_offered_again() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add([of_org(1)], NOW_MS)
    failed = book.changes()

    book.add([of_org(2)], NOW_MS)

    assert failed.items() < book.changes().items()
    save(book, store)
    assert orgs(kept(store)) == ["org1", "org2"]


@pytest.mark.usefixtures("few")
def test_the_oldest_go_when_there_are_too_many() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add(map(of_org, range(3)), NOW_MS)
    save(book, store)

    book.add([of_org(3), of_org(4)], NOW_MS)

    assert orgs(book.find()) == ["org2", "org3", "org4"]
    save(book, store)
    assert orgs(kept(store)) == ["org2", "org3", "org4"]


@pytest.mark.usefixtures("few")
def test_what_was_pruned_does_not_grow_again() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add(map(of_org, range(4)), NOW_MS)
    save(book, store)

    book.add([of_org(0, NOW_MS + 1)], NOW_MS)
    save(book, store)

    assert [(row.org, row.count) for row in kept(store)] == [
        ("org2", 1), ("org3", 1), ("org0", 1),
    ]  # fmt: skip


def test_rows_of_others_in_the_same_transaction_are_left_alone() -> None:
    """Buckets and positions are written with the events, and must never be deleted by them."""
    book = EventBook(MemoryStore())

    book.written({"bucket/org/acme/usd/month": b"{}", "journal/a1": b"[]", "journal/b2": None})

    assert book.changes() == {}


@pytest.mark.usefixtures("few")
def test_what_is_pruned_before_it_was_written_never_is() -> None:
    """A store that cannot be written for long does not let it grow without bounds."""
    book = EventBook(MemoryStore())

    for number in range(50):
        book.add([of_org(number)], NOW_MS)

    assert len(book.changes()) == 3
    assert None not in book.changes().values()


@pytest.mark.usefixtures("few")
def test_what_is_pruned_while_it_is_written_is_deleted_afterwards() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add([of_org(0)], NOW_MS)
    changes = book.changes()
    book.add([of_org(1), of_org(2), of_org(3)], NOW_MS)
    store.write(changes)

    book.written(changes)
    save(book, store)

    assert orgs(kept(store)) == ["org1", "org2", "org3"]
    assert book.changes() == {}


Added = list[tuple[int, int]]
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4 * MINUTE_MS)), max_size=6)
    | st.sampled_from(["take", "write", "fail", "reopen"])
)


@settings(deadline=None)
@given(steps=STEPS)
def test_what_is_found_is_the_same_whatever_was_written_when(
    steps: list[Added | str],
) -> None:
    """Against a book whose store takes everything at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventbook, "EVENTS_MAX", 5)
        store, prompt_store = MemoryStore(), MemoryStore()
        book, prompt = EventBook(store), EventBook(prompt_store)
        taken: dict[str, bytes | None] | None = None
        now_ms = NOW_MS
        for step in steps:
            match step:
                case "take":
                    taken = taken or book.changes()
                case "write":
                    store.write(taken or {})
                    book.written(taken or {})
                    taken = None
                case "fail":
                    taken = None
                case "reopen":
                    taken = None
                    save(book, store)
                    save(book, store)
                    book = EventBook(store)
                case _:
                    added = [
                        of_org(number, NOW_MS + later_ms)
                        for number, later_ms in cast("Added", step)
                    ]
                    now_ms = max([now_ms, *(one.at_ms for one in added)])
                    book.add(added, now_ms)
                    prompt.add(added, now_ms)
                    save(prompt, prompt_store)
            assert len(book.changes()) <= 2 * 5 + 5
            assert len(book.find()) <= 5
        if "reopen" not in steps:
            assert book.find() == prompt.find()
        save(book, store)
        save(book, store)
        assert book.find() == kept(store) == EventBook(store).find()


# ---- over restarts ----------------------------------------------------------------------------


def test_a_row_grows_on_after_a_restart_and_no_name_is_given_twice(tmp_path: Path) -> None:
    with contextlib.closing(DiskcacheStore.create(tmp_path / "store")) as store:
        book = EventBook(store)
        book.add([of_org(1), of_org(2)], NOW_MS)
        save(book, store)
    with contextlib.closing(DiskcacheStore.open(tmp_path / "store")) as store:
        book = EventBook(store)
        assert orgs(book.find()) == ["org1", "org2"]
        book.add([of_org(1), of_org(3)], NOW_MS + 100)
        save(book, store)

        assert [(row.org, row.count) for row in kept(store)] == [
            ("org1", 2), ("org2", 1), ("org3", 1),
        ]  # fmt: skip
        assert [name[-2:] for name, _ in sorted(store.items("event/"))] == ["01", "02", "03"]


@pytest.mark.usefixtures("few")
def test_a_book_that_held_more_is_pruned_when_it_is_opened() -> None:
    store = MemoryStore()
    for number in range(5):
        name = f"event/{NOW_MS}/{number:010}"
        store.put(name, msgspec.json.encode(of_org(number)))

    book = EventBook(store)

    assert orgs(book.find()) == ["org2", "org3", "org4"]
    save(book, store)
    assert orgs(kept(store)) == ["org2", "org3", "org4"]


def test_two_rows_of_one_kind_and_minute_do_no_harm_to_a_book_that_opens_on_them() -> None:
    store = MemoryStore()
    for number in range(2):
        store.put(f"event/{NOW_MS}/{number:010}", msgspec.json.encode(ONE))
    book = EventBook(store)

    book.add([ONE], NOW_MS)
    book.add([], NOW_MS + 3 * MINUTE_MS)

    assert [row.count for row in book.find()] == [2, 1]


def test_other_things_in_the_store_are_not_touched() -> None:
    store = MemoryStore()
    store.put("bucket/org/acme/usd/month", b"{}")
    store.put("eventual", b"{}")

    assert EventBook(store).find() == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("event/yesterday", b"{}", "'event/yesterday' in the store is not the name of an event"),
        (f"event/{NOW_MS}/0000000001", b"{}", "missing required field `at_ms`"),
        (f"event/{NOW_MS}/0000000001", b"\xff", "cannot be read as an event"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(name: str, value: bytes, words: str) -> None:
    store = MemoryStore()
    store.put(name, value)

    with pytest.raises(StoreError, match=words) as refused:
        EventBook(store)
    assert "restore the state from a backup" in str(refused.value)


# ---- looking up -------------------------------------------------------------------------------


def minutes(*, written: bool) -> EventBook:
    """A row a minute for ten minutes, of orgs and keys in turn."""
    store = MemoryStore()
    book = EventBook(store)
    for number in range(10):
        at_ms = NOW_MS + number * MINUTE_MS
        book.add([denial(at_ms, org="ab"[number % 2], key_id=f"{number % 5:012}")], at_ms)
    if written:
        save(book, store)
    return book


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, range(10)),
        ({"limit": 3}, [7, 8, 9]),
        ({"org": "a"}, [0, 2, 4, 6, 8]),
        ({"org": "c"}, []),
        ({"key": "000000000003"}, [3, 8]),
        ({"org": "a", "key": "000000000003"}, [8]),
        ({"org": "b", "limit": 2}, [7, 9]),
        ({"since_ms": NOW_MS + 8 * MINUTE_MS}, [8, 9]),
        ({"since_ms": NOW_MS + 8 * MINUTE_MS + 1}, [9]),
        ({"since_ms": NOW_MS + 8 * MINUTE_MS, "org": "a"}, [8]),
        ({"since_ms": 0}, range(10)),
        ({"since_ms": 10**13 - 1}, []),
    ],
    ids=str,
)
def test_rows_are_found_by_org_key_and_time_newest_last(
    written: bool, asked: dict[str, Any], found: Iterable[int]
) -> None:
    rows = minutes(written=written).find(**asked)

    assert [(row.at_ms - NOW_MS) // MINUTE_MS for row in rows] == list(found)


def test_a_row_counts_as_of_its_last_denial() -> None:
    book = EventBook(MemoryStore())
    book.add([denial(), denial(NOW_MS + 30_000)], NOW_MS)

    assert len(book.find(since_ms=NOW_MS + 30_000)) == 1
    assert book.find(since_ms=NOW_MS + 30_001) == []


def test_counts_of_a_second_may_reach_into_the_next_minute() -> None:
    book = EventBook(MemoryStore())
    book.add([denial(NOW_MS + 59_900, last_ms=NOW_MS + 60_800)], NOW_MS + 60_900)

    assert len(book.find(since_ms=NOW_MS + 60_800)) == 1


def test_repr_shows_the_state() -> None:
    book = EventBook(MemoryStore())
    book.add([ONE], NOW_MS)
    assert repr(book) == "<EventBook 1 pending=1>"
