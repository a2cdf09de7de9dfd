import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Operation
from llmrouter.contracts.rule import Rule, Scope
from llmrouter.dialects.openai import OpenAI
from llmrouter.errors import RouterError
from llmrouter.gateway import admit, room
from llmrouter.gateway.admit import Foreseen
from llmrouter.gateway.spending import Spending
from llmrouter.quota.denials import Action, Denial
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.messages import Take
from llmrouter.tasks import spawn
from tests.support.gateway import (
    ROUTES,
    At,
    Quota,
    Stage,
    asking,
    error_of,
    limited,
    reporting,
    request,
    shown,
    staged,
)
from tests.support.idle import idle_exchange
from tests.support.interrupting import interrupted
from tests.support.ledger import ACME, FLAT, at_once, money, requests, tokens
from tests.support.raw import RawClient
from tests.support.upstream import Play, Stall, Wait, answer, stream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

OK: Play = [reporting(20, 10)]
STREAM: Play = [stream(b"data: {}\n\n", b"data: [DONE]\n\n")]


def takes(stage: Stage) -> int:
    """How often the ledger was asked."""
    return sum(isinstance(message, Take) for message in stage.node.heard)


def used(stage: Stage, bucket: str) -> int:
    """What the journal says was spent, while calls may still be in flight."""
    return stage.node.standing()[bucket].used


async def waiting(stage: Stage, count: int) -> None:
    """Until so many wait for the ledger."""
    await until(lambda: stage.node.desk.waiting == count, f"not {count} wait")


async def arrived(stage: Stage, count: int) -> None:
    """Until so many have reached the upstream."""
    await until(lambda: len(stage.upstream.seen) == count, f"not {count} arrived")


async def refused(stage: Stage, status: int, code: str, **members: Any) -> dict[str, Any]:
    """Ask; the error of the refusal, after which nothing has happened."""
    seen, begun = len(stage.upstream.seen), len(stage.journal().calls)
    response = await stage.ask(stage.chat(**members))
    error = error_of(response)
    assert (response.status, error["code"]) == (status, code), error
    assert (stage.log[-1].status, stage.log[-1].code) == (status, code)
    assert (len(stage.upstream.seen), len(stage.journal().calls)) == (seen, begun)
    assert b"x-ratelimit-limit-requests" not in response.headers
    retry_after = response.headers.get(b"retry-after")
    assert retry_after == (b"%d" % error["retry_after_s"] if "retry_after_s" in error else None)
    return error


# ---- room on this node -----------------------------------------------------------------------


