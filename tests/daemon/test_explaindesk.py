"""Questions as the command line asks them, and what the state adds to them."""

import base64
from typing import Any

import pytest

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook, UnknownKey
from llmrouter.access.ruletext import parse_limit
from llmrouter.contracts.call import Operation
from llmrouter.contracts.rule import Rule, Scope
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.explaindesk import ExplainAlone, ExplainDesk
from llmrouter.gateway.explanation import Caller, Explanation, Question
from llmrouter.quota.ledger import Ledger
from llmrouter.quota.rulebook import Rulebook
from llmrouter.stores.memory import MemoryStore
from tests.daemon.offering import operations
from tests.daemon.spending import NOW_MS
from tests.gateway.test_explanation import FULL

RATE, PLACES = parse_limit("requests=100/hour"), parse_limit("concurrent=3")
RULES: dict[Scope, tuple[Rule, ...]] = {
    Scope(kind="org", name="acme"): (RATE,),
    Scope(kind="org", name="globex"): (RATE,),
    Scope(kind="team", name="acme/research"): (RATE,),
    Scope(kind="team", name="acme/sales"): (RATE,),
    Scope(kind="user", name="acme/*"): (RATE,),
    Scope(kind="upstream", name="far"): (PLACES,),
}
BODY = b'{"model": "\xff"}'


class Books:
    """Keys, rules, and the desk."""

    def __init__(self) -> None:
        self.keys = KeyBook(MemoryStore(), KeyDigest(bytes(32)))
        rulebook = Rulebook(RULES)
        ledger = Ledger(rulebook, {})
        self.desk = ExplainDesk(
            self.keys,
            rulebook,
            lambda found: [ledger.standing(one, NOW_MS) for one in found],
            lambda: NOW_MS,
        )

    def issue(self, **terms: Any) -> tuple[str, str]:
        key, text = self.keys.create(KeyTerms(org="acme", **terms), NOW_MS // 1_000)
        return key.id, text


def asked(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "body": base64.b64encode(BODY).decode(), **more}


def test_a_question_says_whose_call_and_how_the_buckets_stand_that_may_count_it() -> None:
    books = Books()
    key_id, text = books.issue(team="research", user="bo", name="ci", expires_in_s=60)

    question = books.desk.question(asked(text, operation="response", is_sample=True))

    assert question.caller == Caller(
        id=key_id,
        name="ci",
        org="acme",
        team="research",
        user="bo",
        status="active",
        expires_at=question.caller.expires_at,
    )
    assert question.caller.expires_at is not None
    assert [standing.bucket for standing in question.standings] == [
        "org/acme/requests/hour",
        "team/acme/research/requests/hour",
        "user/acme/bo/requests/hour",
        "upstream/far/concurrent",
    ]
    assert (question.operation, question.body) == (Operation.RESPONSE, BODY)
    assert (question.is_sample, question.at_ms) == (True, NOW_MS)
    assert text not in repr(question)


def test_a_key_is_given_by_its_id_or_whole() -> None:
    books = Books()
    key_id, text = books.issue()

    assert books.desk.question(asked(key_id)) == books.desk.question(asked(text))
    with pytest.raises(UnknownKey) as caught:
        books.desk.question(asked(text[:-1] + ("0" if text[-1] != "0" else "1")))
    assert key_id not in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"key": "x"},
        {"key": "x", "body": "no base64!"},
        {"key": "x", "body": "", "operation": "dance"},
        {"key": "x", "body": "", "what": 1},
    ],
)
def test_what_is_no_question_is_refused(args: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Books().desk.question(args)


def test_the_desk_alone_answers_in_plain_values() -> None:
    books = Books()
    key_id, _ = books.issue()
    seen: list[Question] = []

    def answer(question: Question) -> Explanation:
        seen.append(question)
        return FULL

    answered = ExplainAlone(books.desk, answer).steps()["explain"](asked(key_id))

    assert isinstance(answered, dict)
    assert answered["outcome"]["served_by"] == "gpt-4o-mini"
    assert [question.caller.id for question in seen] == [key_id]


@pytest.mark.asyncio
async def test_behind_the_control_socket_a_worker_answers_or_it_is_said_that_none_does() -> None:
    books = Books()
    key_id, _ = books.issue()

    async def answer(question: Question) -> Explanation:
        assert question.caller.id == key_id
        return FULL

    up = operations(explanations=books.desk, answer=answer)["explain"]
    silent = operations(explanations=books.desk)["explain"]

    assert await up(asked(key_id)) == FULL
    with pytest.raises(ControlError) as none_serves:
        await silent(asked(key_id))
    assert none_serves.value.code == "no_answer"
    with pytest.raises(ControlError) as unknown:
        await up(asked("0" * 12))
    assert unknown.value.code == "unknown_key"
