"""Explanations travel: from worker to supervisor, and from there to whoever reads them."""

import msgspec
import pytest

from llmrouter.contracts.call import Operation
from llmrouter.gateway.explanation import (
    AttemptsSaid,
    Caller,
    Explanation,
    FallbackSaid,
    Hold,
    LimitSaid,
    Outcome,
    Place,
    Question,
    Served,
    TimeoutsSaid,
)
from llmrouter.quota.ledger import Standing

CALLER = Caller(
    id="k" * 12, name="ci", org="acme", team=None, user="bo", status="active", expires_at=None
)
FULL = Explanation(
    caller=CALLER,
    notes=["a note"],
    served=Served(
        asked="gpt-4",
        operation=Operation.CHAT,
        stream=True,
        mapped_to="gpt-4o",
        mapped_by="org",
        model="gpt-4o",
        route="gpt-*",
        found_by="pattern",
        required={"region": "eu"},
    ),
    strategy="ordered",
    deployments=[
        Place(
            deployment="main/gpt-4o",
            upstream="main",
            model="gpt-4o",
            weight=3,
            tags={"region": "eu"},
            turn=1,
            why_not="",
            breaker="closed",
            inflight=2,
            latency=0.25,
            places_left=7,
            timeouts=TimeoutsSaid(connect=5, first_token=60, idle=30, total=600),
        )
    ],
    fallbacks=[FallbackSaid(model="gpt-4o-mini", why_not="")],
    attempts=AttemptsSaid(
        most=3,
        repeats_left=10,
        repeats_share=0.2,
        fallback_on=("unavailable",),
        hedge_after="p95",
        hedge_delay=None,
    ),
    limits=[
        LimitSaid(
            bucket="org/acme/usd/day",
            scope="org",
            name="acme",
            rule="usd=5/day",
            kind="usd",
            limit=5.0,
            used=1.25,
            claimed=0.5,
            left=3.25,
            resets_at="2026-01-02T00:00:00Z",
            needed=0.01,
            gates=True,
        )
    ],
    hold=Hold(
        requests=1,
        prompt_tokens=9,
        output_tokens=1_000,
        usd=0.01,
        has_price=True,
        worst_usd=None,
    ),
    outcome=Outcome(admitted=True, served_by="gpt-4o-mini"),
)
QUESTION = Question(
    caller=CALLER,
    operation=Operation.RESPONSE,
    body=b"\xff{",
    is_sample=False,
    standings=(Standing(bucket="b", capacity=5, used=6, claimed=-1, resets_at_ms=None),),
    at_ms=7,
)


@pytest.mark.parametrize("said", [FULL, Explanation(caller=CALLER)], ids=["whole", "early"])
def test_an_explanation_is_the_same_behind_a_channel_and_a_control_socket(
    said: Explanation,
) -> None:
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Explanation)
    printed = msgspec.json.decode(msgspec.json.encode(said))

    assert packed == said
    assert msgspec.convert(printed, Explanation) == said


def test_what_was_not_reached_is_empty_and_not_admitted() -> None:
    said = Explanation(caller=CALLER)

    assert (said.served, said.attempts, said.hold, said.deployments) == (None, None, None, [])
    assert not said.outcome.admitted


def test_a_question_takes_any_body_as_it_came() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(QUESTION), type=Question) == QUESTION
