"""A state that no daemon has: which desk does what, and what is damaged there told in words."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrouter.config.schema import Config
from llmrouter.daemon.alone import DESKS, do_alone
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.state import State, open_state
from tests.daemon.offering import operations
from tests.daemon.spoiling import damaged_bucket, damaged_event, damaged_journal, damaged_key


def test_every_operation_finds_its_desk_by_its_name() -> None:
    names = operations().keys()

    assert {name.partition(".")[0] for name in names} == DESKS.keys()


@pytest.mark.parametrize(
    ("op", "spoil", "code"),
    [
        ("keys.list", damaged_key, "store_error"),
        ("events.list", damaged_event, "store_error"),
        ("limits.list", damaged_bucket, "store_error"),
        ("limits.list", damaged_key, "store_error"),
        ("limits.list", damaged_journal, "journal_error"),
    ],
)
def test_a_state_that_is_damaged_is_told_in_words(
    tmp_path: Path, op: str, spoil: Callable[[State], str], code: str
) -> None:
    with open_state(tmp_path / "state") as state:
        words = spoil(state)

    with pytest.raises(ControlError) as refused:
        do_alone(Config(file=tmp_path / "router.toml", state=str(tmp_path / "state")), op, {})

    assert refused.value.code == code
    assert re.match(words, str(refused.value))
