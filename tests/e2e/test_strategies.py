"""Strategies over many calls to a real daemon of two workers: who got how much of them."""

import asyncio
import collections
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.accounting import key_of
from tests.support.daemon import Daemon, serving
from tests.support.faults import Fault, Kind
from tests.support.faulty import Faulty, faulty
from tests.support.load import Answer, Line, connected, request

pytestmark = pytest.mark.e2e

WORKERS = 2
LINES = 48
WEIGHTS = {"weighed-a": 5, "weighed-b": 3, "weighed-c": 2}
FAST_S, SLOW_S = 0.02, 0.1
SLOW_SHARE = 0.10
TURNS = 5
KEPT = 0.95
LOAD = 1.25
"""What a deployment may get of sticky calls, as a multiple of its even share."""
MANY = [1_500, pytest.param(20_000, marks=pytest.mark.slow)]


def deployments(name: str, count: int = 3) -> list[str]:
    return [f"{name}-{letter}" for letter in "abcdef"[:count]]


def model(strategy: str, names: list[str], weights: dict[str, int] | None = None) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "deployments": [
            {"upstream": "far", "model": name, "weight": (weights or {}).get(name, 1)}
            for name in names
        ],
    }


class Play(NamedTuple):
    """The daemon, a key, and the upstream that has all deployments as models of its own."""

    daemon: Daemon
    key: str
    far: Faulty

    def shares(self, names: list[str]) -> dict[str, float]:
        """How much of their calls each of these got."""
        counts = self.far.quiet().by_model
        got = {name: counts.get(name, 0) for name in names}
        return {name: count / sum(got.values()) for name, count in got.items()}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    with faulty("far") as far:
        settings = {
            "upstreams": {"far": {"url": far.url}},
            "models": {
                "weighed": model("weighted", list(WEIGHTS), WEIGHTS),
                "fastest": model("fastest", deployments("fastest")),
                "least-inflight": model("least-inflight", deployments("least-inflight")),
                "sticky": model("sticky", deployments("sticky", 4)),
            },
            "orgs": {"acme": {}},
        }
        with serving(tmp_path_factory.mktemp("play"), settings, workers=WORKERS) as daemon:
            yield Play(daemon, key_of(daemon)["key"], far)


def call(model: str, *messages: str) -> dict[str, object]:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": said} for at, said in enumerate(messages)]
    return {"model": model, "messages": turns}


async def called(play: Play, calls: list[dict[str, object]]) -> list[Answer]:
    """Make these calls, as many at once as there are lines; their answers, in their order."""
    waiting = collections.deque(enumerate(calls))
    answers: dict[int, Answer] = {}

    async def keep_calling(line: Line) -> None:
        while waiting:
            number, next_call = waiting.popleft()
            answers[number] = await line.ask(request(play.key, next_call))

    async with connected(play.daemon, LINES) as lines:
        await asyncio.gather(*map(keep_calling, lines))
    assert {answer.status for answer in answers.values()} == {200}
    return [answers[number] for number in range(len(calls))]


@pytest.mark.parametrize("count", MANY)
def test_weights_are_kept(play: Play, count: int) -> None:
    asyncio.run(called(play, [call("weighed", "Hello")] * count))
    shares = play.shares(list(WEIGHTS))
    print(f"weighted: {shares}")  # noqa: T201
    for name, weight in WEIGHTS.items():
        assert shares[name] == pytest.approx(weight / sum(WEIGHTS.values()), abs=0.01)


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("strategy", ["fastest", "least-inflight"])
def test_a_slower_deployment_gets_little(play: Play, strategy: str, count: int) -> None:
    names = deployments(strategy)
    slow = names[1]
    takes = {name: SLOW_S if name == slow else FAST_S for name in names}
    play.far.order({name: Fault(Kind.SLOW, seconds=takes_s) for name, takes_s in takes.items()})
    asyncio.run(called(play, [call(strategy, "Hello")] * count))
    shares = play.shares(names)
    print(f"{strategy}, where {slow} takes five times as long: {shares}")  # noqa: T201
    assert shares[slow] < SLOW_SHARE
    others = [shares[name] for name in names if name != slow]
    assert min(others) > 0.2, "one of two that are as fast was left aside"


@pytest.mark.parametrize("count", MANY)
def test_turns_of_a_conversation_stay_together(play: Play, count: int) -> None:
    """And yet no deployment is overrun."""
    conversations = count // TURNS
    calls = [
        call("sticky", f"Question {number}", *[f"said {at}" for at in range(2 * turn)])
        for turn in range(TURNS)
        for number in range(conversations)
    ]
    answers = asyncio.run(called(play, calls))
    went: dict[int, Counter[str]] = collections.defaultdict(Counter)
    for at, answer in enumerate(answers):
        went[at % conversations][answer.headers["x-llmrouter-deployment"]] += 1
    kept = sum(max(places.values()) for places in went.values()) / len(calls)
    shares = play.shares(deployments("sticky", 4))
    print(f"sticky: {kept:.1%} of turns together, {shares}")  # noqa: T201
    assert kept >= KEPT
    assert max(shares.values()) < LOAD / len(shares)
