"""kill -9 of anything, at any moment, under load: the buckets say what the journals do, exactly."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llmrouter.metering.journal import journal_paths
from llmrouter.metering.records import Header
from llmrouter.metering.replay import read_journal
from llmrouter.tasks import spawn
from tests.support.daemon import LLMROUTER, children, limits, run
from tests.support.load import request
from tests.support.node import LOST, Load, Node, loaded, node, seen_most
from tests.support.streams import Stream, begun
from tests.support.sums import View, assert_settled, claimed, journaled, used

pytestmark = pytest.mark.e2e

CHAT: dict[str, object] = {"stream": True, "messages": [{"role": "user", "content": "Hello"}]}


async def assert_holds_seen(living: Node, count: int = 6) -> None:
    """With nothing but some running streams, what is claimed is what they hold; then nothing."""
    keys = itertools.islice(itertools.cycle(living.keys), count)
    messages = [request(key["key"], {**CHAT, "model": "demo-stall=3"}) for key in keys]
    async with begun(living.daemon, messages) as streams:
        for stream in streams:
            assert await stream.read(3) == 3
        running = [stream.request_id for stream in streams]
        await asyncio.to_thread(assert_settled, living.daemon, running)
    await asyncio.to_thread(assert_settled, living.daemon)


async def assert_sound(living: Node) -> None:
    """Every bucket is exact: at rest, and with calls in flight."""
    await asyncio.to_thread(assert_settled, living.daemon)
    await assert_holds_seen(living)


def figures(living: Node, load: Load) -> str:
    calls = journaled(living.daemon.state)
    interrupted = [call for call in calls if call.interrupted]
    raised = [call for call in interrupted if call.raised is not None]
    seen = f"whole={load.whole} lost={load.lost} statuses={load.statuses}"
    return (
        f"{seen} journaled={len(calls)} interrupted={len(interrupted)}"
        f" of which at a raised hold={len(raised)}"
    )


LOST_BESIDES = 3
"""So many calls may be lost to their callers before they were in flight, or after their end."""
MANY_KILLS = [pytest.param(count, marks=pytest.mark.slow) for count in (99, 101)]
"""Twice, as a daemon that lives for five minutes deletes the journals that are folded."""


@pytest.mark.parametrize("kills", [3, *MANY_KILLS])
def test_a_killed_worker_leaves_no_bucket_wrong(tmp_path: Path, kills: int) -> None:
    """FR-008, SC-005: what its calls held is spent, what its leases held is free."""
    chance = random.Random(kills)

    async def kill(living: Node) -> Load:
        async with loaded(living, seed=kills) as load:
            killed = 0
            while killed < kills or load.lost < kills + LOST_BESIDES:
                await asyncio.sleep(chance.uniform(0.05, 1.5))
                killed += living.kill_worker(chance)
                assert killed < 10 * kills, "no call was ever lost"
            await asyncio.sleep(0.5)
        await assert_sound(living)
        return load

    with node(tmp_path) as living:
        load = asyncio.run(kill(living))
        print(f"{kills} kills of workers: {figures(living, load)}")  # noqa: T201
        calls = journaled(living.daemon.state)
        interrupted = [call for call in calls if call.interrupted]
        assert len(interrupted) >= kills
        assert living.far.counters()["requests"] <= seen_most(calls)
        assert any(call.end is not None and call.end.others for call in calls)
        assert any(call.end is not None and call.end.replaced for call in calls)
        assert living.daemon.stop() == 0
        # What was stored is what was counted: another life says the same.
        living.start()
        assert_settled(living.daemon)


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", ["supervisor", "everything"])
def test_a_restart_after_a_kill_leaves_no_bucket_wrong(
    tmp_path: Path, victim: str, rounds: int
) -> None:
    """FR-008, SC-005: the next life counts what was journaled and not counted, each call once."""
    chance = random.Random(rounds)

    async def kill(living: Node) -> Load:
        async with loaded(living, seed=rounds) as load:
            for _ in range(rounds):
                await asyncio.sleep(chance.uniform(1.0, 3.0))
                if victim == "supervisor":
                    living.kill_supervisor()
                    # Lone workers finish what is in flight while the next life has begun, or end.
                    if chance.random() < 0.5:
                        await asyncio.to_thread(living.wait_for_workers)
                else:
                    living.kill_everything()
                await asyncio.to_thread(living.start)
            await asyncio.sleep(0.5)
        await assert_sound(living)
        return load

    with node(tmp_path) as living:
        load = asyncio.run(kill(living))
        print(f"{rounds} kills of {victim}: {figures(living, load)}")  # noqa: T201
        living.kill_everything()
        living.start()
        assert_settled(living.daemon)


def test_streams_that_outlive_their_supervisor_hold_in_the_next_life_what_they_held(
    tmp_path: Path,
) -> None:
    """Their claims stand until they end; then they are charged as any other."""

    async def outlive(living: Node) -> None:
        key = living.keys[1]["key"]
        asked: dict[str, object] = {**CHAT, "model": "demo-tokens=1500,gap=3"}
        async with begun(living.daemon, [request(key, asked)] * 6) as streams:
            for stream in streams:
                await stream.read(20)
            running = [stream.request_id for stream in streams]
            living.kill_supervisor()
            await asyncio.to_thread(living.start)
            await asyncio.to_thread(assert_settled, living.daemon, running)
            wholes = await asyncio.gather(*(stream.read(10_000) for stream in streams))
        assert set(wholes) == {1500 + 3}  # the role, the reason of the end, and the end marker
        await asyncio.to_thread(living.wait_for_workers)
        await asyncio.to_thread(assert_settled, living.daemon)

    with node(tmp_path) as living:
        asyncio.run(outlive(living))
        assert not any(call.interrupted for call in journaled(living.daemon.state))


def test_a_stream_that_outgrew_its_hold_is_charged_with_the_last_one(tmp_path: Path) -> None:
    """A worker's death costs what was held, and what was held grows with what has passed."""

    async def outgrow(living: Node) -> None:
        asked: dict[str, object] = {**CHAT, "model": "demo-tokens=5000,gap=1"}
        message = request(living.keys[0]["key"], asked)
        async with begun(living.daemon, [message]) as (stream,):
            assert await stream.read(1_400) >= 1_400
            (call,) = journaled(living.daemon.state)
            assert call.raised is not None
            await asyncio.to_thread(assert_settled, living.daemon, [stream.request_id])
            for pid in living.note():
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(assert_settled, living.daemon)

    with node(tmp_path) as living:
        asyncio.run(outgrow(living))
        (call,) = journaled(living.daemon.state)
        assert call.interrupted
        assert call.begin.hold_tokens < 1_400 <= call.hold[0]
        assert used(limits(living.daemon)["org/acme/tokens/day"]) == call.hold[0]
        assert used(limits(living.daemon)["org/acme/usd/day"]) == call.hold[1]


