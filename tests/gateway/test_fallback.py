"""Another model takes over: its own limits and price, two records, and one truth for the caller."""

import asyncio
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import JournaledCall
from llmrouter.routing.failure import FallbackOn
from llmrouter.routing.routes import Policy
from tests.support.gateway import At, Quota, Stage, error_of, limited, staged
from tests.support.interrupting import Interrupted, lose_clients
from tests.support.leaks import Failures
from tests.support.ledger import FLAT, TOKEN_NANO, at_once, money, requests, tokens
from tests.support.plays import (
    CASES,
    CHEAP,
    CHEAP_NANO,
    DEAR,
    HASTY,
    NAMES,
    PROMPT_TOKENS,
    USED,
    Fault,
    plain,
    refusing,
    said,
)
from tests.support.upstream import Play, Stall, Wait
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

POLICY = Policy(attempts_max=3, repeats_share=1.0, fallbacks=("other",))
ROUTES = {"gpt": At("up"), "other": At("else"), "third": At("last")}
PRICES = {"gpt": DEAR, "other": CHEAP, "third": FLAT}
QUOTA = Quota(rules=limited(requests(100), tokens(10**6), money(10**6)).rules, prices=PRICES)
FAILING = [refusing(500)]


def falling(
    tmp_path: Path,
    first: Play,
    others: Mapping[str, Sequence[Play]],
    *,
    policy: Policy = POLICY,
    policies: Mapping[str, Policy] | None = None,
    quota: Quota = QUOTA,
    routes: Mapping[str, Any] = ROUTES,
    **more: Any,
) -> Any:
    """A stage on which `gpt` falls back to `other`, at the upstream `else`."""
    return staged(
        tmp_path,
        first,
        others={"else": [[plain()]], "last": [[plain("third")]], **others},
        routes=routes,
        policies={"gpt": policy, **(policies or {})},
        quota=quota,
        **more,
    )


def priced(*rules: Any) -> Quota:
    return Quota(rules=limited(*rules).rules, prices=PRICES)


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def used(stage: Stage) -> dict[str, int]:
    """What has been used of each rule."""
    stage.node.settle()
    return {name.removeprefix("org/acme/"): one.used for name, one in stage.node.standing().items()}


def ends(calls: Sequence[JournaledCall]) -> list[tuple[Any, ...]]:
    """What tells the records of a call apart."""
    return [
        (call.begin.model, call.begin.instead_of, call.end.outcome, call.end.replaced)
        for call in calls
        if call.end is not None
    ]


@pytest.mark.parametrize(
    ("name", "fault", "stream"),
    [case for case in CASES if case[0] != "408"],
    ids=[name for name in NAMES if not name.startswith("408")],
)
async def test_another_model_answers_where_no_deployment_of_the_first_does(
    tmp_path: Path, name: str, fault: Fault, stream: bool
) -> None:
    policy = Policy(attempts_max=2, repeats_share=1.0, fallbacks=("other",))
    said_by_other = {"else": [[said(stream=stream)]]}
    async with falling(
        tmp_path, fault.play, said_by_other, policy=policy, timeouts={"up": HASTY}
    ) as stage:
        response = await stage.ask(stage.chat(stream=stream))

        assert (response.status, response.whole, b"second" in response.body) == (200, True, True)
        assert b"FIRST" not in repr(response).encode()
        assert response.headers[b"x-llmrouter-model"] == b"other"
        assert response.headers[b"x-llmrouter-deployment"] == b"else/other"
        first, second = calls = await stage.calls(2)
        assert ends(calls) == [
            ("gpt", (), "upstream_error", True),
            ("other", ("gpt",), "ok", False),
        ]
        assert first.begin.request_id == second.begin.request_id
        assert first.end is not None
        assert second.end is not None
        assert (first.end.status, first.end.error_code) == (0, fault.code)
        assert (first.end.attempts, second.end.attempts) == (1, 2)
        assert (first.end.usage.prompt_tokens > 0) == fault.is_silent
        assert second.end.usage.prompt_tokens == PROMPT_TOKENS
        assert second.end.cost_nano_usd == USED * CHEAP_NANO
        assert used(stage)["requests/day"] == 1


