import asyncio
import contextlib
import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Operation, Usage
from llmrouter.contracts.rule import Scope
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import (
    InternalError,
    ModelNotFound,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.unrecorded import Unrecorded
from llmrouter.http1.downstream import CUT_BY_US
from llmrouter.metering.journal import Journal, JournalFiles, journal_paths
from llmrouter.metering.records import NO_USAGE, Attempt, Header
from llmrouter.metering.replay import JournaledCall, pair
from llmrouter.quota.estimate import FIRST_OUTPUT, Estimator
from tests.support.gateway import Quota, asking, request, staged
from tests.support.idle import idle_exchange, idle_spending
from tests.support.ledger import FLAT, TOKEN_NANO, money
from tests.support.upstream import Play, Stall, answer, chunk, stream, stream_head
from tests.support.waiting import until

BODY = b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"cost":0.5}}'


@pytest.mark.asyncio
async def test_begin_and_end_say_who_asked_for_what_and_what_it_used(tmp_path: Path) -> None:
    """FR-004: every member of both records."""
    quota = Quota(rules={Scope(kind="org", name="org"): (money(5_000),)}, prices={"gpt": FLAT})
    async with staged(tmp_path, [answer(BODY)], aliases={"gpt": ["nick"]}, quota=quota) as stage:
        stage.node.rulebook.generation = 7
        key = stage.issue(org="org", team="team", user="who@example.com")
        response = await stage.ask(stage.chat(key=key, model="nick", max_tokens=50))
        (call,) = await stage.calls()
        begin, end = call.begin, call.end
        assert end is not None
        prompt = Estimator().prompt_tokens("gpt", len(asking("nick", max_tokens=50)))
        assert msgspec.structs.asdict(begin) == {
            "seq": 1,
            "at_ms": begin.at_ms,
            "request_id": response.headers[b"x-request-id"].decode(),
            "org": "org",
            "team": "team",
            "user": "who@example.com",
            "key_id": key[6:18].decode(),
            "model": "gpt",
            "deployment": "up/gpt-real",
            "upstream": "up",
            "dialect": "openai",
            "operation": "chat",
            "stream": False,
            "hold_tokens": prompt + 50,
            "hold_nano_usd": (prompt + 50) * TOKEN_NANO,
            "rules": 7,
            "instead_of": (),
        }
        assert stage.node.started_ms <= begin.at_ms <= end.at_ms <= stage.node.now_ms()
        assert (end.seq, end.request_id, end.status) == (1, begin.request_id, 200)
        assert (end.outcome, end.error_code, end.attempts) == ("ok", None, 1)
        assert end.usage == Usage(prompt_tokens=9, output_tokens=4, cost_nano_usd=500_000_000)
        assert (end.estimated, end.cost_nano_usd, end.price) == (False, 13 * TOKEN_NANO, "1/1/1")
        assert end.ttft_ms is not None
        assert 0 <= end.ttft_ms <= end.duration_ms


@pytest.mark.asyncio
async def test_a_model_without_a_price_costs_what_its_upstream_says_by_no_price_of_ours(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, [answer(BODY)]) as stage:
        await stage.ask(stage.chat())
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.cost_nano_usd, call.end.price) == (500_000_000, None)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", [b"chat/completions", b"completions", b"embeddings", b"responses"])
async def test_each_operation_is_told_apart(tmp_path: Path, path: bytes) -> None:
    async with staged(tmp_path, [answer(BODY)]) as stage:
        await stage.ask(request(b"/v1/" + path, stage.key, b'{"model":"gpt","input":"x"}'))
        (call,) = await stage.calls()
        assert (
            call.begin.operation
            == {
                b"chat/completions": "chat",
                b"completions": "completion",
                b"embeddings": "embedding",
                b"responses": "response",
            }[path]
        )