def test_a_killed_workers_calls_are_charged_while_those_of_others_still_hold(
    tmp_path: Path,
) -> None:
    """Only the dead worker's claims turn into spending."""

    async def kill_one(living: Node) -> None:
        asked: dict[str, object] = {**CHAT, "model": "demo-stall=5"}
        messages = [request(key["key"], asked) for key in living.keys[:4] * 6]
        async with begun(living.daemon, messages) as streams:
            for stream in streams:
                await stream.read(5)
            running = {stream.request_id for stream in streams}
            await asyncio.to_thread(assert_settled, living.daemon, running)
            boots = calls_by_boot(living)
            victim = max(boots, key=lambda boot: len(boots[boot]))
            os.kill(pid_of(living, victim), signal.SIGKILL)
            cut = await asyncio.gather(*map(is_cut, streams))
            gone = {each.request_id for each, was_cut in zip(streams, cut, strict=True) if was_cut}
            assert gone == boots[victim]
            await asyncio.to_thread(assert_settled, living.daemon, running - gone)
        await asyncio.to_thread(assert_settled, living.daemon)

    with node(tmp_path) as living:
        asyncio.run(kill_one(living))


def calls_by_boot(living: Node) -> dict[str, set[str]]:
    """The request ids of all calls, by the life of the worker that serves them."""
    boots: dict[str, set[str]] = {}
    for call in journaled(living.daemon.state):
        boots.setdefault(call.boot, set()).add(call.begin.request_id)
    return boots


def pid_of(living: Node, boot: str) -> int:
    """The process that writes the journal of a boot."""
    for path in journal_paths(living.daemon.state / "journal"):
        for record in read_journal(path):
            if isinstance(record, Header) and record.boot == boot:
                return record.pid
    raise AssertionError(f"no journal of the boot {boot}")


