"""The Protocol itself; what it promises is held against each store in a suite of its own."""

import inspect
from pathlib import Path

import pytest

from llmrouter.contracts.store import Store, StoreError

SUITE = (Path(__file__).parents[1] / "stores/test_contract.py").read_text()
MEMBERS = [name for name in vars(Store) if not name.startswith("_")]


@pytest.mark.parametrize("name", MEMBERS)
def test_every_operation_is_described_and_held_against_each_store(name: str) -> None:
    assert inspect.getdoc(getattr(Store, name))
    assert f"store.{name}(" in SUITE


def test_a_store_that_fails_says_so_in_one_class() -> None:
    assert StoreError.__name__ in SUITE
    assert issubclass(StoreError, Exception)
    assert not issubclass(StoreError, OSError)