@pytest.mark.asyncio
async def test_no_secret_prompt_or_answer_is_ever_written_down(tmp_path: Path) -> None:
    said = answer(b'{"choices":["the answer"],"error":"why"}')
    async with staged(tmp_path, [said], [answer(b'{"error":"why"}', status=500)]) as stage:
        for _ in range(2):
            await stage.ask(stage.chat(user="the user"))
        await stage.calls(2)
        written = b"".join(path.read_bytes() for path in stage.journal_dir.iterdir())
        for secret in (stage.key, stage.key[-43:], b"a prompt", b"the answer", b"why", b"the user"):
            assert secret not in written


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"{}", b'{"usage":null}', b"[]", b'{"usage":{"other":1}}'])
async def test_an_answer_without_usage_is_marked_as_estimated(tmp_path: Path, body: bytes) -> None:
    async with staged(tmp_path, [answer(body)]) as stage:
        await stage.ask(stage.chat())
        (call,) = await stage.calls()
        assert call.end is not None
        prompt = Estimator().prompt_tokens("gpt", len(asking()))
        foreseen = Usage(prompt_tokens=prompt, output_tokens=FIRST_OUTPUT)
        assert (call.end.outcome, call.end.estimated, call.end.usage) == ("ok", True, foreseen)


@pytest.mark.asyncio
async def test_a_long_stream_settles_at_what_was_said_last(tmp_path: Path) -> None:
    counts = [b'data: {"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % n
              for n in range(1, 6)]  # fmt: skip
    async with staged(tmp_path, [stream(*counts, b"data: [DONE]\n\n")]) as stage:
        await stage.ask(stage.chat(stream=True))
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.usage == Usage(prompt_tokens=9, output_tokens=5)


@pytest.mark.asyncio
async def test_every_begin_has_its_end_in_every_ending_at_once(tmp_path: Path) -> None:
    """Many at once, each its own way; the stage checks the pairs at its end."""
    plays: list[Any] = [[answer(BODY)], [answer(b"{}", status=500)], [answer(b"{")], [Stall()]]
    async with staged(tmp_path, *(plays * 5)) as stage:

        async def call() -> None:
            async with stage.connected() as client:
                await client.send(stage.chat())
                await until(lambda: len(stage.upstream.seen) == 20, "not all arrived")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.read()
                client.reset()

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(call())
        calls = await stage.calls(20)
        assert sorted(call.begin.seq for call in calls) == list(range(1, 21))
        ends = [(call.end.status, call.end.outcome) for call in calls if call.end is not None]
        assert sorted(set(ends)) == [
            (0, "client_gone"),
            (200, "ok"),
            (500, "upstream_error"),
            (502, "upstream_error"),
        ]


@pytest.mark.asyncio
@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "streaming"])
async def test_a_call_that_the_server_cut_is_not_its_clients_doing(
    tmp_path: Path, begun: bool
) -> None:
    event = chunk(b"data: {}\n\n")
    play: Play = [stream_head(), event, Stall()] if begun else [Stall()]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        if begun:
            await client.read_until(event)
        await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
        stage.server.abort()
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.status) == ("router_error", 200 if begun else 0)