async def test_one_call_too_many_is_told_to_come_back_and_goes_nowhere(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [Wait(go_on), answer(b"{}")]
    async with (
        staged(tmp_path, play, inflight_max=2) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        for client in (first, second):
            await client.send(stage.chat())
        await arrived(stage, 2)
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (503, "overloaded")
        assert "(2 a worker)" in error_of(response)["message"]
        assert response.headers[b"retry-after"] == b"1"
        assert error_of(response)["retry_after_s"] == 1
        listing = await stage.ask(request(b"/v1/models", stage.key, method=b"GET"))
        assert listing.status == 200
        go_on.set()
        for client in (first, second):
            assert (await shown(client)).status == 200
        await stage.at_rest()
        assert (await stage.ask(stage.chat())).status == 200
        assert len(await stage.calls(3)) == len(stage.upstream.seen) == 3


async def test_callers_that_leave_never_use_up_the_slots(tmp_path: Path) -> None:
    """A slot that leaked would refuse everybody in the end."""
    quota = limited(at_once(2))
    async with staged(tmp_path, [Stall()], inflight_max=2, quota=quota) as stage:
        for _ in range(50):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                await until(lambda: len(stage.upstream.seen) == len(stage.log) + 1, "not there")
                client.reset()
            await stage.at_rest()
        assert {line.code for line in stage.log} == {None}


async def test_who_has_waited_for_a_limit_still_needs_room_on_the_node(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    rule = requests(20, per="second", burst=1, at_limit="queue", wait_ms=5_000)
    plays: list[Play] = [OK, [Wait(go_on), *OK]]
    async with staged(tmp_path, *plays, inflight_max=2, quota=limited(rule)) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        other = stage.issue(org="other")
        async with (
            stage.connected() as queued,
            stage.connected() as first,
            stage.connected() as second,
        ):
            await queued.send(stage.chat())
            for client in (first, second):
                await client.send(stage.chat(key=other))
            response = await shown(queued)
            assert (response.status, error_of(response)["code"]) == (503, "overloaded")
            go_on.set()
            for client in (first, second):
                assert (await shown(client)).status == 200


# ---- refusals --------------------------------------------------------------------------------


SCOPES = {
    "org": ACME,
    "team": Scope(kind="team", name="acme/research"),
    "user": Scope(kind="user", name="acme/ann@example.com"),
}


class Met(msgspec.Struct):
    """A rule, and how it refuses the second call."""

    rule: Rule
    status: int
    code: str
    says: str
    used: float


MET = {
    "requests": Met(requests(1), 429, "rate_limit_exceeded", "has used the 1 request per day", 1),
    "tokens": Met(
        tokens(100), 429, "rate_limit_exceeded", "has 5 left of the 100 tokens per day", 95
    ),
    "usd": Met(money(100, per="month"), 402, "insufficient_quota", "0.000005 USD left", 0.000095),
    "of-a-model": Met(
        requests(1, model="gpt"), 429, "rate_limit_exceeded", "for gpt has used the 1 request", 1
    ),
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("met", MET.values(), ids=MET)
async def test_who_meets_a_limit_is_told_which_and_when_to_come_back(
    tmp_path: Path, met: Met, scope: Scope
) -> None:
    """FR-003: and the call goes nowhere, and counts nowhere."""
    rule = met.rule
    quota = Quota(rules={scope: (rule,)}, prices={"gpt": FLAT})
    async with staged(tmp_path, [reporting(60, 35)], quota=quota) as stage:
        stage.key = stage.issue(team="research", user="ann@example.com")
        assert (await stage.ask(stage.chat(max_tokens=40))).status == 200
        await stage.calls(1)
        error = await refused(stage, met.status, met.code, max_tokens=40)
        name = scope.name.rpartition("/")[2]
        assert f"the {scope.kind} {name}" in error["message"]
        assert met.says in error["message"]
        limit = error["limit"]
        assert (limit["scope"], limit["name"], limit["kind"]) == (scope.kind, name, rule.kind)
        assert (limit["per"], limit.get("model")) == (rule.per, rule.model)
        assert limit["used"] == met.used
        assert limit["limit"] == (0.0001 if rule.per == "month" else rule.amount)
        assert limit["resets_at"].endswith("Z")
        if met.status == 429:  # when there is room for as much as the call needs
            assert 86_400 * 0.5 < error["retry_after_s"] <= 86_400
        else:
            assert "retry_after_s" not in error
        assert len(await stage.calls(1)) == 1


async def test_a_limit_on_calls_at_once_counts_those_in_flight(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=limited(at_once(2))) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        for client in (first, second):
            await client.send(stage.chat())
        await arrived(stage, 2)
        error = await refused(stage, 429, "concurrency_limit_exceeded")
        assert "the org acme has 2 calls in flight" in error["message"]
        assert error["retry_after_s"] == 1
        assert error["limit"] == {
            "scope": "org",
            "name": "acme",
            "kind": "concurrent",
            "limit": 2,
            "per": None,
            "used": 2,
            "resets_at": None,
        }
        go_on.set()
        for client in (first, second):
            assert (await shown(client)).status == 200
        assert (await stage.ask(stage.chat())).status == 200


async def test_a_key_has_rules_of_its_own_and_no_other_key_meets_them(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage:
        key_id = stage.key[6:18].decode()
        stage.node.rulebook.set_key(key_id, (requests(1),))
        assert (await stage.ask(stage.chat())).status == 200
        error = await refused(stage, 429, "rate_limit_exceeded")
        assert (error["limit"]["scope"], error["limit"]["name"]) == ("key", key_id)
        assert (await stage.ask(stage.chat(key=stage.issue()))).status == 200


@pytest.mark.parametrize(
    ("short", "says"),
    [
        (tokens(50), "50 at once fit into the 50 tokens per day of the org acme"),
        (tokens(600, burst=30), "30 at once fit into the 600 tokens per day of the org acme"),
    ],
)
async def test_a_call_that_never_fits_into_a_rate_is_told_to_be_shorter(
    tmp_path: Path, short: Rule, says: str
) -> None:
    async with staged(tmp_path, OK, quota=limited(short)) as stage:
        error = await refused(stage, 400, "invalid_request", user="x" * 300)
        assert says in error["message"]
        assert "retry_after_s" not in error


async def test_a_prompt_that_no_budget_could_pay_for_is_refused_for_good(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, quota=limited(money(50))) as stage:
        error = await refused(stage, 402, "insufficient_quota", user="x" * 300)
        assert "more than the 0.00005 USD of the org acme in all" in error["message"]
        assert error["limit"]["limit"] == 0.00005


async def test_a_flood_of_refused_calls_costs_the_ledger_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, quota=limited(requests(3))) as stage:
        for _ in range(3):
            assert (await stage.ask(stage.chat())).status == 200
        await refused(stage, 429, "rate_limit_exceeded")
        asked = takes(stage)
        for _ in range(50):
            error = await refused(stage, 429, "rate_limit_exceeded")
            assert 86_400 / 3 - 5 < error["retry_after_s"] <= 86_400 / 3
        assert takes(stage) == asked
        (denial,) = stage.node.denials.take()
        assert (denial.count, denial.action, denial.code) == (
            51,
            Action.REFUSED,
            "rate_limit_exceeded",
        )


async def test_every_limit_has_to_have_room_and_who_is_refused_takes_of_none(
    tmp_path: Path,
) -> None:
    rules = (requests(1_000), tokens(10**6), at_once(50), money(10**6))
    quota = Quota(
        rules={ACME: rules, SCOPES["team"]: (requests(1),)}, prices=dict.fromkeys(ROUTES, FLAT)
    )
    async with staged(tmp_path, OK, quota=quota) as stage:
        stage.key = stage.issue(team="research")
        assert (await stage.ask(stage.chat())).status == 200
        for _ in range(3):
            error = await refused(stage, 429, "rate_limit_exceeded")
            assert error["limit"]["scope"] == "team"
        await stage.calls(1)
        assert used(stage, "org/acme/requests/day") == 1


async def test_a_refusal_is_told_to_the_operators_with_what_was_wanted(tmp_path: Path) -> None:
    async with staged(tmp_path, [reporting(60, 35)], quota=limited(money(100))) as stage:
        stage.key = stage.issue(team="research", user="ann@example.com")
        assert (await stage.ask(stage.chat(max_tokens=40))).status == 200
        await stage.calls(1)
        await refused(stage, 402, "insufficient_quota", max_tokens=40)
        (denial,) = stage.node.denials.take()
        assert denial == Denial(
            at_ms=denial.at_ms,
            last_ms=denial.at_ms,
            org="acme",
            team="research",
            user="ann@example.com",
            key_id=stage.key[6:18].decode(),
            model="gpt",
            action=Action.REFUSED,
            code="insufficient_quota",
            bucket="org/acme/usd/total",
            limit=100_000,
            balance=5_000,
            wanted=denial.wanted,
        )
        assert 5_000 < denial.wanted <= 100_000


# ---- another model serves --------------------------------------------------------------------


CHAIN = {
    "gpt": At(model="gpt-real"),
    "mini": At(model="mini-real"),
    "nano": At(),
}


def chained(*rules: Rule) -> Quota:
    return Quota(rules={ACME: rules}, prices=dict.fromkeys(CHAIN, FLAT))


def sent_model(stage: Stage) -> str:
    """The model that the upstream was last asked for."""
    sent: str = msgspec.json.decode(stage.upstream.seen[-1].body)["model"]
    return sent


@pytest.mark.parametrize("named", ["mini", "small"], ids=["model", "alias"])
async def test_another_model_serves_where_the_limit_that_was_met_says_so(
    tmp_path: Path, named: str
) -> None:
    """FR-003: the answer says which, and so do the books and the event."""
    rule = requests(1, model="gpt", at_limit=f"model:{named}")
    async with staged(
        tmp_path, OK, quota=chained(rule), routes=CHAIN, aliases={"mini": ["small"]}
    ) as stage:
        first = await stage.ask(stage.chat())
        assert b"x-llmrouter-model" not in first.headers
        assert sent_model(stage) == "gpt-real"
        response = await stage.ask(stage.chat())
        assert (response.status, response.headers[b"x-llmrouter-model"]) == (200, b"mini")
        assert response.headers[b"x-llmrouter-deployment"] == b"up/mini-real"
        assert sent_model(stage) == "mini-real"
        calls = await stage.calls(2)
        assert [call.begin.model for call in calls] == ["gpt", "mini"]
        (denial,) = stage.node.denials.take()
        assert (denial.action, denial.model, denial.served_by) == (Action.DOWNGRADED, "gpt", "mini")
        assert (denial.bucket, denial.code) == (
            "org/acme/requests/day/gpt",
            "rate_limit_exceeded",
        )
        assert used(stage, "org/acme/requests/day/gpt") == 1


async def test_the_budget_that_was_met_counts_what_the_other_model_costs(tmp_path: Path) -> None:
    budget = money(100, at_limit="model:mini")
    async with staged(tmp_path, [reporting(60, 35)], quota=chained(budget), routes=CHAIN) as stage:
        for served_by in (None, b"mini", b"mini"):
            response = await stage.ask(stage.chat(max_tokens=40))
            assert (response.status, response.headers.get(b"x-llmrouter-model")) == (200, served_by)
        await stage.calls(3)
        assert used(stage, "org/acme/usd/total") == 3 * 95_000
        # Who asks for it by name has no other model to be served by.
        await refused(stage, 402, "insufficient_quota", model="mini", max_tokens=40)


async def test_an_alias_of_the_other_model_is_no_way_around_the_budget(tmp_path: Path) -> None:
    budget = money(100, at_limit="model:mini")
    async with staged(
        tmp_path,
        [reporting(60, 35)],
        quota=chained(budget),
        routes=CHAIN,
        aliases={"mini": ["small"]},
    ) as stage:
        assert (await stage.ask(stage.chat(model="small", max_tokens=40))).status == 200
        await stage.calls(1)
        for name in ("mini", "small"):
            await refused(stage, 402, "insufficient_quota", model=name, max_tokens=40)


async def test_a_model_that_the_key_may_not_use_does_not_serve(tmp_path: Path) -> None:
    rule = requests(1, model="gpt", at_limit="model:mini")
    async with staged(
        tmp_path, OK, quota=chained(rule), routes=CHAIN, orgs={"acme": ["gpt"]}
    ) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await refused(stage, 429, "rate_limit_exceeded")
        (denial,) = stage.node.denials.take()
        assert (denial.action, denial.served_by) == (Action.REFUSED, None)


async def test_the_other_model_has_limits_of_its_own_and_may_be_passed_on_too(
    tmp_path: Path,
) -> None:
    rules = (
        requests(1, model="gpt", at_limit="model:mini"),
        requests(1, model="mini", at_limit="model:nano"),
        requests(1, model="nano"),
    )
    async with staged(tmp_path, OK, quota=chained(*rules), routes=CHAIN) as stage:
        for served_by in (None, b"mini", b"nano"):
            response = await stage.ask(stage.chat())
            assert (response.status, response.headers.get(b"x-llmrouter-model")) == (200, served_by)
        stage.node.denials.take()
        error = await refused(stage, 429, "rate_limit_exceeded")
        assert error["limit"]["model"] == "nano"
        noted = [(one.bucket, one.action, one.served_by) for one in stage.node.denials.take()]
        assert noted == [
            ("org/acme/requests/day/gpt", Action.DOWNGRADED, "mini"),
            ("org/acme/requests/day/mini", Action.DOWNGRADED, "nano"),
            ("org/acme/requests/day/nano", Action.REFUSED, None),
        ]


async def test_limits_that_name_each_other_do_not_let_everything_pass(tmp_path: Path) -> None:
    rules = (
        requests(1, model="gpt", at_limit="model:mini"),
        requests(1, model="mini", at_limit="model:gpt"),
    )
    async with staged(tmp_path, OK, quota=chained(*rules), routes=CHAIN) as stage:
        for served_by in (None, b"mini"):
            response = await stage.ask(stage.chat())
            assert (response.status, response.headers.get(b"x-llmrouter-model")) == (200, served_by)
        await refused(stage, 429, "rate_limit_exceeded")
        await refused(stage, 429, "rate_limit_exceeded", model="mini")


async def test_a_call_is_passed_on_only_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admit, "SERVED_BY_MAX", 1)
    rules = (
        requests(1, model="gpt", at_limit="model:mini"),
        requests(1, model="mini", at_limit="model:nano"),
    )
    async with staged(tmp_path, OK, quota=chained(*rules), routes=CHAIN) as stage:
        for _ in range(2):
            assert (await stage.ask(stage.chat())).status == 200
        error = await refused(stage, 429, "rate_limit_exceeded")
        assert error["limit"]["model"] == "mini"


async def test_a_stream_may_be_served_by_another_model_and_its_counters_go_together(
    tmp_path: Path,
) -> None:
    """Every rule that covers the model that serves counts it, and only those."""
    rules = (
        at_once(1, model="gpt", at_limit="model:mini"),
        tokens(10**6, model="mini"),
        requests(1_000),
    )
    go_on = asyncio.Event()
    plays: list[Play] = [[Wait(go_on), *STREAM], STREAM]
    async with (
        staged(tmp_path, *plays, quota=chained(*rules), routes=CHAIN) as stage,
        stage.connected() as first,
    ):
        await first.send(stage.chat(stream=True))
        await arrived(stage, 1)
        response = await stage.ask(stage.chat(stream=True))
        assert (response.whole, response.headers[b"x-llmrouter-model"]) == (True, b"mini")
        go_on.set()
        assert (await shown(first)).whole


# ---- waiting ---------------------------------------------------------------------------------


async def served(client: RawClient) -> int:
    return (await shown(client)).status


async def test_who_waits_is_served_in_order(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    plays: list[Play] = [[Wait(gate), reporting(1, n)] for n, gate in enumerate(gates)]
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    async with (
        staged(tmp_path, *plays, quota=limited(rule)) as stage,
        stage.connected() as first,
        stage.connected() as second,
        stage.connected() as third,
        stage.connected() as fourth,
    ):
        clients = (first, second, third, fourth)
        for n, client in enumerate(clients):
            await client.send(stage.chat(user=f"caller {n}"))
            await waiting(stage, n)
        for n, (client, gate) in enumerate(zip(clients, gates, strict=True)):
            await arrived(stage, n + 1)
            assert f"caller {n}".encode() in stage.upstream.seen[n].body
            gate.set()
            assert await served(client) == 200


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (at_once(1, at_limit="queue", wait_ms=30), "0.03 s at the 1 call at once of the org acme"),
        (tokens(1_100, at_limit="queue", wait_ms=30), "0.03 s at the 1,100 tokens per day"),
        (money(1_100, at_limit="queue", wait_ms=30), "0.03 s at the 0.0011 USD of the org acme"),
    ],
    ids=["concurrent", "tokens", "usd"],
)
async def test_whose_turn_does_not_come_is_told_after_its_wait(
    tmp_path: Path, rule: Rule, says: str
) -> None:
    """FR-003: a wait for what calls in flight hold, which do not end in time."""
    go_on = asyncio.Event()
    quota = limited(rule, terms=DeskTerms(hold_wait_ms=0, waiting_max=100))
    async with staged(tmp_path, [Wait(go_on), *OK], quota=quota) as stage:
        async with stage.connected() as first:
            await first.send(stage.chat())
            await arrived(stage, 1)
            error = await refused(stage, 429, "queue_timeout")
            assert says in error["message"]
            assert error["retry_after_s"] == 1
            go_on.set()
            assert await served(first) == 200
        (denial,) = stage.node.denials.take()
        assert (denial.action, denial.code) == (Action.REFUSED, "queue_timeout")


async def test_a_rate_that_queues_serves_when_time_has_made_room(tmp_path: Path) -> None:
    rule = requests(20, per="second", burst=1, at_limit="queue", wait_ms=5_000)
    async with staged(tmp_path, OK, quota=limited(rule)) as stage:
        began_ms = stage.node.now_ms()
        for _ in range(3):
            assert (await stage.ask(stage.chat())).status == 200
        assert stage.node.now_ms() - began_ms >= 2 * 50 - 1


@pytest.mark.parametrize("rule", [tokens(1_500), money(1_500)], ids=["tokens", "usd"])
async def test_what_calls_in_flight_hold_is_waited_for(tmp_path: Path, rule: Rule) -> None:
    """FR-003: both fit as soon as the first has settled at what it used."""
    go_on = asyncio.Event()
    plays: list[Play] = [[Wait(go_on), *OK], OK]
    quota = limited(rule, terms=DeskTerms(hold_wait_ms=20_000, waiting_max=100))
    async with (
        staged(tmp_path, *plays, quota=quota) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        await second.send(stage.chat())
        await waiting(stage, 1)
        go_on.set()
        assert [await served(first), await served(second)] == [200, 200]


@pytest.mark.parametrize("rule", [tokens(1_500), money(1_500)], ids=["tokens", "usd"])
async def test_what_is_held_for_too_long_is_said_to_be_held_not_spent(
    tmp_path: Path, rule: Rule
) -> None:
    go_on = asyncio.Event()
    quota = limited(rule, terms=DeskTerms(hold_wait_ms=30, waiting_max=100))
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=quota) as stage,
        stage.connected() as first,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        error = await refused(stage, 429, "quota_held")
        assert error["retry_after_s"] == 1
        assert "calls in flight hold what is left of the" in error["message"]
        assert "of the org acme" in error["message"]
        assert error["limit"]["kind"] == rule.kind
        go_on.set()
        assert await served(first) == 200
        assert (await stage.ask(stage.chat())).status == 200


async def test_a_long_wait_for_what_is_held_is_not_taken_for_a_dead_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEDGER_PATIENCE_S", 0.03)
    go_on = asyncio.Event()
    quota = limited(money(1_500, wait_ms=1), terms=DeskTerms(hold_wait_ms=300, waiting_max=100))
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=quota) as stage,
        stage.connected() as first,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        await refused(stage, 429, "quota_held")
        go_on.set()
        assert await served(first) == 200


async def test_only_so_many_wait(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    quota = limited(rule, terms=DeskTerms(hold_wait_ms=0, waiting_max=1))
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=quota) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        await second.send(stage.chat())
        await waiting(stage, 1)
        await refused(stage, 429, "concurrency_limit_exceeded")
        go_on.set()
        assert [await served(first), await served(second)] == [200, 200]


@pytest.mark.parametrize("how", ["revoked", "limited-to-another-model"])
async def test_a_key_that_ends_while_its_call_waits_reaches_no_upstream(
    tmp_path: Path, how: str
) -> None:
    """SC-002: a queue lasts longer than some keys."""
    go_on = asyncio.Event()
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=limited(rule)) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        ending = stage.issue()
        await first.send(stage.chat())
        await arrived(stage, 1)
        await second.send(stage.chat(key=ending))
        await waiting(stage, 1)
        key_id = ending[6:18].decode()
        if how == "revoked":
            stage.ring.apply([stage.book.revoke(key_id, stage.now_s)])
        else:
            stage.ring.apply([msgspec.structs.replace(stage.book.get(key_id), models=("same",))])
        go_on.set()
        assert await served(first) == 200
        response = await shown(second)
        assert (response.status, error_of(response)["code"]) == (
            (401, "revoked_key") if how == "revoked" else (403, "model_not_allowed")
        )
        assert len(stage.upstream.seen) == len(await stage.calls(1)) == 1


