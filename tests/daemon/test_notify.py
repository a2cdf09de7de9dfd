"""What the service manager hears."""

import socket
from pathlib import Path

import pytest

from llmrouter.daemon.notify import READY, VARIABLE, notify, tell


def test_nobody_is_told_where_nobody_asked() -> None:
    assert notify(READY, {}) is False


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_that_we_are_ready(tmp_path: Path, abstract: bool) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path if abstract else path)
        assert notify(READY, {VARIABLE: "@" + path if abstract else path})
        assert manager.recv(64) == b"READY=1"


def test_a_socket_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        notify(READY, {VARIABLE: str(tmp_path / "gone")})


def test_a_manager_that_cannot_be_told_is_logged_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))

    tell(READY)

    assert [record.getMessage() for record in caplog.records] == [
        "the service manager cannot be told READY=1: No such file or directory"
    ]