async def is_cut(stream: Stream) -> bool:
    """Whether its connection has ended."""
    try:
        async with asyncio.timeout(1.5):
            await stream.read(10_000)
    except TimeoutError:
        return False
    except LOST:
        return True
    return True


def updates(living: Node, amounts: Iterator[int]) -> Sequence[str]:
    """A command that changes a key's own rules, and leaves what was used of them."""
    amount = next(amounts)
    changed = ("--limit", f"tokens={amount}/day", "--budget", f"usd={amount}/month")
    key = living.keys[0]["id"]
    return ("keys", "update", key, "--config", str(living.config), *changed)


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", ["worker", "supervisor", "everything"])
def test_a_kill_during_a_change_of_rules_leaves_the_old_ones_or_the_new(
    tmp_path: Path, victim: str, rounds: int
) -> None:
    """What was answered is in force in the next life; what was used is not touched."""
    chance = random.Random(rounds)
    # Capacities that nothing fills, told apart by their last digits; a rate of a day drains.
    amounts = itertools.count(500_000)

    async def change(living: Node) -> Load:
        async with loaded(living, seed=rounds) as load:
            for _ in range(rounds):
                command = updates(living, amounts)
                changing = spawn(asyncio.to_thread(run, *command), name="keys update")
                await asyncio.sleep(chance.uniform(0.05, 0.45))
                if victim == "worker":
                    living.kill_worker(chance)
                elif victim == "supervisor":
                    living.kill_supervisor()
                else:
                    living.kill_everything()
                done = await changing
                if victim != "worker":
                    await asyncio.to_thread(living.start)
                said = int(command[-1].partition("=")[2].partition("/")[0])
                assert_in_force(living, said, answered=done.returncode == 0)
        await assert_sound(living)
        return load

    with node(tmp_path) as living:
        # The rate that changes is new to the key: it exists before anything is counted.
        assert run(*updates(living, amounts)).returncode == 0
        load = asyncio.run(change(living))
        print(f"{rounds} updates, {victim} killed: {figures(living, load)}")  # noqa: T201


def assert_in_force(living: Node, amount: int, *, answered: bool) -> None:
    """The last change is in force as a whole, or not at all; and wholly so if it was answered."""
    views = limits(living.daemon)
    own: list[View] = [view for view in views.values() if view["name"] == living.keys[0]["id"]]
    found = {view["limit"] for view in own if view["kind"] in {"tokens", "usd"}}
    assert len(found) == 1, found
    (in_force,) = found
    assert in_force == amount or (not answered and in_force < amount)


@pytest.mark.parametrize("lives", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_lives_cut_short_count_every_call_once(tmp_path: Path, lives: int) -> None:
    """Killed while it starts, recovers or has just begun to serve, several times a second."""
    chance = random.Random(lives)

    def begin_and_kill(living: Node, *, within_s: float) -> None:
        """A life that may not even come to serve."""
        with subprocess.Popen(
            [*LLMROUTER, "serve", "--config", str(living.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(within_s)
            living.pids.update(children(process.pid, "llmrouter.daemon.worker"))
            process.kill()

    async def live(living: Node) -> Load:
        async with loaded(living, seed=lives) as load:
            for _ in range(lives):
                await asyncio.sleep(chance.uniform(0.1, 0.6))
                kill = chance.choice([living.kill_supervisor, living.kill_everything])
                kill()
                for _ in range(chance.randrange(3)):
                    within_s = chance.uniform(0.1, 0.8)
                    await asyncio.to_thread(begin_and_kill, living, within_s=within_s)
                await asyncio.to_thread(living.start)
            await asyncio.sleep(0.3)
        await assert_sound(living)
        return load

    with node(tmp_path) as living:
        load = asyncio.run(live(living))
        print(f"{lives} short lives: {figures(living, load)}")  # noqa: T201


def test_what_is_claimed_is_nothing_where_nobody_ever_called(tmp_path: Path) -> None:
    with node(tmp_path) as living:
        for _ in range(3):
            living.kill_worker(random.Random(1))
        assert_settled(living.daemon)
        assert {claimed(view) for view in limits(living.daemon).values()} == {0}
