"""What can be asked of events, and how they are shown."""

import pytest

from llmrouter.daemon.control import ControlError
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk, view
from llmrouter.stores.memory import MemoryStore
from tests.daemon.offering import operations
from tests.daemon.test_eventbook import KEY, NOW_MS, ONE, Args, denial, save


def test_a_view_has_money_in_usd_and_times_in_utc() -> None:
    assert view(denial(count=7, last_ms=NOW_MS + 12_345)) == {
        "first_at": "2025-11-23T10:00:00.000Z",
        "last_at": "2025-11-23T10:00:12.345Z",
        "count": 7,
        "org": "acme",
        "team": "research",
        "user": "ann@example.com",
        "key_id": KEY,
        "model": "gpt-4o",
        "action": "refused",
        "served_by": None,
        "code": "insufficient_quota",
        "bucket": "org/acme/usd/month",
        "kind": "usd",
        "limit": 500.0,
        "balance": -0.0000015,
        "wanted": 0.02,
    }


def test_other_amounts_are_whole_and_stay_so() -> None:
    shown = view(denial(bucket=f"key/{KEY}/tokens/day", limit=5, balance=3, wanted=9))

    assert [shown[name] for name in ("kind", "limit", "balance", "wanted")] == ["tokens", 5, 3, 9]
    assert type(shown["limit"]) is int


def test_what_was_added_up_has_no_bucket_and_no_figures() -> None:
    shown = view(denial(key_id="", model="*", bucket="", limit=0, balance=0, wanted=0))

    for name in ("key_id", "bucket", "kind", "limit", "balance", "wanted"):
        assert shown[name] is None


def test_a_bucket_of_another_version_is_shown_as_it_is() -> None:
    shown = view(denial(bucket="fleet/eu/parsecs", limit=5))

    assert (shown["bucket"], shown["kind"], shown["limit"]) == ("fleet/eu/parsecs", None, 5)


WRONG = [
    ({"key": "sk-lr-3fQ9xW2LbT0c-" + "x" * 43}, "never give the key itself"),
    ({"key": ""}, "an id is 12 letters and digits"),
    ({"org": 7}, "Expected `str | null`, got `int` - at `$.org`"),
    ({"since_ms": -1}, "at `$.since_ms`"),
    ({"since_ms": 10**13}, "at `$.since_ms`"),
    ({"since_ms": "1h"}, "Expected `int | null`"),
    ({"limit": 0}, "Expected `int` >= 1 - at `$.limit`"),
    ({"limit": 10_001}, "Expected `int` <= 10000 - at `$.limit`"),
    ({"orgs": "acme"}, "unknown field `orgs`"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("args", "words"), WRONG, ids=str)
async def test_wrong_arguments_are_refused_in_words(args: Args, words: str) -> None:
    with pytest.raises(ControlError) as refused:
        await operations()["events.list"](args)

    assert refused.value.code == "invalid_request"
    assert words in str(refused.value)
    assert "xxx" not in str(refused.value)


@pytest.mark.asyncio
async def test_a_store_that_fails_is_told_in_words() -> None:
    store = MemoryStore()
    book = EventBook(store)
    book.add([ONE], NOW_MS)
    save(book, store)
    store.close()

    with pytest.raises(ControlError, match="is closed") as refused:
        await operations(events=EventDesk(book))["events.list"]({})

    assert refused.value.code == "store_error"


def test_the_operations_are_those_that_the_command_line_asks_for() -> None:
    assert set(EventDesk(EventBook(MemoryStore())).steps()) == {"events.list"}
