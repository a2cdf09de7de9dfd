"""Keys administered: in force before it is answered, and never a key where none belongs."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest
from rich.pretty import pretty_repr

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.contracts.store import StoreError
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.keydesk import KeyDesk
from llmrouter.stores.memory import MemoryStore
from tests.daemon.offering import operations

NOW_S = 1_700_000_000.0
NOW = "2023-11-14T22:13:20Z"
DIGEST = KeyDigest(bytes(32))
Args = dict[str, object]
View = dict[str, Any]


def desk(*, now_s: float = NOW_S, store: MemoryStore | None = None) -> KeyDesk:
    return KeyDesk(KeyBook(store or MemoryStore(), DIGEST), lambda: now_s)


def create(made: KeyDesk, **terms: object) -> View:
    return cast("View", made.create({"org": "acme", **terms}).result)


def test_what_is_created_is_shown_with_its_text_this_once() -> None:
    made = desk()

    done = made.create(
        {
            "org": "acme",
            "team": "research",
            "user": "ada@example.com",
            "name": "ci",
            "models": ["demo", "demo-*"],
            "model_map": {"gpt-4*": "demo"},
            "expires_in_s": 86_400,
            "limits": ["requests=60/minute", "concurrent=5"],
            "budgets": ["usd=20.50/day,strict"],
        }
    )

    created = cast("View", done.result)
    text = created.pop("key")
    assert text.startswith(f"sk-lr-{created['id']}-")
    assert created == {
        "id": created["id"],
        "org": "acme",
        "team": "research",
        "user": "ada@example.com",
        "name": "ci",
        "models": ["demo", "demo-*"],
        "model_map": {"gpt-4*": "demo"},
        "limits": ["requests=60/minute", "concurrent=5"],
        "budgets": ["usd=20.5/day,strict"],
        "created_at": NOW,
        "expires_at": "2023-11-15T22:13:20Z",
        "revoked_at": None,
        "status": "active",
    }
    assert [key.id for key in done.keys] == [created["id"]]
    assert made.show({"id": created["id"]}) == created
    assert made.list({}) == [created]


def test_the_members_of_an_answer_stand_in_an_order_that_people_can_read() -> None:
    assert list(create(desk()))[:3] == ["id", "key", "org"]


def test_no_view_but_that_of_creation_holds_any_part_of_the_secret() -> None:
    made = desk()
    created = create(made)
    secret = created["key"].rpartition("-")[2]
    digest = DIGEST(created["key"].encode()).hex()

    shown = repr([made.show({"id": created["id"]}), made.list({})])
    shown += repr(made.revoke({"id": created["id"]}))
    again = made.create({"org": "acme"})
    shown += repr(again) + pretty_repr(again)
    secrets = (secret, cast("View", again.result)["key"].rpartition("-")[2])

    assert not [secret for secret in secrets if secret in shown]
    assert digest not in shown


def test_a_revoked_key_stays_revoked_and_keeps_its_time() -> None:
    store = MemoryStore()
    key_id = create(desk(store=store))["id"]

    first = desk(now_s=NOW_S + 10, store=store).revoke({"id": key_id})
    again = desk(now_s=NOW_S + 99, store=store).revoke({"id": key_id})

    assert first == again
    assert cast("View", first.result)["status"] == "revoked"
    assert cast("View", first.result)["revoked_at"] == "2023-11-14T22:13:30Z"
    assert [key.revoked_at_s for key in first.keys] == [NOW_S + 10]


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    store = MemoryStore()
    made = desk(store=store)
    created = create(made, name="ci", limits=["requests=60/minute"], budgets=["usd=20/day"])
    del created["key"]

    done = made.update(
        {
            "id": created["id"],
            "limits": ["requests=100/minute", "concurrent=5"],
            "budgets": ["usd=1/hour"],
            "remove": ["usd/day"],
            "models": ["demo"],
            "expires_in_s": 60,
        }
    )

    assert done.result == {
        **created,
        "limits": ["requests=100/minute", "concurrent=5"],
        "budgets": ["usd=1/hour"],
        "models": ["demo"],
        "expires_at": "2023-11-14T22:14:20Z",
    }
    assert [key.id for key in done.keys] == [created["id"]]
    assert desk(store=store).show({"id": created["id"]}) == done.result


def test_an_update_replaces_a_map_whole_or_leaves_it() -> None:
    made = desk()
    key_id = create(made, model_map={"a": "b", "c": "d"})["id"]

    def mapped(**changes: object) -> object:
        return cast("View", made.update({"id": key_id, **changes}).result)["model_map"]

    assert mapped(name="x") == {"a": "b", "c": "d"}
    assert mapped(model_map={"e": "f"}) == {"e": "f"}
    assert mapped(model_map={}) == {}


def test_an_update_tells_no_expiry_from_none_at_all() -> None:
    made = desk()
    key_id = create(made, expires_in_s=60)["id"]

    kept = made.update({"id": key_id, "name": "x"}).result
    never = made.update({"id": key_id, "expires_in_s": None}).result

    assert cast("View", kept)["expires_at"] == "2023-11-14T22:14:20Z"
    assert cast("View", never)["expires_at"] is None


def test_a_key_that_expired_is_listed_as_such() -> None:
    store = MemoryStore()
    create(desk(store=store), expires_in_s=1)

    views = desk(now_s=NOW_S + 1, store=store).list({})

    assert [view["status"] for view in cast("list[View]", views)] == ["expired"]


def test_keys_are_listed_oldest_first() -> None:
    store = MemoryStore()
    ids = [create(desk(now_s=NOW_S + n, store=store))["id"] for n in range(5)]

    views = desk(store=store).list({})

    assert [view["id"] for view in cast("list[View]", views)] == ids


WRONG = [
    ("keys.create", {}, "missing required field `org`"),
    ("keys.create", {"org": None}, "Expected `str`, got `null` - at `$.org`"),
    ("keys.create", {"org": ""}, "org '' is not a name"),
    ("keys.create", {"org": "a/b"}, "org 'a/b' is not a name"),
    ("keys.create", {"org": "a\nb"}, "org 'a\\nb' is not a name"),
    ("keys.create", {"org": "acme", "team": " x"}, "team ' x' is not a name"),
    ("keys.create", {"org": "acme", "models": "demo"}, "Expected `array`, got `str`"),
    ("keys.create", {"org": "acme", "models": ["a b"]}, "'a b' is not a model pattern"),
    ("keys.create", {"org": "acme", "models": [""]}, "model pattern '' has 0 characters"),
    ("keys.create", {"org": "acme", "model_map": {"a": "a"}}, "'a' is mapped to itself"),
    ("keys.create", {"org": "acme", "model_map": ["a=b"]}, "Expected `object`, got `array`"),
    ("keys.create", {"org": "acme", "expires_in_s": 0}, "expires after at least 1 s"),
    ("keys.create", {"org": "acme", "expires_in_s": -1}, "expires after at least 1 s"),
    ("keys.create", {"org": "acme", "expires_in_s": "90d"}, "Expected `int"),
    ("keys.create", {"org": "acme", "expires_in_s": 10**12}, "at most 100 years"),
    ("keys.create", {"org": "acme", "orgs": ["x"]}, "unknown field `orgs`"),
    ("keys.create", {"org": "acme", "key": "sk-lr-x"}, "unknown field `key`"),
    ("keys.create", {"org": "acme", "limits": ["requests=60"]}, "requests=60 has no period"),
    ("keys.create", {"org": "acme", "limits": ["usd=1/day"]}, "usd is a budget"),
    ("keys.create", {"org": "acme", "limits": "concurrent=1"}, "Expected `array`, got `str`"),
    ("keys.create", {"org": "acme", "budgets": ["concurrent=1"]}, "concurrent is a limit"),
    ("keys.create", {"org": "acme", "limits": ["concurrent=1"] * 2}, "concurrent is given 2"),
    ("keys.create", {"org": "acme", "rules": []}, "unknown field `rules`"),
    ("keys.update", {"name": "x"}, "missing required field `id`"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "org": "x"}, "unknown field `org`"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "discard": []}, "unknown field `discard`"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "limits": ["rpm=1"]}, "'rpm=1' does not begin a rule"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "budgets": ["usd=1"]}, "usd=1 has no period"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "name": "a/b"}, "name 'a/b' is not a name"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "models": ["a b"]}, "'a b' is not a model pattern"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "model_map": {"a": "b*"}}, "to the pattern 'b*'"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "expires_in_s": 0}, "expires after at least 1 s"),
    ("keys.update", {"id": "3fQ9xW2LbT0c", "expires_in_s": "never"}, "Expected `int"),
    ("keys.show", {}, "missing required field `id`"),
    ("keys.show", {"id": 7}, "Expected `str`, got `int` - at `$.id`"),
    ("keys.show", {"id": "3fQ9xW2LbT0c", "org": "x"}, "unknown field `org`"),
    ("keys.revoke", {}, "missing required field `id`"),
    ("keys.revoke", {"id": ["3fQ9xW2LbT0c"]}, "Expected `str`, got `array`"),
    ("keys.list", {"org": "acme"}, "unknown field `org`"),
]
UNKNOWN = [
    ("3fQ9xW2LbT0c", "no key has the id '3fQ9xW2LbT0c'"),
    ("", "an id is 12 letters and digits"),
    ("3fQ9xW2LbT0", "an id is 12 letters and digits"),
    ("../../etc/pa", "an id is 12 letters and digits"),
]


async def offered(
    op: str, args: Args, made: KeyDesk | None = None, *, confirmed: bool = True
) -> tuple[object, list[Any]]:
    """Ask as a supervisor offers it; what is answered, and what was published before."""
    published: list[IssuedKey] = []

    async def publish(keys: Iterable[IssuedKey]) -> bool:
        await asyncio.sleep(0)
        published.extend(keys)
        return confirmed

    result = await operations(keys=made or desk(), publish=publish)[op](args)
    return result, published


@pytest.mark.asyncio
@pytest.mark.parametrize(("op", "args", "words"), WRONG, ids=str)
async def test_wrong_arguments_are_refused_in_words(op: str, args: Args, words: str) -> None:
    with pytest.raises(ControlError) as refused:
        await offered(op, args)

    assert refused.value.code == "invalid_request"
    assert words in str(refused.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("op", ["keys.show", "keys.revoke"])
@pytest.mark.parametrize(("key_id", "words"), UNKNOWN)
async def test_an_id_that_no_key_has_is_refused_in_words(op: str, key_id: str, words: str) -> None:
    with pytest.raises(ControlError) as refused:
        await offered(op, {"id": key_id})

    assert refused.value.code == "unknown_key"
    assert words in str(refused.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("op", ["keys.show", "keys.revoke", "keys.update"])
@pytest.mark.parametrize("dress", ["{}", " {}", "{}\n", "Bearer {}"])
async def test_a_whole_key_is_neither_taken_for_its_id_nor_repeated(op: str, dress: str) -> None:
    made = desk()
    created = create(made)
    key = created["key"]

    with pytest.raises(ControlError) as refused:
        await offered(op, {"id": dress.format(key)}, made)

    assert "never give the key itself" in str(refused.value)
    assert key.rpartition("-")[2] not in str(refused.value)
    view = made.show({"id": created["id"]})
    assert cast("View", view)["status"] == "active"


@pytest.mark.asyncio
async def test_a_change_is_in_force_everywhere_before_it_is_answered() -> None:
    made = desk()

    created, published = await offered("keys.create", {"org": "acme"}, made)
    key_id = cast("View", created)["id"]
    assert [key.id for key in published] == [key_id]

    _, published = await offered("keys.revoke", {"id": key_id}, made)
    assert [key.revoked_at_s for key in published] == [NOW_S]


@pytest.mark.asyncio
async def test_a_revocation_that_a_worker_has_not_confirmed_is_no_success_but_is_kept() -> None:
    """FR-010: who reads of success may rely on it."""
    made = desk()
    key_id = create(made)["id"]

    with pytest.raises(ControlError, match="the key is revoked, but a worker has not") as refused:
        await offered("keys.revoke", {"id": key_id}, made, confirmed=False)

    assert refused.value.code == "not_confirmed"
    assert "run the same command again" in str(refused.value)
    again, published = await offered("keys.revoke", {"id": key_id}, made)
    assert cast("View", again)["status"] == "revoked"
    assert [key.revoked_at_s for key in published] == [NOW_S]


@pytest.mark.asyncio
async def test_an_update_is_in_force_everywhere_before_it_is_answered() -> None:
    made = desk()
    key_id = create(made)["id"]

    view, published = await offered("keys.update", {"id": key_id, "name": "new"}, made)

    assert cast("View", view)["name"] == "new"
    assert [(key.id, key.name) for key in published] == [(key_id, "new")]


@pytest.mark.asyncio
async def test_an_update_that_was_not_confirmed_is_kept_and_the_same_command_confirms_it() -> None:
    """Also what took a rule off, which is gone by then."""
    made = desk()
    key_id = create(made, limits=["requests=60/minute"], budgets=["usd=20/day"])["id"]
    args: Args = {"id": key_id, "limits": ["requests=100/minute"], "remove": ["usd/day"]}

    for _ in range(2):
        with pytest.raises(ControlError, match="the key is changed, but a worker has") as refused:
            await offered("keys.update", args, made, confirmed=False)
        assert refused.value.code == "not_confirmed"
        assert "run the same command again" in str(refused.value)
    view, published = await offered("keys.update", args, made)

    assert cast("View", view)["limits"] == ["requests=100/minute"]
    assert cast("View", view)["budgets"] == []
    assert [[rule.name for rule in key.rules] for key in published] == [["requests/minute"]]


@pytest.mark.asyncio
async def test_once_a_removal_is_confirmed_another_one_is_a_mistake() -> None:
    made = desk()
    key_id = create(made, budgets=["usd=20/day"])["id"]
    args: Args = {"id": key_id, "remove": ["usd/day"]}
    with pytest.raises(ControlError, match="has not confirmed"):
        await offered("keys.update", args, made, confirmed=False)
    await offered("keys.update", args, made)

    with pytest.raises(ControlError, match="no limit or budget 'usd/day'; it has none") as refused:
        await offered("keys.update", args, made)

    assert refused.value.code == "invalid_request"


@pytest.mark.asyncio
async def test_another_change_meanwhile_makes_an_unconfirmed_removal_a_new_one() -> None:
    made = desk()
    key_id = create(made, budgets=["usd=20/day"])["id"]
    with pytest.raises(ControlError, match="has not confirmed"):
        await offered("keys.update", {"id": key_id, "remove": ["usd/day"]}, made, confirmed=False)
    with pytest.raises(ControlError, match="has not confirmed"):
        await offered("keys.update", {"id": key_id, "name": "x"}, made, confirmed=False)

    with pytest.raises(ControlError, match="no limit or budget 'usd/day'"):
        await offered("keys.update", {"id": key_id, "remove": ["usd/day"]}, made)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("revoked", "args", "words"),
    [
        (False, {}, "nothing to change was given"),
        (False, {"limits": [], "remove": []}, "nothing to change was given"),
        (False, {"remove": ["usd/day"]}, "no limit or budget 'usd/day'; it has concurrent"),
        (True, {"name": "x"}, "was revoked at 2023-11-14T22:13:20Z, and that is for good"),
    ],
)
async def test_an_update_that_cannot_be_is_refused_and_changes_nothing(
    revoked: bool, args: Args, words: str
) -> None:
    made = desk()
    key_id = create(made, limits=["concurrent=5"])["id"]
    if revoked:
        made.revoke({"id": key_id})
    before = made.show({"id": key_id})

    with pytest.raises(ControlError) as refused:
        await offered("keys.update", {"id": key_id, **args}, made)

    assert refused.value.code == "invalid_request"
    assert words in str(refused.value)
    assert made.show({"id": key_id}) == before


@pytest.mark.asyncio
async def test_a_new_key_that_a_worker_has_not_confirmed_is_shown_all_the_same() -> None:
    """Its text is known nowhere else."""
    created, _ = await offered("keys.create", {"org": "acme"}, confirmed=False)

    assert cast("View", created)["key"].startswith("sk-lr-")


@pytest.mark.asyncio
async def test_a_look_changes_nothing_anywhere() -> None:
    made = desk()
    key_id = create(made)["id"]

    assert (await offered("keys.show", {"id": key_id}, made))[1] == []
    assert (await offered("keys.list", {}, made))[1] == []


class _Broken(MemoryStore):
    """A store whose disk is full."""

    def put_new(self, name: str, value: bytes) -> bool:
        raise StoreError("the store cannot be written: no space left on device")


@pytest.mark.asyncio
async def test_a_store_that_fails_is_told_in_words() -> None:
    with pytest.raises(ControlError, match="no space left") as refused:
        await offered("keys.create", {"org": "acme"}, desk(store=_Broken()))

    assert refused.value.code == "store_error"


def test_the_operations_are_those_that_the_command_line_asks_for() -> None:
    assert set(desk().steps()) == {
        "keys.create", "keys.list", "keys.show", "keys.update", "keys.revoke",
    }  # fmt: skip
    assert KeyTerms(org="acme").models == ()
