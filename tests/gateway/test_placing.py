"""What is said of a route: the order of its deployments, and why some are left out."""

from pathlib import Path

import pytest

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.explain import Asked
from llmrouter.gateway.explanation import AttemptsSaid, Place, TimeoutsSaid
from llmrouter.gateway.placing import Placing, in_words
from llmrouter.quota.ledger import Standing
from llmrouter.routing.failure import FallbackOn
from llmrouter.routing.routes import Policy
from llmrouter.routing.strategy import STRATEGIES, StrategyTerms
from tests.support.fleet import fleet
from tests.support.gateway import NOW_S, At, Stage, asking, staged

TERMS = StrategyTerms(cost=lambda *_: None, random=lambda: 0.0)
ROUTES = {"gpt": [At(model="a"), At(upstream="far", model="b", weight=3, tags={"region": "eu"})]}


def asked(stage: Stage) -> Asked:
    principal = stage.ring.authenticate(stage.key, NOW_S)
    call = OpenAI().read_call(Operation.CHAT, asking())
    return Asked(principal=principal, dialect=OpenAI(), call=call, asked="gpt", model="gpt")


def placing(stage: Stage, *standings: Standing) -> Placing:
    steps = stage.gateway.steps
    return Placing(steps.router, steps.forwarder, standings, steps.clock())


def places(stage: Stage, *standings: Standing) -> list[Place]:
    asking = asked(stage)
    assert asking.principal is not None
    return placing(stage, *standings).places(
        asking, stage.router.find("gpt", asking.principal).route
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_is_told_in_words_by_its_name(name: str) -> None:
    assert in_words(STRATEGIES[name](fleet(1, 1), TERMS)).startswith(f"{name}: ")


@pytest.mark.asyncio
async def test_a_deployment_is_told_as_it_is_now(tmp_path: Path) -> None:
    async with staged(tmp_path, [], others={"far": [[]]}, routes=ROUTES) as stage:
        condition = stage.conditions.of("far/b")
        now_s = stage.gateway.steps.clock()
        spell = condition.enter(now_s)
        condition.first_token(0.5, now_s)
        held = Standing(
            bucket="upstream/far/concurrent", capacity=5, used=0, claimed=3, resets_at_ms=None
        )
        first, second = places(stage, held)
        condition.left(spell)
        condition.leave()

    assert first == Place(
        deployment="far/b",
        upstream="far",
        model="b",
        weight=3,
        tags={"region": "eu"},
        turn=1,
        why_not="",
        breaker="closed",
        inflight=1,
        latency=first.latency,
        places_left=2,
        timeouts=TimeoutsSaid(connect=10, first_token=30, idle=30, total=60),
    )
    assert first.latency == pytest.approx(0.5, rel=0.01)
    assert (second.deployment, second.turn, second.latency, second.places_left) == (
        "up/a",
        2,
        None,
        None,
    )


@pytest.mark.asyncio
async def test_one_that_cannot_be_used_comes_last_with_the_reason(tmp_path: Path) -> None:
    async with staged(tmp_path, [], others={"far": [[]]}, routes=ROUTES) as stage:
        stage.conditions.set_sound("far", sound=False)
        first, second = places(stage)

    assert (first.deployment, first.turn, first.why_not) == ("up/a", 1, "")
    assert (second.deployment, second.turn) == ("far/b", None)
    assert second.why_not == "its health checks fail"


@pytest.mark.asyncio
async def test_attempts_are_told_with_what_is_left_of_them(tmp_path: Path) -> None:
    policy = Policy(
        attempts_max=4,
        repeats_share=0.5,
        hedge_after=0.75,
        fallback_on=frozenset({FallbackOn.UNAVAILABLE, FallbackOn.CONTENT_FILTER}),
    )
    async with staged(tmp_path, [], policies={"gpt": policy}) as stage:
        principal = stage.ring.authenticate(stage.key, NOW_S)
        route = stage.router.find("gpt", principal).route
        assert route.repeats.take()
        said = placing(stage).attempts(route)

    assert said == AttemptsSaid(
        most=4,
        repeats_left=9,
        repeats_share=0.5,
        fallback_on=("content_filter", "unavailable"),
        hedge_after=0.75,
        hedge_delay=0.75,
    )
