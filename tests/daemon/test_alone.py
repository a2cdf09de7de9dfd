"""A state that no daemon has: which desk does what, and what is damaged there told in words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmrouter.config.schema import Config
from llmrouter.daemon.alone import DESKS, do_alone
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.state import State, open_state
from tests.daemon.offering import operations


def test_every_operation_finds_its_desk_by_its_name() -> None:
    names = operations().keys()

    assert {name.partition(".")[0] for name in names} == DESKS.keys()


def damaged_event(state: State) -> str:
    state.store.put("event/x", b"")
    return "'event/x' in the store is not the name of an event"


def damaged_bucket(state: State) -> str:
    state.store.put("bucket/org/acme/requests/day", b"x")
    return "'bucket/org/acme/requests/day' in the store cannot be read as"


def damaged_key(state: State) -> str:
    state.store.put("key/AAAAAAAAAAAA", b"{}")
    return "'key/AAAAAAAAAAAA' in the store cannot be read as a key"


def damaged_journal(state: State) -> str:
    (state.journal_dir / "0-1.jsonl").mkdir()
    return "the journal "


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
    assert str(refused.value).startswith(words)
