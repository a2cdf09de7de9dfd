"""Administration by the command line: through the daemon, or on the state itself."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.schema import Config, Limit, Org
from llmrouter.daemon import administer as module
from llmrouter.daemon import build
from llmrouter.daemon.administer import administer
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.control import ControlError, ControlServer
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk, view
from llmrouter.daemon.keydesk import KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.state import State, StateBusy, StateError, open_state
from llmrouter.daemon.teller import Teller
from tests.daemon.offering import NOW_S, operations
from tests.daemon.spending import Writer
from tests.daemon.test_eventbook import NOW_MS, of_org, save

Args = dict[str, object]
View = dict[str, Any]


def config(state: Path) -> Config:
    orgs = {"acme": Org(limits=(Limit(requests=100, per="day"), Limit(concurrent=5)))}
    return Config(file=state.parent / "router.toml", state=str(state), orgs=orgs)


class Up:
    """A supervisor as far as administration goes: its books, and what went to its workers."""

    def __init__(self, state: State, wanted: Config, stack: ExitStack) -> None:
        self.published: list[IssuedKey] = []
        self.events = EventBook(state.store)
        self._book = KeyBook(state.store, KeyDigest(state.digest_key))
        rulebook = build.rulebook(wanted, self._book.keys(), 0)
        self.teller = Teller(state.store, state.journal_dir, rulebook, SteadyClock().now_ms)
        stack.callback(self.teller.close)
        self.teller.recover()
        self.offered = operations(
            keys=KeyDesk(self._book, lambda: NOW_S),
            events=EventDesk(self.events),
            limits=LimitDesk(rulebook, self.teller.standing),
            publish=self._publish,
        )

    async def _publish(self, keys: Iterable[IssuedKey]) -> bool:
        self.published.extend(keys)
        return True


@asynccontextmanager
async def daemon_of(wanted: Config) -> AsyncIterator[Up]:
    """A daemon that answers on the control socket."""
    with ExitStack() as stack:
        state = stack.enter_context(open_state(Path(wanted.state)))
        up = Up(state, wanted, stack)
        server = ControlServer(state.control_path, up.offered)
        await server.open()
        stack.callback(server.close)
        yield up
        save(up.events, state.store)


async def asked(wanted: Config, op: str, args: Args) -> Any:
    """What the command line does, in a process of its own."""
    return await asyncio.to_thread(administer, wanted, op, args)


# ---- the same, up or down -------------------------------------------------------------------


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
    wanted = config(state)
    terms: Args = {"org": "acme", "models": ["demo"], "expires_in_s": 60}
    created = cast("View", administer(wanted, "keys.create", terms))
    which: Args = {"id": created["id"]}
    update: Args = {**which, "limits": ["requests=60/minute"], "expires_in_s": None}
    answers = [created, administer(wanted, "keys.create", {"org": "globex", "team": "x"})]
    answers.append(administer(wanted, "keys.update", update))
    answers += [administer(wanted, op, which) for op in ("keys.show", "keys.revoke", "keys.show")]
    answers.append(administer(wanted, "keys.list", {}))
    return [*map(shape, answers), *refusals(wanted, which)]


def refusals(wanted: Config, which: Args) -> list[object]:
    """What each of these is refused with."""
    wrong: list[tuple[str, Args]] = [
        ("keys.show", {"id": "x"}),
        ("keys.update", {**which, "id": "x", "name": "y"}),
        ("keys.create", {}),
        ("keys.revoke", {}),
        ("events.list", {"limit": 0}),
        ("limits.list", {"scopes": "all"}),
    ]
    found: list[object] = []
    for op, args in wrong:
        with pytest.raises(ControlError) as refused:
            administer(wanted, op, args)
        found.append((refused.value.code, str(refused.value)))
    return found


@pytest.mark.asyncio
async def test_it_is_the_same_with_the_daemon_up_or_down(tmp_path: Path) -> None:
    async with daemon_of(config(tmp_path / "up")) as up:
        while_up = await asyncio.to_thread(a_life, tmp_path / "up")
    while_down = await asyncio.to_thread(a_life, tmp_path / "down")

    assert while_up == while_down
    assert [key.revoked_at_s for key in up.published] == [None, None, None, NOW_S]


@pytest.mark.asyncio
async def test_what_was_done_with_the_daemon_down_is_there_when_it_is_up_and_back(
    tmp_path: Path,
) -> None:
    wanted = config(tmp_path / "state")
    before = await asked(wanted, "keys.create", {"org": "a"})
    async with daemon_of(wanted):
        seen = await asked(wanted, "keys.list", {})
        during = await asked(wanted, "keys.create", {"org": "b"})
    after = await asked(wanted, "keys.list", {})

    assert [view["id"] for view in seen] == [before["id"]]
    assert {view["id"] for view in after} == {before["id"], during["id"]}


@pytest.mark.asyncio
async def test_events_are_the_same_with_the_daemon_up_or_down(tmp_path: Path) -> None:
    wanted = config(tmp_path / "state")
    async with daemon_of(wanted) as up:
        up.events.add([of_org(1), of_org(2, NOW_MS + 1)], NOW_MS)
        while_up = await asked(wanted, "events.list", {"org": "org2"})
    while_down = await asked(wanted, "events.list", {"org": "org2"})

    assert while_up == while_down == [view(of_org(2, NOW_MS + 1))]


@pytest.mark.asyncio
async def test_limits_are_the_same_with_the_daemon_up_or_down(tmp_path: Path) -> None:
    """Also what was journaled when everything died, which nobody has counted yet."""
    wanted = config(tmp_path / "state")
    created = await asked(wanted, "keys.create", {"org": "acme", "limits": ["tokens=1000/day"]})
    writer = Writer(tmp_path / "state" / "journal")
    writer.begin(30, key_id=created["id"])
    writer.end(writer.begin(30, key_id=created["id"]), 500)
    writer.die()

    while_down = await asked(wanted, "limits.list", {})
    async with daemon_of(wanted):
        while_up = await asked(wanted, "limits.list", {})

    def still(views: list[View]) -> list[View]:
        """Without what flows back while we look."""
        return [{**view, "resets_at": type(view["resets_at"])} for view in views]

    assert still(while_down) == still(while_up)
    names = [(view["bucket"], view["limit"]) for view in while_down]
    assert names == [
        ("org/acme/requests/day", 100),
        ("org/acme/concurrent", 5),
        (f"key/{created['id']}/tokens/day", 1_000),
    ]


@pytest.mark.asyncio
async def test_to_look_at_limits_changes_nothing(tmp_path: Path) -> None:
    wanted = config(tmp_path / "state")
    await asked(wanted, "keys.list", {})
    writer = Writer(tmp_path / "state" / "journal")
    writer.begin(30)
    writer.die()

    for _ in range(2):
        (requests, _) = await asked(wanted, "limits.list", {})
        assert requests["bucket"] == "org/acme/requests/day"

    with open_state(Path(wanted.state)) as state:
        assert list(state.store.items("")) == []


# ---- handing over ---------------------------------------------------------------------------


def in_background(step: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(step()))
    thread.start()
    return thread, answers


OPERATIONS: list[tuple[str, Args]] = [
    ("keys.create", {"org": "acme"}),
    ("events.list", {}),
    ("limits.list", {}),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("op", "args"), OPERATIONS)
async def test_a_daemon_that_is_about_to_answer_is_waited_for(
    tmp_path: Path, op: str, args: Args
) -> None:
    wanted = config(tmp_path / "state")
    with open_state(tmp_path / "state"):
        thread, answers = in_background(lambda: administer(wanted, op, args))
        await asyncio.to_thread(thread.join, 0.2)
        assert thread.is_alive()
    async with daemon_of(wanted):
        await asyncio.to_thread(thread.join, 10)

    assert len(answers) == 1


def test_a_daemon_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    wanted = config(tmp_path / "state")
    with open_state(tmp_path / "state"):
        thread, answers = in_background(lambda: administer(wanted, "keys.create", {"org": "a"}))
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(10)

    assert cast("View", answers[0])["org"] == "a"


@pytest.mark.parametrize(("op", "args"), OPERATIONS)
def test_a_state_that_somebody_else_keeps_open_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str, args: Args
) -> None:
    monkeypatch.setattr(module, "_HANDOVER_S", 0.1)

    with open_state(tmp_path / "state"), pytest.raises(StateBusy, match="is in use by process"):
        administer(config(tmp_path / "state"), op, args)


@pytest.mark.parametrize(("op", "args"), OPERATIONS)
def test_a_state_that_cannot_be_used_is_told(tmp_path: Path, op: str, args: Args) -> None:
    (tmp_path / "photos").mkdir(mode=0o700)
    (tmp_path / "photos" / "holiday.jpg").touch()

    with pytest.raises(StateError, match="not a state of ours"):
        administer(config(tmp_path / "photos"), op, args)
