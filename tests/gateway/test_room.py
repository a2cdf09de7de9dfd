"""Room is taken here where it suffices, else asked for; whatever ends the wait, none is lost."""

import asyncio

import pytest

from llmrouter.contracts.rule import QUEUE, Kind, Rule
from llmrouter.errors import Draining, Overloaded
from llmrouter.gateway import room as room_module
from llmrouter.gateway.room import Room
from llmrouter.quota.leases import Refusal
from llmrouter.quota.messages import Amount, Cancel, GiveBack, Reason, Take
from llmrouter.quota.reservation import Reservation
from llmrouter.tasks import spawn
from tests.quota.alone import LATER, RATE, REQUEST, TOKENS, Bench, R, granted, refused
from tests.support.leaks import Failures

pytestmark = pytest.mark.asyncio

WAITING = Rule(kind=Kind.REQUESTS, amount=600, per="minute", at_limit=QUEUE, wait_ms=5_000)


def a_room(bench: Bench, hold_wait_s: float = 2.0) -> Room:
    return Room(bench.leases, lambda: LATER, hold_wait_s)


async def asked(bench: Bench) -> Take:
    """What the ledger is asked, once it is."""
    for _ in range(10):
        await asyncio.sleep(0)
    (take,) = [one for one in bench.said() if isinstance(one, Take)]
    return take


async def test_what_is_here_is_taken_here() -> None:
    bench = Bench(RATE)
    bench.fill(2)
    room = a_room(bench)
    first = room.take_here(bench.account, REQUEST)
    second = await room.take(bench.account, REQUEST)
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    assert room.take_here(bench.account, REQUEST) is None
    assert bench.free() == [0]
    first.release()
    second.release()
    assert (bench.free(), bench.said()) == ([2], [])


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_is_short_is_asked_for(at_once: bool) -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST, at_once=at_once), name="take")
    take = await asked(bench)
    assert take.at_once == at_once
    bench.hear(granted(take.id, 1))
    assert isinstance(await task, Reservation)
    assert bench.free() == [0]


async def test_what_is_refused_is_said_with_its_lease() -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST), name="take")
    take = await asked(bench)
    bench.hear(refused(take.id, R, Reason.SPENT))
    found = await task
    assert isinstance(found, Refusal)
    assert found.lease.name == R


async def test_what_is_known_to_be_refused_is_not_asked_again_but_by_who_takes_his_turn() -> None:
    """Places at an upstream: what was refused at once may be had by waiting for it."""
    bench = Bench(WAITING)
    room = a_room(bench)
    task = spawn(room.take(bench.account, REQUEST, at_once=True), name="take")
    bench.hear(refused((await asked(bench)).id, R, Reason.OCCUPIED))
    assert isinstance(await task, Refusal)
    assert isinstance(await room.take(bench.account, REQUEST, at_once=True), Refusal)
    assert bench.said() == []
    task = spawn(room.take(bench.account, REQUEST, asks=True), name="take")
    take = await asked(bench)
    assert not take.at_once
    bench.hear(granted(take.id, 1))
    assert isinstance(await task, Reservation)


async def test_of_two_leases_one_short_takes_nothing_of_the_other() -> None:
    bench = Bench(RATE, TOKENS)
    bench.fill(5, 0)
    amounts = (1, 10, 0, 0, 0)
    task = spawn(a_room(bench).take(bench.account, amounts), name="take")
    take = await asked(bench)
    assert bench.free() == [5, 0]
    bench.hear(granted(take.id, 10))
    assert isinstance(await task, Reservation)
    assert bench.free() == [4, 0]


async def test_who_leaves_while_he_waits_withdraws_what_he_asked_for() -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST), name="take")
    take = await asked(bench)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.said() == [Cancel(take.id)]
    bench.hear(granted(take.id, 1))
    assert bench.free() == [1], "it lies idle, and goes back by and by"


@pytest.mark.parametrize("granted_first", [True, False])
async def test_who_leaves_in_the_turn_of_the_answer_gives_it_back(granted_first: bool) -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST), name="take")
    take = await asked(bench)
    if granted_first:
        bench.hear(granted(take.id, 1))
    task.cancel()
    if not granted_first:
        bench.hear(granted(take.id, 1))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.free() == [1]


async def test_who_leaves_in_the_turn_of_a_refusal_has_nothing_to_give_back() -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST), name="take")
    take = await asked(bench)
    bench.hear(refused(take.id, R, Reason.SPENT))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.free() == [0]


async def test_without_a_ledger_nothing_can_be_asked() -> None:
    bench = Bench(RATE)
    bench.leases.ledger_gone()
    with pytest.raises(Draining):
        await a_room(bench).take(bench.account, REQUEST)


async def test_who_waits_when_the_ledger_goes_is_told_so(no_leaks: Failures) -> None:
    bench = Bench(RATE)
    task = spawn(a_room(bench).take(bench.account, REQUEST), name="take")
    await asked(bench)
    bench.leases.ledger_gone()
    with pytest.raises(Draining):
        await task
    assert bench.free() == [0]
    no_leaks.seen.clear()


async def test_a_ledger_that_does_not_answer_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_module, "LEDGER_PATIENCE_S", 0.01)
    bench = Bench(RATE)
    with pytest.raises(Overloaded, match="does not answer"):
        await a_room(bench, hold_wait_s=0.0).take(bench.account, REQUEST)
    take, cancel = bench.said()
    assert isinstance(take, Take)
    assert cancel == Cancel(take.id)


async def test_the_ledger_is_given_the_time_that_a_rule_lets_a_call_wait() -> None:
    bench, patient = Bench(RATE), Bench(WAITING)
    patience = room_module._patience_s
    assert patience(bench.account, 2.0) == room_module.LEDGER_PATIENCE_S + 2.0
    assert patience(patient.account, 2.0) == room_module.LEDGER_PATIENCE_S + 5.0


async def test_what_lay_idle_goes_back_before_more_is_asked_for() -> None:
    bench = Bench(TOKENS)
    bench.fill(5)
    task = spawn(a_room(bench).take(bench.account, (0, 10, 0, 0, 0)), name="take")
    for _ in range(10):
        await asyncio.sleep(0)
    back, take = bench.said()
    assert back == GiveBack((Amount(bench.account.gating[0].name, 5),))
    assert isinstance(take, Take)
    bench.hear(granted(take.id, 10))
    assert isinstance(await task, Reservation)
