"""The model server that daemons under test call."""

from collections.abc import Iterator

import pytest

from tests.daemon.answering import ModelServer, model_server
from tests.support.logged import Pipe, piped


@pytest.fixture(scope="module")
def upstream() -> Iterator[ModelServer]:
    """One for the tests of a file."""
    with model_server() as server:
        yield server


@pytest.fixture
def held(upstream: ModelServer) -> ModelServer:
    """The same, holding its streams back."""
    upstream.go_on.clear()
    return upstream


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """What a log is written to."""
    with piped() as found:
        yield found