class Disk:
    """Takes what is written, unless it is full."""

    def __init__(self, *, full: bool) -> None:
        self.full = full

    def __call__(self, fd: int, data: bytes | memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


class Written:
    """A meter and its journal, on a disk that may be full; the loop's turns are the test's."""

    def __init__(
        self, directory: Path, *, full: bool = False, unrecorded: Unrecorded | None = None
    ) -> None:
        self._directory = directory
        self._soon: list[Callable[[], None]] = []
        self._disk = Disk(full=full)
        files = JournalFiles(directory, Header(worker="0", boot="b", pid=1), write=self._disk)
        self._journal = Journal(
            files, call_soon=self._soon.append, call_later=lambda _, callback: None
        )
        self.meter = self._meter(unrecorded)

    def _meter(self, unrecorded: Unrecorded | None) -> Meter:
        exchange = idle_exchange()
        exchange.arrived_at = 10.0
        return Meter(
            self._journal,
            lambda: 10.25,
            lambda: 1_000_500,
            unrecorded,
            exchange,
            idle_spending(),
        )

    def another(self, *, full: bool = False, unrecorded: Unrecorded | None = None) -> "Written":
        """The same journal, and a meter of its own."""
        other = copy.copy(self)
        other.meter = self._meter(unrecorded)
        self._disk.full = full
        return other

    def has_room(self) -> None:
        """The disk is not full any more."""
        self._disk.full = False

    def begin(self) -> None:
        """Have the begin written, and the call sent in the loop's next turn."""
        call = OpenAI().read_call(Operation.CHAT, b'{"model":"gpt"}')
        self.meter.begin(call, self._send, lambda error: None)

    def send(self) -> None:
        """Have the begin written, and the call sent."""
        self.begin()
        self.turn()

    def _send(self) -> None:
        self.meter.sent()

    def turn(self) -> None:
        while self._soon:
            self._soon.pop(0)()

    def flush(self) -> None:
        self._journal.flush()

    @property
    def ends_lost(self) -> int:
        return self._journal.ends_lost

    def found(self) -> list[JournaledCall]:
        """What is in the files now."""
        found = pair(journal_paths(self._directory))
        assert [*found.orphans, *found.duplicates] == []
        return found.calls

    def calls(self) -> list[JournaledCall]:
        """What is found in the files afterwards."""
        self.turn()
        self._journal.close()
        return self.found()


@pytest.mark.parametrize(
    ("error", "outcome", "status", "code"),
    [
        (asyncio.CancelledError(), "client_gone", 0, None),
        (asyncio.CancelledError(CUT_BY_US), "router_error", 0, None),
        (UpstreamTimeout("x"), "upstream_error", 504, "upstream_timeout"),
        (InternalError("x"), "router_error", 500, "internal_error"),
        (ModelNotFound("x"), "router_error", 404, "model_not_found"),
        (KeyError("a bug"), "router_error", 0, None),
    ],
)
def test_how_a_call_ended_follows_from_what_ended_it(
    tmp_path: Path, error: BaseException, outcome: str, status: int, code: str | None
) -> None:
    written = Written(tmp_path)
    with contextlib.suppress(type(error)), written.meter:
        written.begin()
        raise error
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.outcome, end.status, end.error_code) == (outcome, status, code)
    assert (end.at_ms, end.duration_ms, end.ttft_ms) == (1_000_500, 250, None)


def test_the_time_to_the_first_byte_counts_from_the_callers_head(tmp_path: Path) -> None:
    written = Written(tmp_path)
    with written.meter:
        written.begin()
        written.meter.first_byte()
    (call,) = written.calls()
    assert call.end is not None
    assert (call.end.ttft_ms, call.end.duration_ms) == (250, 250)


def test_a_call_that_did_not_come_to_its_begin_has_no_end(tmp_path: Path) -> None:
    written = Written(tmp_path)
    with written.meter:
        pass
    assert written.calls() == []


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyError("a bug")])
def test_a_call_that_was_not_sent_yet_used_nothing(tmp_path: Path, error: BaseException) -> None:
    """It counts as one request: its begin is in the file."""
    written = Written(tmp_path)
    with contextlib.suppress(type(error)), written.meter:
        written.begin()
        raise error
    ((end,),) = [[call.end] for call in written.found()]
    assert end is None  # but its begin was written, or else there would have to be no end
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.usage, end.estimated) == (NO_USAGE, True)


def test_a_call_that_was_left_before_its_begin_found_no_room_has_no_end(tmp_path: Path) -> None:
    written = Written(tmp_path, full=True)
    with contextlib.suppress(asyncio.CancelledError), written.meter:
        written.begin()
        raise asyncio.CancelledError
    assert written.calls() == []
    assert written.ends_lost == 0


def test_a_call_that_goes_on_unrecorded_writes_nothing(tmp_path: Path) -> None:
    """Neither a hold nor an end: their begin is in no file."""
    written = Written(tmp_path, full=True, unrecorded=Unrecorded(lambda: 0.0))
    with written.meter as meter:
        written.send()
        assert meter.is_sent
        meter.extended()
        meter.usage = Usage(prompt_tokens=3)
    assert not meter.spending.reservation.is_open
    assert written.calls() == []