# ---- a ledger that is not there --------------------------------------------------------------


async def test_a_ledger_that_dies_sends_those_who_wait_to_another_node(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=limited(rule)) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        await second.send(stage.chat())
        await waiting(stage, 1)
        stage.node.leases.ledger_gone()
        response = await shown(second)
        assert (response.status, error_of(response)["code"]) == (503, "draining")
        assert response.headers[b"retry-after"] == b"1"
        await refused(stage, 503, "draining")
        assert stage.node.denials.take() == []
        stage.node.revive()
        go_on.set()
        assert await served(first) == 200


async def test_a_ledger_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEDGER_PATIENCE_S", 0.03)
    async with staged(tmp_path, OK, quota=limited(requests(5, wait_ms=1))) as stage:
        stage.node.is_deaf = True
        error = await refused(stage, 503, "overloaded")
        assert "the ledger of this node does not answer" in error["message"]
        assert error["retry_after_s"] == 1
        stage.node.listen()
        await stage.at_rest()
        assert (await stage.ask(stage.chat())).status == 200


# ---- cancellation ----------------------------------------------------------------------------


HELD = (requests(5), tokens(10**6), at_once(5), money(10**6))


class Asking:
    """Admission alone, asked for one call in a task of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._exchange = idle_exchange()
        self._exchange.asked = self._exchange.model = "gpt"
        principal = self._exchange.principal
        assert principal is not None
        self._call = OpenAI().read_call(Operation.CHAT, asking())
        self._route = stage.router.find("gpt", principal).route

    def ask(self) -> asyncio.Task[Spending | RouterError]:
        """Nothing is lent to the worker yet, so the ledger is asked."""
        admission = self._stage.admission
        foreseen = admission.try_admit(self._exchange, self._call, self._route)
        assert isinstance(foreseen, Foreseen)
        return spawn(self._ask(foreseen), name="asking")

    async def _ask(self, foreseen: Foreseen) -> Spending | RouterError:
        try:
            return await self._stage.admission.admit(self._exchange, self._call, foreseen)
        except RouterError as error:
            return error


@pytest.mark.parametrize("turns", range(8))
async def test_admission_may_be_cancelled_in_any_turn_of_the_loop(
    tmp_path: Path, turns: int
) -> None:
    """Also in the one in which the answer has come: nothing stays reserved."""
    async with staged(tmp_path, OK, quota=limited(*HELD)) as stage:
        task = Asking(stage).ask()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or turns > 3
        if not task.cancelled():
            give_back(task.result())
        await turn_over()


@pytest.mark.parametrize("turns", range(8))
async def test_admission_may_be_cancelled_while_it_is_refused(tmp_path: Path, turns: int) -> None:
    go_on = asyncio.Event()
    quota = limited(at_once(1))
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=quota) as stage,
        stage.connected() as first,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        task = Asking(stage).ask()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.result(), RouterError)
        go_on.set()
        assert await served(first) == 200
        await turn_over()
        assert (await stage.ask(stage.chat())).status == 200


async def test_an_answer_that_comes_when_patience_ends_leaves_nothing_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEDGER_PATIENCE_S", 0.0)
    async with staged(tmp_path, OK, quota=limited(requests(5, wait_ms=1))) as stage:
        for _ in range(20):
            task = Asking(stage).ask()
            await asyncio.wait([task])
            give_back(task.result())
            await turn_over()
            stage.node.settle()


def give_back(found: Spending | RouterError) -> None:
    if isinstance(found, Spending):
        with found:
            pass


async def turn_over() -> None:
    """Let all messages be heard."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_leaves_the_queue_lets_the_next_one_pass(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    async with (
        staged(tmp_path, [Wait(go_on), *OK], quota=limited(rule)) as stage,
        stage.connected() as first,
        stage.connected() as second,
        stage.connected() as third,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        for count, client in enumerate((second, third), 1):
            await client.send(stage.chat())
            await waiting(stage, count)
        second.reset()
        await waiting(stage, 1)
        go_on.set()
        assert [await served(first), await served(third)] == [200, 200]
        assert len(await stage.calls(2)) == len(stage.upstream.seen) == 2


