"""What a step cannot do is refused with a code; a bug is none."""

import pytest

from llmrouter.contracts.store import StoreError
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.operations import Args, refusing
from llmrouter.daemon.teller import JournalError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no"), "invalid_request"),
        (StoreError("no"), "store_error"),
        (JournalError("no"), "journal_error"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_code(error: Exception, code: str) -> None:
    def step(args: Args) -> object:
        raise error

    with pytest.raises(ControlError, match=r"^no$") as refused:
        refusing(step, {})

    assert refused.value.code == code


def test_a_bug_is_not_taken_for_a_refusal() -> None:
    def step(args: Args) -> object:
        return args["missing"]

    with pytest.raises(KeyError):
        refusing(step, {})