async def test_the_begin_of_the_second_stands_before_the_end_of_the_first(tmp_path: Path) -> None:
    """A worker that dies in between leaves a record of the call, whenever that is."""
    async with falling(tmp_path, FAILING, {}) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(2)
        lines = b"".join(path.read_bytes() for path in journal_paths(stage.journal_dir))
        kinds = [msgspec.json.decode(line) for line in lines.splitlines()]
        order = [(kind["t"], kind["seq"]) for kind in kinds if "seq" in kind]
        assert order.index(("begin", 2)) < order.index(("end", 1))


# ---- limits and budgets -------------------------------------------------------------------------


async def test_a_request_is_counted_once_by_each_limit_that_covers_it(tmp_path: Path) -> None:
    quota = priced(
        requests(100),
        requests(100, model="gpt"),
        requests(100, model="other"),
        requests(100, model="third"),
        tokens(10**6, model="gpt"),
        tokens(10**6, model="other"),
    )
    async with falling(tmp_path, FAILING, {}, quota=quota) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(2)
        assert used(stage) == {
            "requests/day": 1,
            "requests/day/gpt": 1,
            "requests/day/other": 1,
            "requests/day/third": 0,
            "tokens/day/gpt": 0,
            "tokens/day/other": USED,
        }


async def test_a_first_model_that_was_never_asked_counts_nothing(tmp_path: Path) -> None:
    quota = priced(requests(100), requests(100, model="gpt"), requests(100, model="other"))
    async with falling(
        tmp_path, FAILING, {}, quota=quota, url="http://no-such-host.invalid"
    ) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        (call,) = await stage.calls()
        assert ends([call]) == [("other", (), "ok", False)]
        found = used(stage)
        assert list(found.values()) == [1, 0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_not_in_the_way_of_its_own_fallback(tmp_path: Path, stream: bool) -> None:
    quota = priced(at_once(1), requests(1), tokens(300), money(10_000))
    others = {"else": [[said(stream=stream)]]}
    async with falling(tmp_path, FAILING, others, quota=quota) as stage:
        assert (await stage.ask(stage.chat(stream=stream, max_tokens=50))).status == 200


async def test_a_fallback_without_room_leaves_it_to_the_next(tmp_path: Path) -> None:
    policy = Policy(attempts_max=3, repeats_share=1.0, fallbacks=("other", "third"))
    quota = priced(requests(1, model="other"), requests(100))
    async with falling(tmp_path, FAILING, {}, policy=policy, quota=quota) as stage:
        served = [(await stage.ask(stage.chat())).headers[b"x-llmrouter-model"] for _ in range(2)]
        assert served == [b"other", b"third"]


async def test_where_no_fallback_has_room_the_first_failure_is_told(tmp_path: Path) -> None:
    quota = priced(requests(1, model="other"), requests(100))
    async with falling(tmp_path, FAILING, {}, quota=quota) as stage:
        await stage.ask(stage.chat(model="other"))
        response = await stage.ask(stage.chat())
        assert (response.status, b"FIRST" in response.body) == (500, True)
        assert b"x-llmrouter-model" not in response.headers
        assert ends(await stage.calls(2))[1:] == [("gpt", (), "upstream_error", False)]


async def test_a_fallback_that_this_key_may_not_use_is_passed_over(tmp_path: Path) -> None:
    policy = Policy(attempts_max=3, repeats_share=1.0, fallbacks=("other", "third"))
    async with falling(
        tmp_path, FAILING, {}, policy=policy, orgs={"acme": ["gpt", "third"]}
    ) as stage:
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-model"] == b"third"
        assert stage.scripts["else"].seen == []


async def test_a_strict_budget_pays_for_each_model_in_its_turn(tmp_path: Path) -> None:
    quota = priced(money(100_000, strict=True))
    async with falling(
        tmp_path, [Stall()], {"else": [[Stall()]]}, quota=quota, timeouts=HASTY
    ) as stage:
        assert (await stage.ask(stage.chat(max_tokens=100))).status == 504
        first, second = await stage.calls(2)
        assert first.end is not None
        assert second.end is not None
        assert first.end.cost_nano_usd == first.begin.hold_nano_usd
        assert second.end.cost_nano_usd == second.begin.hold_nano_usd


async def test_a_silent_attempt_under_a_strict_budget_is_not_repeated_without_room(
    tmp_path: Path,
) -> None:
    """It may be billed as its worst case, and so may the next."""
    worst = 1_024 + 100 + 100
    for room, seen in ((worst + 50, [1, 0]), (10 * worst, [1, 1])):
        async with staged(
            made(tmp_path / str(room)),
            [Stall()],
            others={"up2": [[plain()]]},
            routes={"gpt": [At("up"), At("up2")]},
            policies={"gpt": Policy(attempts_max=2, repeats_share=1.0)},
            strategy="ordered",
            timeouts={"up": HASTY},
            quota=Quota(rules=limited(money(room, strict=True)).rules, prices={"gpt": FLAT}),
        ) as stage:
            await stage.ask(stage.chat(max_tokens=100))
            assert [len(script.seen) for script in stage.scripts.values()] == seen


# ---- what the caller is told -------------------------------------------------------------------


@pytest.mark.parametrize("then", [400, 404, 429, 500, None])
@pytest.mark.parametrize(
    ("first", "status"),
    [
        ([refusing(500)], 500),
        ([refusing(429, headers=b"retry-after: 30\r\n")], 429),
        ([refusing(400, "context_length_exceeded")], 400),
        ([refusing(401)], 502),
        ([Stall()], 504),
    ],
    ids=["500", "429", "too-long", "401", "silent"],
)
async def test_the_caller_is_told_what_became_of_the_model_that_was_asked_for(
    tmp_path: Path, first: Play, status: int, then: int | None
) -> None:
    """Not that a fallback refuses its call, or is silent."""
    policy = Policy(attempts_max=2, repeats_share=1.0, fallbacks=("other",))
    play: Play = [Stall()] if then is None else [refusing(then)]
    async with falling(tmp_path, first, {"else": [play]}, policy=policy, timeouts=HASTY) as stage:
        response = await stage.ask(stage.chat())
        assert response.status == status
        assert len(stage.scripts["else"].seen) == 1
        assert response.headers.get(b"retry-after") == (b"30" if status == 429 else None)
        assert b"x-llmrouter-model" not in response.headers
        if b"x-llmrouter-deployment" in response.headers:
            assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt"
        calls = await stage.calls(2)
        assert ends(calls) == [
            ("gpt", (), "upstream_error", True),
            ("other", ("gpt",), "upstream_error", False),
        ]
        assert calls[1].end is not None
        assert calls[1].end.status == status


# ---- which failures lead to another model ------------------------------------------------------


TOO_LONG = [refusing(400, "context_length_exceeded")]


@pytest.mark.parametrize(
    ("contexts", "serves"),
    [
        ((1_000, 2_000), "other"),
        ((1_000, None), "other"),
        ((None, 2_000), "other"),
        ((2_000, 2_000), None),
        ((2_000, 1_000), None),
    ],
)
async def test_a_prompt_that_is_too_long_goes_to_a_longer_model_and_to_no_other(
    tmp_path: Path, contexts: tuple[int | None, int | None], serves: str | None
) -> None:
    mine, other = contexts
    policy = Policy(repeats_share=1.0, fallbacks=("other",), context_max=mine)
    routes = {"gpt": [At("up"), At("last")], "other": At("else")}
    async with falling(
        tmp_path,
        TOO_LONG,
        {},
        policy=policy,
        policies={"other": Policy(context_max=other)},
        routes=routes,
        strategy="ordered",
    ) as stage:
        response = await stage.ask(stage.chat())
        assert response.status == (400 if serves is None else 200)
        assert response.headers.get(b"x-llmrouter-model") == (serves and serves.encode())
        assert stage.scripts["last"].seen == [], "another deployment has the same context"
        assert len(stage.scripts["else"].seen) == (serves is not None)


async def test_a_shorter_model_is_passed_over_for_a_longer_one(tmp_path: Path) -> None:
    policy = Policy(repeats_share=1.0, fallbacks=("other", "third"), context_max=1_000)
    policies = {"other": Policy(context_max=500), "third": Policy(context_max=5_000)}
    async with falling(tmp_path, TOO_LONG, {}, policy=policy, policies=policies) as stage:
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-model"] == b"third"


FILTERED: dict[str, tuple[Play, int]] = {
    "refused": ([refusing(400, "content_filter")], 0),
    "answered": ([plain("FIRST", finish="content_filter")], USED),
}


@pytest.mark.parametrize(("play", "charged"), FILTERED.values(), ids=FILTERED)
async def test_a_content_filter_leads_to_another_model_only_where_that_is_wanted(
    tmp_path: Path, play: Play, charged: int
) -> None:
    wanted = Policy(
        repeats_share=1.0,
        fallbacks=("other",),
        fallback_on=frozenset({FallbackOn.CONTENT_FILTER}),
    )
    async with falling(made(tmp_path / "wanted"), play, {}, policy=wanted) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, b"second" in response.body) == (200, True)
        first, _ = await stage.calls(2)
        assert first.end is not None
        assert first.end.usage.prompt_tokens + first.end.usage.output_tokens == charged
        assert first.end.cost_nano_usd == charged * TOKEN_NANO * 10
    async with falling(made(tmp_path / "else"), play, {}) as stage:
        response = await stage.ask(stage.chat())
        assert b"FIRST" in response.body
        assert stage.scripts["else"].seen == []


