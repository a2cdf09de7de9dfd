import pytest

from llmrouter.http1.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    MessageError,
    ResponseError,
    ResponseTimeout,
)


@pytest.mark.parametrize(
    "error",
    [
        MessageError(400, "why"),
        ConnectError("why"),
        ConnectTimeout("why"),
        ConnectionLost("why", stale=False),
        ResponseTimeout("why"),
        ResponseError("why"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_says_why_and_is_caught_as_one_kind(error: HttpError) -> None:
    assert isinstance(error, HttpError)
    assert str(error) == "why"


def test_a_refusal_carries_its_status_and_a_loss_whether_it_may_be_tried_again() -> None:
    assert (MessageError(413, "why").status, MessageError(413, "why").reason) == (413, "why")
    assert ConnectionLost("why", stale=True).stale