def test_a_begin_that_could_not_be_written_has_no_end(tmp_path: Path) -> None:
    written = Written(tmp_path, full=True)
    with written.meter:
        written.begin()
        written.turn()
    assert written.calls() == []


CHARGED = Usage(prompt_tokens=10, output_tokens=25)
"""What a plain call of `idle_spending` is charged with that nobody saw the end of."""


@pytest.mark.parametrize(
    ("error", "usage"),
    [
        (asyncio.CancelledError(), CHARGED),
        (asyncio.CancelledError(CUT_BY_US), CHARGED),
        (UpstreamTimeout("x"), CHARGED),
        (KeyError("a bug"), CHARGED),
        (UpstreamUnreachable("x"), NO_USAGE),
        (UpstreamError("x"), NO_USAGE),
    ],
)
def test_what_is_charged_where_no_usage_came_follows_from_what_ended_it(
    tmp_path: Path, error: BaseException, usage: Usage
) -> None:
    """Whoever refused or broke off has given nothing; whoever was left alone may have."""
    written = Written(tmp_path)
    with contextlib.suppress(type(error)), written.meter:
        written.send()
        raise error
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.usage, end.estimated) == (usage, True)


def test_what_the_upstream_says_is_charged_however_the_call_ended(tmp_path: Path) -> None:
    said = Usage(prompt_tokens=1, output_tokens=2)
    written = Written(tmp_path)
    with contextlib.suppress(UpstreamError), written.meter as meter:
        written.send()
        meter.usage = said
        raise UpstreamError("x")
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.usage, end.estimated) == (said, False)


@pytest.mark.parametrize(
    ("events", "streams", "has_passed", "usage"),
    [
        (0, True, False, NO_USAGE),
        (7, True, False, Usage(prompt_tokens=10, output_tokens=7)),
        (0, False, True, CHARGED),
    ],
)
def test_an_answer_that_was_cut_is_charged_with_what_passed(
    tmp_path: Path, events: int, streams: bool, has_passed: bool, usage: Usage
) -> None:
    written = Written(tmp_path)
    with written.meter as meter:
        written.send()
        meter.streams, meter.has_passed = streams, has_passed
        meter.spending.events = events
        meter.outcome = "upstream_error"
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert end.usage == usage


@pytest.mark.parametrize(("is_whole", "output"), [(True, 5), (False, 100)])
def test_of_a_stream_that_was_left_the_upstreams_word_is_the_last_once_it_has_ended(
    tmp_path: Path, is_whole: bool, output: int
) -> None:
    """Before that, more may have passed since: see `Spending.passed_since`."""
    written = Written(tmp_path)
    with contextlib.suppress(asyncio.CancelledError), written.meter as meter:
        written.send()
        meter.usage, meter.is_whole = Usage(prompt_tokens=1, output_tokens=5), is_whole
        meter.spending.events = 100
        meter.streams = True
        raise asyncio.CancelledError
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.usage.output_tokens, end.estimated) == (output, not is_whole)


def test_a_stream_that_holds_more_has_that_written_down(tmp_path: Path) -> None:
    """What the supervisor charges if the worker dies now."""
    written = Written(tmp_path)
    with written.meter as meter:
        written.begin()
        written.turn()
        meter.spending.reservation.extend(256, 300, lambda refusal: None, 0)
        meter.extended()
        written.flush()
        (call,) = written.found()
        assert call.raised is not None
        assert (call.raised.tokens, call.raised.nano_usd) == (286, 300)
        assert (call.begin.hold_tokens, call.begin.hold_nano_usd) == (30, 0)
    assert len(written.calls()) == 1


def test_a_second_hold_is_in_the_file_at_once(tmp_path: Path) -> None:
    """For an attempt that is sent in the same turn."""
    written = Written(tmp_path)
    with written.meter as meter:
        written.send()
        meter.spending.reservation.extend(30, 7, lambda refusal: None, 0)
        meter.held_again()
        (call,) = written.found()
        assert call.hold == (60, 7)


# ---- other attempts, and other models ------------------------------------------------------------


