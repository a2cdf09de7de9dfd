"""Calls that the journal could not take, as the log tells of them."""

import errno
import os

import pytest

from llmrouter.gateway.unrecorded import TELL_EVERY_S, Unrecorded

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_first_is_told_and_then_how_many_there_were(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    unrecorded = Unrecorded(lambda: now)
    for step in (0.0, 1.0, TELL_EVERY_S - 1.5, 0.5, 0.0, TELL_EVERY_S):
        now += step
        unrecorded.note(FULL)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"calls_unrecorded={count} reason='No space left on device'" for count in (1, 4, 6)
    ]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_repr_shows_how_many() -> None:
    unrecorded = Unrecorded(lambda: 0.0)
    unrecorded.note(FULL)
    assert repr(unrecorded) == "<Unrecorded calls=1>"
