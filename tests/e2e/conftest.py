"""One daemon for the tests of a module: those that kill it start their own."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, create_key, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers before the demo upstream."""
    with serving(tmp_path_factory.mktemp("daemon"), workers=2) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(daemon: Daemon) -> str:
    """A key of the org `acme`, good for every model."""
    return str(create_key(daemon.config)["key"])