class Passed:
    """An attempt that did not answer."""

    model = "gpt-real"

    def __init__(self, *, was_made: bool = True) -> None:
        self.was_made = was_made

    def record(self) -> Attempt:
        usage = Usage(prompt_tokens=3, output_tokens=4)
        return Attempt(deployment="up/gpt-real", upstream="up", outcome="hedged", usage=usage)


def test_attempts_that_did_not_answer_stand_beside_the_call(tmp_path: Path) -> None:
    written = Written(tmp_path)
    with written.meter as meter:
        written.send()
        for was_made in (True, False, True):
            meter.passed_over(Passed(was_made=was_made))
        meter.usage = Usage(prompt_tokens=5, output_tokens=6)
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.attempts, end.usage.prompt_tokens) == (3, 5)
    assert [one.usage.output_tokens for one in end.others] == [4, 4]


def end_of(call: JournaledCall) -> tuple[str, bool] | None:
    return None if call.end is None else (call.end.outcome, call.end.replaced)


def failed(written: Written) -> Meter | None:
    """The call was sent, and no deployment of its model answered."""
    with written.meter as meter:
        written.send()
        meter.settle_failed(UpstreamError("x"), NO_USAGE, estimated=False)
        return meter.hand_over()


def test_a_call_that_another_model_takes_over_ends_once_the_begin_of_that_is_written(
    tmp_path: Path,
) -> None:
    first = Written(tmp_path)
    before = failed(first)
    second = first.another()
    with second.meter as meter:
        meter.take_over(("gpt",), 1, before)
        second.begin()
        assert [end_of(call) for call in first.found()] == [None]
        second.turn()
        first.flush()
        assert [end_of(call) for call in first.found()] == [("upstream_error", True), None]
    assert [end_of(call) for call in first.calls()] == [("upstream_error", True), ("ok", False)]
    assert [call.begin.instead_of for call in first.found()] == [(), ("gpt",)]


@pytest.mark.parametrize("begins", [False, True])
def test_a_call_that_nothing_took_over_stands_for_itself(tmp_path: Path, begins: bool) -> None:
    """The second was never sent; or its begin found no room on the disk."""
    first = Written(tmp_path)
    before = failed(first)
    second = first.another(full=True)
    with second.meter as meter:
        meter.take_over(("gpt",), 1, before)
        if begins:
            second.begin()
            second.turn()
    second.has_room()
    assert [end_of(call) for call in first.calls()] == [("upstream_error", False)]


def test_a_model_that_was_not_asked_hands_on_what_it_took_over(tmp_path: Path) -> None:
    first = Written(tmp_path)
    before = failed(first)
    second = first.another()
    with second.meter as meter:
        meter.take_over(("gpt",), 1, before)
        handed_on = meter.hand_over()
    assert handed_on is before
    third = first.another()
    with third.meter as meter:
        meter.take_over(("gpt",), 2, handed_on)
        third.send()
    assert [end_of(call) for call in first.calls()] == [("upstream_error", True), ("ok", False)]
    end = first.found()[1].end
    assert end is not None
    assert end.attempts == 3


def test_a_call_stands_for_itself_where_what_took_over_goes_unrecorded(tmp_path: Path) -> None:
    first = Written(tmp_path)
    before = failed(first)
    second = first.another(full=True, unrecorded=Unrecorded(lambda: 0.0))
    with second.meter as meter:
        meter.take_over(("gpt",), 1, before)
        second.send()
        assert meter.is_sent
    second.has_room()
    assert [end_of(call) for call in first.calls()] == [("upstream_error", False)]


def test_what_was_sent_in_the_turn_in_which_its_client_left_used_nothing(tmp_path: Path) -> None:
    written = Written(tmp_path)
    with contextlib.suppress(asyncio.CancelledError), written.meter as meter:
        written.begin()
        meter.streams = True
        raise asyncio.CancelledError
    ((end,),) = [[call.end] for call in written.calls()]
    assert end is not None
    assert (end.outcome, end.usage) == ("client_gone", NO_USAGE)
