"""What would become of a call is what becomes of it; and to ask changes nothing."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from llmrouter.access.issued import IssuedKey
from llmrouter.access.mapping import ModelMap
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.contracts.call import Operation
from llmrouter.contracts.rule import Rule
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.explain import SAMPLE, Explainer
from llmrouter.gateway.explanation import Caller, Explanation, Question
from llmrouter.gateway.route import Router
from llmrouter.metering.prices import Price
from llmrouter.quota.ledger import Standing
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.report import Report
from llmrouter.routing.routes import Policy, Route, Routes
from llmrouter.routing.strategy import Ordered
from tests.support.gateway import (
    At,
    Quota,
    Served,
    Stage,
    asking,
    error_of,
    limited,
    reporting,
    staged,
)
from tests.support.ledger import ACME, FLAT, at_once, money, requests, tokens
from tests.support.upstream import Play

pytestmark = pytest.mark.asyncio

OK: Play = [reporting(20, 10)]
ENDED = "when calls in flight have ended"


def question(stage: Stage, body: bytes, key: bytes | None = None) -> Question:
    """A call by a key of the stage, its first unless another is given."""
    key_id = (key or stage.key).split(b"-")[2].decode()
    issued: IssuedKey = stage.book.get(key_id)
    caller = Caller(
        id=key_id,
        name=issued.name,
        org=issued.org,
        team=issued.team,
        user=issued.user,
        status=issued.status(stage.now_s).value,
        expires_at=None,
    )
    return Question(
        caller=caller,
        operation=Operation.CHAT,
        body=body,
        is_sample=False,
        standings=tuple(stage.node.standing().values()),
        at_ms=stage.node.now_ms(),
    )


def explained(stage: Stage, body: bytes | None = None, key: bytes | None = None) -> Explanation:
    """What would become of a call."""
    explainer = Explainer(stage.gateway.steps, OpenAI(), stage.ring, hold_wait_ms=2_000)
    return explainer.explain(question(stage, asking() if body is None else body, key))


def told(message: str | None) -> str:
    """Without figures of time, which passes between an explanation and a call."""
    return re.sub(r"\d+ s\b", "N s", message or "")


def out(name: str, stage: Stage) -> None:
    """The breaker of a deployment is open."""
    now_s = stage.gateway.steps.clock()
    report = Report(
        deployment=name,
        state=State.OPEN,
        rest_s=40.0,
        reason="it answered 500",
        changed_s=now_s,
    )
    stage.conditions.of(name).adopt(report, now_s)


def here(path: Path, *plays: Play, **terms: Any) -> Any:
    return staged(path, *(plays or (OK,)), **terms)


# ---- the same verdict as live -----------------------------------------------------------------


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A call, the stage it is made on, and what comes of it."""

    ends: tuple[int, str | None]
    """Status and code."""
    terms: dict[str, Any] = {}
    members: dict[str, Any] = {}
    key: dict[str, Any] = {}
    before: int = 0
    """Calls that were made before."""
    out: tuple[str, ...] = ()
    """Deployments whose breakers are open."""