async def test_a_queue_that_the_server_cuts_holds_nothing(tmp_path: Path) -> None:
    rule = at_once(1, at_limit="queue", wait_ms=20_000)
    async with (
        staged(tmp_path, [Stall()], quota=limited(rule)) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        await first.send(stage.chat())
        await arrived(stage, 1)
        await second.send(stage.chat())
        await waiting(stage, 1)
        stage.server.abort()
        await waiting(stage, 0)
        assert len(await stage.calls(1)) == len(stage.upstream.seen) == 1


# What an exchange waits for: the ledger, the connection, the answer, the passing on.
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("play", [OK, STREAM, [Stall()]], ids=["plain", "stream", "silent"])
async def test_an_exchange_may_lose_its_client_wherever_it_waits(
    tmp_path: Path, at: int, play: Play
) -> None:
    async with (
        interrupted(tmp_path, at, play, quota=limited(*HELD)) as stage,
        stage.connected() as client,
    ):
        await client.send(stage.chat(stream=True))
        await client.read_all()
        calls = await stage.calls(at - 2 if at > 2 else 0)
        assert [call.end and call.end.outcome for call in calls] == ["client_gone"] * (at > 2)
        assert [line.code for line in stage.log] == [None]


@pytest.mark.parametrize("play", [OK, STREAM, [Stall()]], ids=["plain", "stream", "silent"])
async def test_a_caller_may_leave_in_any_turn_of_the_loop(tmp_path: Path, play: Play) -> None:
    """Whatever it waits for then, all of its slots come back: two hundred calls fit into five."""
    rules = (requests(10**6), tokens(10**9), at_once(5), money(10**9))
    async with staged(tmp_path, play, quota=limited(*rules)) as stage:
        for turns in range(40):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.reset()
            await stage.at_rest()
            stage.node.settle()  # so that the ledger has to be asked each time
        assert {line.code for line in stage.log} == {None}


async def test_a_request_that_never_becomes_whole_takes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, quota=limited(*HELD)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat()[:-5])
            client.reset()
        await until(lambda: not stage.server.connections, "a connection is left")
        assert (takes(stage), stage.journal().calls) == (0, [])
