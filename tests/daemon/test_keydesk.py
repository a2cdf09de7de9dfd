"""Keys administered: the same with the daemon up or down, and never a key where none belongs."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.contracts.store import StoreError
from llmrouter.daemon import keydesk
from llmrouter.daemon.control import ControlError, ControlServer
from llmrouter.daemon.keydesk import KeyDesk, administer, operations, steps
from llmrouter.daemon.state import StateBusy, StateError, open_state
from llmrouter.stores.memory import MemoryStore

NOW_S = 1_700_000_000.0
NOW = "2023-11-14T22:13:20Z"
DIGEST = KeyDigest(bytes(32))
Args = dict[str, object]
View = dict[str, Any]


def desk(*, now_s: float = NOW_S, store: MemoryStore | None = None) -> KeyDesk:
    return KeyDesk(KeyBook(store or MemoryStore(), DIGEST), lambda: now_s)


def create(made: KeyDesk, **terms: object) -> View:
    view, _ = made.create({"org": "acme", **terms})
    return cast("View", view)


def test_what_is_created_is_shown_with_its_text_this_once() -> None:
    made = desk()

    view, changed = made.create(
        {
            "org": "acme",
            "team": "research",
            "user": "ada@example.com",
            "name": "ci",
            "models": ["demo", "demo-*"],
            "expires_in_s": 86_400,
        }
    )

    created = cast("View", view)
    text = created.pop("key")
    assert text.startswith(f"sk-lr-{created['id']}-")
    assert created == {
        "id": created["id"],
        "org": "acme",
        "team": "research",
        "user": "ada@example.com",
        "name": "ci",
        "models": ["demo", "demo-*"],
        "created_at": NOW,
        "expires_at": "2023-11-15T22:13:20Z",
        "revoked_at": None,
        "status": "active",
    }
    assert [key.id for key in changed] == [created["id"]]
    assert made.show({"id": created["id"]}) == (created, [])
    assert made.list({}) == ([created], [])


def test_the_members_of_an_answer_stand_in_an_order_that_people_can_read() -> None:
    assert list(create(desk()))[:3] == ["id", "key", "org"]


def test_no_view_but_that_of_creation_holds_any_part_of_the_secret() -> None:
    made = desk()
    created = create(made)
    secret = created["key"].rpartition("-")[2]
    digest = DIGEST(created["key"].encode()).hex()

    shown = repr([made.show({"id": created["id"]}), made.list({})])
    shown += repr(made.revoke({"id": created["id"]}))

    assert secret not in shown
    assert digest not in shown


def test_a_revoked_key_stays_revoked_and_keeps_its_time() -> None:
    store = MemoryStore()
    key_id = create(desk(store=store))["id"]

    first, changed = desk(now_s=NOW_S + 10, store=store).revoke({"id": key_id})
    again, _ = desk(now_s=NOW_S + 99, store=store).revoke({"id": key_id})

    assert first == again
    assert cast("View", first)["status"] == "revoked"
    assert cast("View", first)["revoked_at"] == "2023-11-14T22:13:30Z"
    assert [key.revoked_at_s for key in changed] == [NOW_S + 10]


def test_a_key_that_expired_is_listed_as_such() -> None:
    store = MemoryStore()
    create(desk(store=store), expires_in_s=1)

    views, _ = desk(now_s=NOW_S + 1, store=store).list({})

    assert [view["status"] for view in cast("list[View]", views)] == ["expired"]


def test_keys_are_listed_oldest_first() -> None:
    store = MemoryStore()
    ids = [create(desk(now_s=NOW_S + n, store=store))["id"] for n in range(5)]

    views, _ = desk(store=store).list({})

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
    ("keys.create", {"org": "acme", "expires_in_s": 0}, "expires after at least 1 s"),
    ("keys.create", {"org": "acme", "expires_in_s": -1}, "expires after at least 1 s"),
    ("keys.create", {"org": "acme", "expires_in_s": "90d"}, "Expected `int"),
    ("keys.create", {"org": "acme", "expires_in_s": 10**12}, "at most 100 years"),
    ("keys.create", {"org": "acme", "orgs": ["x"]}, "unknown field `orgs`"),
    ("keys.create", {"org": "acme", "key": "sk-lr-x"}, "unknown field `key`"),
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

    result = await operations(made or desk(), publish)[op](args)
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
@pytest.mark.parametrize("op", ["keys.show", "keys.revoke"])
@pytest.mark.parametrize("dress", ["{}", " {}", "{}\n", "Bearer {}"])
async def test_a_whole_key_is_neither_taken_for_its_id_nor_repeated(op: str, dress: str) -> None:
    made = desk()
    created = create(made)
    key = created["key"]

    with pytest.raises(ControlError) as refused:
        await offered(op, {"id": dress.format(key)}, made)

    assert "never give the key itself" in str(refused.value)
    assert key.rpartition("-")[2] not in str(refused.value)
    view, _ = made.show({"id": created["id"]})
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


# ---- by the command line: through the daemon, or on the state itself --------------------------


@asynccontextmanager
async def daemon_of(state: Path) -> AsyncIterator[list[IssuedKey]]:
    """What a supervisor does for keys; gives what was published to its workers."""
    published: list[IssuedKey] = []

    async def publish(keys: Iterable[IssuedKey]) -> bool:
        published.extend(keys)
        return True

    with open_state(state) as opened:
        book = KeyBook(opened.store, KeyDigest(opened.digest_key))
        server = ControlServer(
            opened.control_path, operations(KeyDesk(book, lambda: NOW_S), publish)
        )
        await server.open()
        try:
            yield published
        finally:
            server.close()


@contextmanager
def held(state: Path) -> Iterator[None]:
    """The state, open in a process that does not answer."""
    with open_state(state):
        yield


def shape(answer: object) -> object:
    """An answer without what differs from one key, or moment, to the next."""
    if isinstance(answer, list):
        # Two of one second stand in any order.
        return sorted((shape(view) for view in answer), key=repr)
    unlike = {"id", "key", "created_at", "expires_at", "revoked_at"}
    return {
        name: (type(value) if name in unlike else value)
        for name, value in cast("View", answer).items()
    }


def a_life(state: Path) -> list[object]:
    """Everything that can be done with keys; the shape of each answer."""
    created = cast(
        "View",
        administer(state, "keys.create", {"org": "acme", "models": ["demo"], "expires_in_s": 60}),
    )
    which: Args = {"id": created["id"]}
    answers = [created, administer(state, "keys.create", {"org": "globex", "team": "x"})]
    answers += [administer(state, op, which) for op in ("keys.show", "keys.revoke", "keys.show")]
    answers.append(administer(state, "keys.list", {}))
    refusals: list[object] = []
    for op, args in (("keys.show", {"id": "x"}), ("keys.create", {}), ("keys.revoke", {})):
        with pytest.raises(ControlError) as refused:
            administer(state, op, cast("Args", args))
        refusals.append((refused.value.code, str(refused.value)))
    return [*map(shape, answers), *refusals]


@pytest.mark.asyncio
async def test_it_is_the_same_with_the_daemon_up_or_down(tmp_path: Path) -> None:
    async with daemon_of(tmp_path / "up") as published:
        up = await asyncio.to_thread(a_life, tmp_path / "up")
    down = await asyncio.to_thread(a_life, tmp_path / "down")

    assert up == down
    assert [key.revoked_at_s for key in published] == [None, None, NOW_S]


@pytest.mark.asyncio
async def test_what_was_done_with_the_daemon_down_is_there_when_it_is_up_and_back(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    before = cast("View", await asyncio.to_thread(administer, state, "keys.create", {"org": "a"}))
    async with daemon_of(state):
        seen = await asyncio.to_thread(administer, state, "keys.list", {})
        during = await asyncio.to_thread(administer, state, "keys.create", {"org": "b"})
    after = await asyncio.to_thread(administer, state, "keys.list", {})

    assert [view["id"] for view in cast("list[View]", seen)] == [before["id"]]
    ids = {view["id"] for view in cast("list[View]", after)}
    assert ids == {before["id"], cast("View", during)["id"]}


def in_background(step: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(step()))
    thread.start()
    return thread, answers


@pytest.mark.asyncio
async def test_a_daemon_that_is_about_to_answer_is_waited_for(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with contextlib.ExitStack() as starting:
        starting.enter_context(held(state))
        thread, answers = in_background(lambda: administer(state, "keys.create", {"org": "acme"}))
        await asyncio.to_thread(thread.join, 0.2)
        assert thread.is_alive()
    async with daemon_of(state):
        await asyncio.to_thread(thread.join, 10)

    assert cast("View", answers[0])["org"] == "acme"


def test_a_daemon_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    with held(tmp_path / "state"):
        thread, answers = in_background(
            lambda: administer(tmp_path / "state", "keys.create", {"org": "acme"})
        )
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(10)

    assert cast("View", answers[0])["org"] == "acme"


def test_a_state_that_somebody_else_keeps_open_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keydesk, "_HANDOVER_S", 0.1)

    with held(tmp_path / "state"), pytest.raises(StateBusy, match="is in use by process"):
        administer(tmp_path / "state", "keys.list", {})


def test_a_state_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir(mode=0o700)
    (tmp_path / "photos" / "holiday.jpg").touch()

    with pytest.raises(StateError, match="not a state of ours"):
        administer(tmp_path / "photos", "keys.list", {})


def test_the_operations_are_those_that_the_command_line_asks_for() -> None:
    assert set(steps(desk())) == {"keys.create", "keys.list", "keys.show", "keys.revoke"}
    assert KeyTerms(org="acme").models == ()