BACKED = {"gpt": Policy(fallbacks=("same",))}
CASES: Mapping[str, Case] = {
    "served": Case(ends=(200, None)),
    "unknown model": Case(ends=(404, "model_not_found"), members={"model": "nope"}),
    "no JSON member": Case(ends=(400, "invalid_request"), members={"model": 7}),
    "not allowed": Case(ends=(403, "model_not_allowed"), key={"models": ("same",)}),
    "not the org's": Case(ends=(403, "model_not_allowed"), terms={"orgs": {"acme": ["same"]}}),
    "mapped by its key": Case(
        ends=(200, None), key={"model_map": {"o": "gpt"}}, members={"model": "o"}
    ),
    "mapped to nothing": Case(
        ends=(404, "model_not_found"), key={"model_map": {"o": "nope"}}, members={"model": "o"}
    ),
    "all breakers open": Case(ends=(503, "no_deployment_available"), out=("up/gpt-real",)),
    "served by a fallback": Case(
        ends=(200, None), out=("up/gpt-real",), terms={"policies": BACKED}
    ),
    "no fallback either": Case(
        ends=(503, "no_deployment_available"),
        out=("up/gpt-real", "up/same"),
        terms={"policies": BACKED},
    ),
    "a limit with room": Case(ends=(200, None), terms={"quota": limited(requests(2))}, before=1),
    "a limit used up": Case(
        ends=(429, "rate_limit_exceeded"), terms={"quota": limited(requests(1))}, before=1
    ),
    "another model at the limit": Case(
        ends=(200, None),
        terms={"quota": limited(requests(1, model="gpt", at_limit="model:same"))},
        before=1,
    ),
    "a budget spent": Case(
        ends=(402, "insufficient_quota"), terms={"quota": limited(money(25))}, before=1
    ),
    "too many tokens": Case(ends=(400, "invalid_request"), terms={"quota": limited(tokens(10))}),
    "strict, without an end": Case(
        ends=(400, "invalid_request"), terms={"quota": limited(money(10**7, strict=True))}
    ),
    "strict, with one": Case(
        ends=(200, None),
        members={"max_tokens": 5},
        terms={"quota": limited(money(10**7, strict=True))},
    ),
    "strict, and too dear": Case(
        ends=(402, "insufficient_quota"),
        members={"max_tokens": 5},
        terms={"quota": limited(money(100, strict=True))},
    ),
    "without a price": Case(
        ends=(402, "insufficient_quota"), terms={"quota": Quota(rules={ACME: (money(10**6),)})}
    ),
    "more calls than may be": Case(ends=(503, "overloaded"), terms={"inflight_max": 0}),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_outcome_is_that_of_the_call_itself(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    async with here(tmp_path, **case.terms) as stage:
        key = stage.issue(**case.key)
        for _ in range(case.before):
            assert (await stage.ask(stage.chat(key=key))).status == 200
        await stage.calls(case.before)
        for deployment in case.out:
            out(deployment, stage)
        body = asking(**case.members)

        outcome = explained(stage, body, key).outcome
        response = await stage.ask(stage.chat(key=key, **case.members))

        live: dict[str, Any] = {} if response.status == 200 else error_of(response)
        assert (response.status, live.get("code")) == case.ends
        assert (outcome.status or 200, outcome.code) == case.ends
        assert outcome.admitted is (response.status == 200)
        assert told(outcome.message) == told(live.get("message"))
        await stage.at_rest()
        if outcome.admitted:
            served = (await stage.calls(case.before + 1))[-1].begin.model
            assert served == (outcome.served_by or "gpt")


@pytest.mark.parametrize(("when", "code"), [("revoked", "revoked_key"), ("expired", "expired_key")])
async def test_a_key_that_has_ended_is_refused_and_all_else_is_told(
    tmp_path: Path, when: str, code: str
) -> None:
    async with here(tmp_path) as stage:
        key = stage.issue(expires_in_s=5)
        if when == "revoked":
            stage.ring.apply([stage.book.revoke(key.split(b"-")[2].decode(), stage.now_s)])
        else:
            stage.now_s += 6
        asked = question(stage, asking(), key)

        said = Explainer(stage.gateway.steps, OpenAI(), stage.ring, hold_wait_ms=0).explain(
            msgspec.structs.replace(asked, at_ms=int(stage.now_s * 1_000))
        )
        response = await stage.ask(stage.chat(key=key))

        assert said.caller.status == when
        assert (said.outcome.status, said.outcome.code) == (response.status, code)
        assert said.outcome.message == error_of(response)["message"]
        assert [place.turn for place in said.deployments] == [1]


async def test_a_key_that_this_worker_does_not_know_is_not_explained(tmp_path: Path) -> None:
    async with here(tmp_path) as stage:
        asked = question(stage, asking())
        stranger = msgspec.structs.replace(asked.caller, id="z" * 12)
        said = Explainer(stage.gateway.steps, OpenAI(), stage.ring, hold_wait_ms=0).explain(
            msgspec.structs.replace(asked, caller=stranger)
        )

    assert (said.outcome.code, said.served) == ("invalid_key", None)


# ---- what is said on the way ------------------------------------------------------------------


async def test_says_who_maps_a_name_and_what_serves_it(tmp_path: Path) -> None:
    async with here(tmp_path, aliases={"gpt": ["gpt-latest"]}) as stage:
        key = stage.issue(model_map={"o": "any-thing"})
        found = {
            asked: explained(stage, asking(model=asked), key).served
            for asked in ("gpt", "gpt-latest", "any-1", "o")
        }

    assert {
        asked: (one.found_by, one.route, one.model, one.mapped_to, one.mapped_by)
        for asked, one in found.items()
        if one is not None
    } == {
        "gpt": ("name", "gpt", "gpt", None, None),
        "gpt-latest": ("alias", "gpt", "gpt", None, None),
        "any-1": ("pattern", "any-*", "any-1", None, None),
        "o": ("pattern", "any-*", "any-thing", "any-thing", "key"),
    }


async def test_says_what_is_held_and_what_counts_it(tmp_path: Path) -> None:
    quota = limited(requests(10), tokens(10**6), money(10**6), at_once(5))
    async with here(tmp_path, quota=quota) as stage:
        assert (await stage.ask(stage.chat(max_tokens=50))).status == 200
        await stage.calls()
        stage.node.settle()
        said = explained(stage, asking(max_tokens=50))
        assert (await stage.ask(stage.chat(max_tokens=50))).status == 200
        begin = (await stage.calls(2))[-1].begin

    hold = said.hold
    assert hold is not None
    assert hold.prompt_tokens + hold.output_tokens == begin.hold_tokens
    assert hold.usd == begin.hold_nano_usd / 1e9
    assert [(one.rule, one.used, one.needed) for one in said.limits] == [
        ("requests=10/day", 1, 1),
        ("tokens=1000000/day", 30, begin.hold_tokens),
        ("usd=1/total", 30_000 / 1e9, begin.hold_nano_usd / 1e9),
        ("concurrent=5", 0, 1),
    ]


@pytest.mark.parametrize(
    ("rules", "standing", "code", "waits", "when"),
    [
        ((requests(5),), {"claimed": 5}, "quota_held", 2.0, ENDED),
        ((at_once(5),), {"claimed": 5}, "concurrency_limit_exceeded", 0.0, ENDED),
        (
            (at_once(5, at_limit="queue", wait_ms=7_000),),
            {"claimed": 5},
            "queue_timeout",
            7.0,
            ENDED,
        ),
        ((money(10**6),), {"used": 10**9}, "insufficient_quota", 0.0, "not before"),
        ((money(10),), {}, "insufficient_quota", 0.0, "not before"),
        ((requests(5),), {"used": 5}, "rate_limit_exceeded", 0.0, "at 20"),
    ],
)
async def test_says_how_long_a_call_would_wait_and_when_it_is_admitted(
    tmp_path: Path,
    rules: tuple[Rule, ...],
    standing: dict[str, int],
    code: str,
    waits: float,
    when: str,
) -> None:
    async with here(tmp_path, quota=limited(*rules)) as stage:
        asked = question(stage, asking())
        (found,) = asked.standings
        changed: Standing = msgspec.structs.replace(found, **cast("dict[str, Any]", standing))
        explainer = Explainer(stage.gateway.steps, OpenAI(), stage.ring, hold_wait_ms=2_000)
        outcome = explainer.explain(msgspec.structs.replace(asked, standings=(changed,))).outcome

    assert (outcome.admitted, outcome.code, outcome.waits) == (False, code, waits)
    assert outcome.when.startswith(when)


async def test_a_met_limit_that_has_another_model_serve_counts_and_refuses_no_more(
    tmp_path: Path,
) -> None:
    quota = limited(requests(1, at_limit="model:same"))
    async with here(tmp_path, quota=quota) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls()
        said = explained(stage)
        denied = stage.node.denials.take()

    assert said.outcome.served_by == "same"
    assert [place.deployment for place in said.deployments] == ["up/same"]
    assert [(one.bucket, one.gates) for one in said.limits] == [("org/acme/requests/day", False)]
    assert said.notes == ["org/acme/requests/day has no room: same would serve"]
    assert list(denied) == []


async def test_fallbacks_are_told_in_order_with_why_they_would_not_take_over(
    tmp_path: Path,
) -> None:
    quota = Quota(
        rules={ACME: (requests(1, model="full"),)}, prices=dict.fromkeys(("gpt", "full"), FLAT)
    )
    routes: dict[str, Served] = {
        name: At(model=f"{name}-real") for name in ("gpt", "out", "shut", "full", "fine")
    }
    order = ("shut", "gpt", "none", "out", "full", "fine")
    terms: dict[str, Any] = {
        "routes": routes,
        "policies": {"gpt": Policy(fallbacks=order)},
        "quota": quota,
    }
    async with here(tmp_path, **terms) as stage:
        key = stage.issue(models=("gpt", "out", "full", "fine"))
        assert (await stage.ask(stage.chat(key=key, model="full"))).status == 200
        await stage.calls()
        out("up/out-real", stage)
        said = explained(stage, asking(), key)

    assert [one.model for one in said.fallbacks] == list(order)
    why = {one.model: one.why_not for one in said.fallbacks}
    assert "may not call" in why["shut"]
    assert "same model" in why["gpt"]
    assert "no deployment serves" in why["none"]
    assert "no deployment of it" in why["out"]
    assert "has used the 1 request" in why["full"]
    assert why["fine"] == ""


async def test_a_sample_is_told_to_be_one(tmp_path: Path) -> None:
    async with here(tmp_path) as stage:
        asked = msgspec.structs.replace(question(stage, asking()), is_sample=True)
        explainer = Explainer(stage.gateway.steps, OpenAI(), stage.ring, hold_wait_ms=0)

        assert explainer.explain(asked).notes == [SAMPLE]
        assert explained(stage).notes == []
        assert repr(explainer) == "<Explainer openai>"


async def test_a_missing_tag_is_told_with_the_deployments_that_have_it_not(tmp_path: Path) -> None:
    def tagged(upstream: str, **tags: str) -> Deployment:
        condition = Condition(f"{upstream}/m", BreakerTerms(), now_s=0)
        return Deployment(upstream=upstream, model="m", tags=tags, condition=condition)

    table = [
        Route("both", [tagged("up", region="us"), tagged("up", region="eu")], Ordered),
        Route("us", [tagged("up", region="us")], Ordered),
    ]
    terms = ModelTerms(require={"region": "eu"}, model_map=ModelMap({"gpt": "both"}))
    router = Router(Routes(table), ModelPolicy({"acme": terms}, {}))
    async with here(tmp_path, router=router) as stage:
        fits = explained(stage)
        fails = explained(stage, asking(model="us"))
        response = await stage.ask(stage.chat(model="us"))

    assert fits.served is not None
    assert (fits.served.mapped_by, fits.served.required) == ("org", {"region": "eu"})
    assert [(place.turn, place.tags["region"]) for place in fits.deployments] == [
        (1, "eu"),
        (None, "us"),
    ]
    assert "it has not the tag region = eu" in fits.deployments[1].why_not
    assert fails.outcome.message == error_of(response)["message"]


# ---- nothing changes --------------------------------------------------------------------------


@asynccontextmanager
async def weighted(path: Path, quota: Quota) -> AsyncIterator[Stage]:
    routes = {"gpt": [At(model="a", weight=3), At(model="b"), At(model="c", weight=2)]}
    async with staged(path, OK, routes=routes, quota=quota) as stage:
        yield stage


def model_of(body: bytes) -> str:
    model: str = msgspec.json.decode(body)["model"]
    return model


async def test_the_next_calls_go_where_they_would_have_gone(tmp_path: Path) -> None:
    sent: list[list[str]] = []
    for asks in (0, 2):
        directory = tmp_path / str(asks)
        directory.mkdir()
        async with weighted(directory, Quota()) as stage:
            for _ in range(12):
                foreseen = [explained(stage).deployments[0].model for _ in range(asks)]
                assert (await stage.ask(stage.chat())).status == 200
                assert foreseen == asks * [model_of(stage.upstream.seen[-1].body)]
            sent.append([model_of(one.body) for one in stage.upstream.seen])

    assert sent[0] == sent[1]
    assert {sent[0].count(name) for name in "abc"} == {6, 2, 4}


async def test_nothing_is_sent_held_journaled_or_told(tmp_path: Path) -> None:
    price: dict[str, Price] = {"gpt": FLAT}
    quota = Quota(rules={ACME: (requests(1), money(10**6), at_once(1))}, prices=price)
    async with weighted(tmp_path, quota) as stage:
        before = stage.node.standing()
        for _ in range(5):
            assert explained(stage).outcome.admitted
        assert (stage.upstream.seen, stage.journal().calls, stage.node.heard) == ([], [], [])
        assert [(one.used, one.claimed) for one in stage.node.standing().values()] == [
            (one.used, one.claimed) for one in before.values()
        ]

        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls()
        heard = list(stage.node.heard)
        for _ in range(5):
            assert explained(stage).outcome.code == "rate_limit_exceeded"
        assert stage.node.heard == heard
        assert list(stage.node.denials.take()) == []
        assert stage.admission.inflight == 0
