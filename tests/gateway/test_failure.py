import errno

import pytest

from llmrouter.errors import (
    Overloaded,
    RouterError,
    Source,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llmrouter.gateway.failure import translated
from llmrouter.http1.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    ResponseError,
    ResponseTimeout,
)

FAILURES: list[tuple[HttpError | OSError, type[RouterError]]] = [
    (ConnectError("no"), UpstreamUnreachable),
    (ConnectTimeout("no"), UpstreamUnreachable),
    (ConnectionLost("no", stale=True), UpstreamUnreachable),
    (ConnectionLost("no", stale=False), UpstreamUnreachable),
    (ResponseTimeout("no"), UpstreamTimeout),
    (ResponseError("no"), UpstreamError),
    (HttpError("no"), UpstreamError),
    (OSError(errno.ENOSPC, "secret/path"), Overloaded),
]


@pytest.mark.parametrize(("failure", "kind"), FAILURES, ids=lambda value: repr(value)[:30])
def test_every_failure_has_its_answer(
    failure: HttpError | OSError, kind: type[RouterError]
) -> None:
    error = translated(failure, "up")
    assert type(error) is kind
    if error.source is Source.UPSTREAM:
        assert "'up'" in error.message
        assert error.retry_after_s is None
    else:
        assert "secret" not in error.message
        assert error.retry_after_s == 1


def test_no_failure_of_an_upstream_is_forgotten() -> None:
    kinds = {type(failure) for failure, _ in FAILURES}
    known = {kind for kind in HttpError.__subclasses__() if kind.__name__ != "MessageError"}
    assert known <= kinds
