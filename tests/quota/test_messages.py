"""What workers and the ledger say: the same when it arrives, and told apart by its tag."""

import msgspec
import pytest

from llmrouter.quota.messages import (
    Amount,
    Ask,
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Granted,
    Reason,
    Recall,
    Recalled,
    Refused,
    Reopened,
    Take,
    ToLedger,
)

A, B = "org/acme/usd/month", "key/k/concurrent"
LARGE = 10**15  # a million USD in nano-USD

TO_LEDGER: list[ToLedger] = [
    Take(1, (Ask(A, 5, LARGE), Ask(B, 0, 0))),
    Take(2, (), at_once=True),
    Take(3, (Ask(B, 1, 1),), ahead=True),
    GiveBack((Amount(A, LARGE),)),
    Force((Amount(A, 1), Amount(B, 2))),
    Cancel(4),
    Recalled(5),
]
FROM_LEDGER: list[FromLedger] = [
    Granted(1, (LARGE, 0), (0, -1), 9),
    Granted(1, (LARGE,), (0,), 9, (7,)),
    Refused(2, A, Reason.HELD, -5, 9),
    Refused(2, A, Reason.SPENT, 0, 9, retry_at_ms=10, resets_at_ms=11),
    Recall(3, (Amount(A, 5),)),
    Reopened((A, B)),
]


@pytest.mark.parametrize("message", TO_LEDGER, ids=repr)
def test_what_a_worker_says_arrives_as_it_was_sent(message: ToLedger) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToLedger) == message
    assert msgspec.json.decode(msgspec.json.encode(message), type=ToLedger) == message


@pytest.mark.parametrize("message", FROM_LEDGER, ids=repr)
def test_what_the_ledger_says_arrives_as_it_was_sent(message: FromLedger) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=FromLedger) == message
    assert msgspec.json.decode(msgspec.json.encode(message), type=FromLedger) == message


def test_all_can_share_one_channel() -> None:
    messages = [*TO_LEDGER, *FROM_LEDGER]
    decoder = msgspec.msgpack.Decoder(ToLedger | FromLedger)
    assert [decoder.decode(msgspec.msgpack.encode(one)) for one in messages] == messages


def test_every_reason_has_its_word() -> None:
    assert [reason.value for reason in Reason] == [
        "spent",
        "held",
        "occupied",
        "too_large",
        "waited",
    ]
