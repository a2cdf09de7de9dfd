"""A deployment that comes and goes, beside a sound one: nobody notices, and nobody is overrun."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.metering.accounts import BookedCall
from tests.support.accounting import assert_tokens_agree, booked, key_of, made
from tests.support.daemon import Daemon, serving, wait_for
from tests.support.faults import WORDS, Port, text
from tests.support.faulty import Faulty, faulty
from tests.support.load import Answer, connected, paced, request

pytestmark = pytest.mark.e2e

WORKERS = 2
LINES = 32
FIRST_S = (0.02, 0.04)
CONCURRENT = 4
BUDGET = 0.2
FLOOR = 10
"""Repeats that each worker may make of a model before the budget counts."""
SUCCEEDING = 0.999
CALL: dict[str, object] = {
    "model": "chat",
    "max_tokens": WORDS,
    "messages": [{"role": "user", "content": "Hello"}],
}
WHOLE = {text("flapping"), text("sound")}


def settings(flapping: Faulty, sound: Faulty, concurrent: int) -> dict[str, Any]:
    deployments = [{"upstream": "flapping", "model": "m"}, {"upstream": "sound", "model": "m"}]
    return {
        "upstreams": {
            "flapping": {"url": flapping.url},
            "sound": {"url": sound.url, "concurrent": concurrent},
        },
        "models": {
            "chat": {"deployments": deployments, "retry": {"attempts": 3, "budget": BUDGET}}
        },
        "orgs": {"acme": {}},
    }


def is_whole(answer: Answer) -> bool:
    if answer.status != 200:
        return False
    return msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] in WHOLE


def answered(rows: list[BookedCall]) -> int:
    """How many calls have got their answer, as the books say."""
    return sum(row.outcome == "ok" for row in rows)


async def called(daemon: Daemon, key: str, per_s: float, seconds: float) -> list[Answer]:
    async with connected(daemon, LINES) as lines:
        return await paced(lines, request(key, CALL), per_s=per_s, seconds=seconds)


@pytest.mark.parametrize(
    ("flap_s", "per_s", "seconds", "concurrent"),
    # The sound one may hold at once about twice what it needs for all calls: it is at times full.
    [(0.75, 80, 4.5, CONCURRENT), pytest.param(2.0, 200, 60, 10, marks=pytest.mark.slow)],
)
def test_a_flapping_deployment_beside_a_sound_one_is_hardly_seen(
    tmp_path: Path, flap_s: float, per_s: float, seconds: float, concurrent: int
) -> None:
    with faulty("flapping") as flapping, faulty("sound") as sound:
        for each in (flapping, sound):
            each.order(first_s=FIRST_S)
        with serving(tmp_path, settings(flapping, sound, concurrent), workers=WORKERS) as daemon:
            key = key_of(daemon)
            flapping.order(flap_s=flap_s)
            answers = asyncio.run(called(daemon, key["key"], per_s, seconds))
            seen = {each.name: each.quiet() for each in (flapping, sound)}
            calls = len(answers)
            failed = [answer for answer in answers if not is_whole(answer)]
            assert len(failed) <= (1 - SUCCEEDING) * calls, failed[0]
            sent = calls - len(failed)  # at least
            wait_for(lambda: answered(booked(daemon)) >= sent, what="the books")
            rows = booked(daemon)
    repeats = made(rows) - calls
    print(  # noqa: T201
        f"{calls} calls: {len(failed)} failed, {repeats} repeats, the flapping one began"
        f" {seen['flapping'].all.begun}, the sound one {seen['sound'].all.begun},"
        f" at most {seen['sound'].most} at once"
    )
    assert repeats <= WORKERS * FLOOR + BUDGET * calls
    assert seen["sound"].most <= concurrent
    assert seen["flapping"].all.begun > 0.01 * calls, "the flapping one was never used"
    assert seen["flapping"].all.broken or repeats, "the flapping one never failed"
    assert_tokens_agree(rows, {name: counts.all for name, counts in seen.items()})


def test_repeats_are_bounded_where_no_breaker_helps(tmp_path: Path) -> None:
    """Three of four calls go to a deployment that is down: most of them fail, and are told so."""
    with faulty("flapping") as down, faulty("sound") as sound:
        down.order(port=Port.REFUSED)
        sound.order(first_s=FIRST_S)
        served = settings(down, sound, CONCURRENT)
        never = {"failures": 1_000, "window": 0.05}
        served["upstreams"]["flapping"]["breaker"] = never
        served["models"]["chat"]["deployments"][0]["weight"] = 3
        with serving(tmp_path, served, workers=WORKERS) as daemon:
            answers = asyncio.run(called(daemon, key_of(daemon)["key"], 120, 2.5))
            seen = sound.quiet()
    calls, whole = len(answers), sum(map(is_whole, answers))
    print(f"{calls} calls, one deployment down: {whole} succeeded")  # noqa: T201
    refused = {answer.code for answer in answers if answer.status != 200}
    assert refused <= {"upstream_unreachable", "no_deployment_available"}
    assert whole == seen.all.begun
    repeats = whole - calls / 4
    assert calls * BUDGET / 2 < repeats <= WORKERS * FLOOR + calls * BUDGET + WORKERS
    assert seen.most <= CONCURRENT
