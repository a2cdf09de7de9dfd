"""The Protocols themselves; what they promise is held against each dialect in its own suite."""

import inspect
from pathlib import Path

import pytest

from llmrouter.contracts import dialect

SUITE = (Path(__file__).parents[1] / "dialects/test_contract.py").read_text()


def members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


@pytest.mark.parametrize("protocol", [dialect.Dialect, dialect.StreamTap])
def test_every_member_says_what_it_promises(protocol: type) -> None:
    assert members(protocol)
    assert all(inspect.getdoc(getattr(protocol, name)) for name in members(protocol))


@pytest.mark.parametrize("name", members(dialect.Dialect) + members(dialect.StreamTap))
def test_every_member_is_held_against_each_dialect(name: str) -> None:
    assert f".{name}" in SUITE