async def test_an_answer_that_a_filter_cut_is_given_where_no_other_model_answers(
    tmp_path: Path,
) -> None:
    wanted = Policy(
        repeats_share=1.0,
        fallbacks=("other",),
        fallback_on=frozenset({FallbackOn.CONTENT_FILTER}),
    )
    play: Play = [plain("FIRST", finish="content_filter")]
    async with falling(tmp_path, play, {"else": [FAILING]}, policy=wanted) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, b"FIRST" in response.body) == (200, True)


async def test_failures_that_name_no_fallback_leave_all_attempts_to_the_model(
    tmp_path: Path,
) -> None:
    policy = Policy(
        attempts_max=2,
        repeats_share=1.0,
        fallbacks=("other",),
        fallback_on=frozenset({FallbackOn.CONTENT_FILTER}),
    )
    async with staged(
        tmp_path,
        FAILING,
        [plain("first")],
        others={"else": [[plain()]]},
        routes={"gpt": At("up"), "other": At("else")},
        policies={"gpt": policy},
    ) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, b"first" in response.body) == (200, True)


async def test_a_model_whose_deployments_are_all_out_is_replaced_at_once(tmp_path: Path) -> None:
    async with falling(tmp_path, [plain("FIRST")], {}) as stage:
        stage.conditions.of("up/gpt").rest_until(stage.now() + 60, "test", stage.now())
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-model"] == b"other"
        assert stage.upstream.seen == []
        (call,) = await stage.calls()
        assert ends([call]) == [("other", (), "ok", False)]
        assert call.end is not None
        assert call.end.attempts == 1


