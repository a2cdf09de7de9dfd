"""The model server that daemons under test call."""

from collections.abc import Iterator

import pytest

from tests.daemon.answering import ModelServer, model_server


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