async def test_a_model_whose_places_are_taken_is_replaced_at_once(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with falling(tmp_path, [Wait(go_on), plain("first")], {}, concurrent={"up": 1}) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        assert (await stage.ask(stage.chat())).headers[b"x-llmrouter-model"] == b"other"
        go_on.set()
        assert b"first" in (await before).body


# ---- chains ------------------------------------------------------------------------------------


CHAIN = Policy(attempts_max=3, repeats_share=1.0, fallbacks=("other", "third"))
GONE = [refusing(404)]
"""It is not tried again."""


async def test_the_fallback_of_a_fallback_takes_over_from_both(tmp_path: Path) -> None:
    quota = priced(requests(100), requests(100, model="other"), requests(100, model="third"))
    async with falling(tmp_path, GONE, {"else": [GONE]}, policy=CHAIN, quota=quota) as stage:
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-model"] == b"third"
        assert ends(await stage.calls(3)) == [
            ("gpt", (), "upstream_error", True),
            ("other", ("gpt",), "upstream_error", True),
            ("third", ("gpt", "other"), "ok", False),
        ]
        assert list(used(stage).values()) == [1, 1, 1]


async def test_a_fallback_that_cannot_be_reached_stands_between_nobody(tmp_path: Path) -> None:
    """The first is replaced by the third, and has one end."""
    async with falling(tmp_path, GONE, {}, policy=CHAIN) as stage:
        await stage.cut_off("else")
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-model"] == b"third"
        calls = await stage.calls(2)
        assert ends(calls) == [
            ("gpt", (), "upstream_error", True),
            ("third", ("gpt",), "ok", False),
        ]
        assert calls[1].end is not None
        assert calls[1].end.attempts == 3


async def test_a_first_model_is_not_replaced_by_what_could_not_be_reached(tmp_path: Path) -> None:
    async with falling(tmp_path, FAILING, {}) as stage:
        await stage.cut_off("else")
        response = await stage.ask(stage.chat())
        assert (response.status, b"FIRST" in response.body) == (500, True)
        (call,) = await stage.calls()
        assert ends([call]) == [("gpt", (), "upstream_error", False)]
        assert call.end is not None
        assert call.end.status == 500


async def test_a_first_model_is_not_replaced_by_what_could_not_be_written_down(
    tmp_path: Path,
) -> None:
    """The disk is full by then, so the second is not sent: the first stands for the call."""
    full = False

    def write(fd: int, data: bytes | memoryview) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    go_on = asyncio.Event()
    async with falling(tmp_path, [Wait(go_on), refusing(500)], {}, write=write) as stage:
        asked = stage.begin(stage.chat())
        await stage.asked(1)
        full = True
        go_on.set()
        response = await asked
        assert (response.status, error_of(response)["code"]) == (503, "overloaded")
        full = False
        assert stage.scripts["else"].seen == []
        assert ends(await stage.calls()) == [("gpt", (), "upstream_error", False)]


async def test_a_first_model_stands_for_the_call_where_the_second_goes_unrecorded(
    tmp_path: Path, no_leaks: Failures
) -> None:
    full = False

    def write(fd: int, data: bytes | memoryview) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    go_on = asyncio.Event()
    async with falling(
        tmp_path,
        [Wait(go_on), refusing(500)],
        {},
        write=write,
        serves_unrecorded=True,
        quota=Quota(prices=PRICES),
    ) as stage:
        asked = stage.begin(stage.chat())
        await stage.asked(1)
        full = True
        go_on.set()
        assert (await asked).status == 200
        full = False
        no_leaks.seen.clear()
        assert ends(await stage.calls()) == [("gpt", (), "upstream_error", False)]


# ---- what is left ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("last", [[plain("third")], [Stall()]], ids=["answers", "silent"])
async def test_it_may_be_cancelled_wherever_it_waits(tmp_path: Path, at: int, last: Play) -> None:
    """At each wait of a call that goes on at two more models, with a place to be had at each."""
    spawning = Interrupted(at)
    async with falling(
        tmp_path,
        GONE,
        {"else": [[Stall()]], "last": [last]},
        policy=CHAIN,
        spawning=spawning,
        timeouts=HASTY,
        concurrent={"up": 1, "else": 1, "last": 1},
        quota=priced(at_once(1), requests(100), tokens(10**6), money(10**6)),
    ) as stage:
        spawning.interrupt = lambda: lose_clients(stage)
        async with stage.connected() as client:
            await client.send(stage.chat(b"connection: close"))
            await client.read_all()
        await stage.at_rest()
        begun = stage.journal().calls
        calls = await stage.calls(len(begun))
        standing = [call for call in calls if call.end and not call.end.replaced]
        assert len(standing) == min(len(calls), 1), "one record stands for the call"
        await stage.upstreams_left()


async def test_a_client_that_leaves_while_room_is_sought_leaves_nothing(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    quota = priced(at_once(1, model="other", at_limit="queue", wait_ms=60_000), requests(100))
    others: dict[str, list[Play]] = {"else": [[Wait(go_on), plain()]]}
    async with falling(tmp_path, FAILING, others, quota=quota) as stage:
        other = stage.begin(stage.chat(model="other"))
        await stage.asked(1, "else")
        async with stage.connected() as client:
            await client.send(stage.chat())
            await until(lambda: stage.node.desk.waiting == 1, "no room is sought")
            client.reset()
        await until(lambda: stage.node.desk.waiting == 0, "it still waits")
        go_on.set()
        assert (await other).status == 200
        assert ("gpt", (), "client_gone", False) in ends(await stage.calls(2))
