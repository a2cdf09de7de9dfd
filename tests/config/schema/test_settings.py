"""The schema as a whole: documented keys, and values that cannot change."""

import ast
import inspect
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from llmrouter.config import schema
from llmrouter.config.schema import Books, Config, Quotas, models, orgs, server, settings, upstreams

TABLES = [models, orgs, server, settings, upstreams]


def _undocumented(structs: list[ast.ClassDef]) -> list[str]:
    """Fields without a string beneath them."""
    return [
        f"{struct.name}.{ast.unparse(field.target)}"
        for struct in structs
        for field, below in zip(struct.body, [*struct.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (
            isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        )
    ]


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__)
def test_every_key_is_documented_beneath_it(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    structs = [node for node in tree.body if isinstance(node, ast.ClassDef)]

    assert len(structs) >= 4
    assert _undocumented(structs) == []


def test_every_table_refuses_unknown_keys_and_changes() -> None:
    tables = [
        table
        for table in vars(schema).values()
        if inspect.isclass(table) and issubclass(table, msgspec.Struct)
    ]

    assert len(tables) > 20
    assert all(table.__struct_config__.forbid_unknown_fields for table in tables)
    assert all(table.__struct_config__.frozen for table in tables)


def test_defaults_are_those_of_the_design() -> None:
    assert Quotas().hold_wait == 2
    assert Books() == Books(keep_days=400, on_disk_full="refuse")


def test_configs_are_equal_when_they_would_run_the_same() -> None:
    one = Config(file=Path("a.toml"), given=(("state",),), state="/state")

    assert one == Config(file=Path("b.toml"), state="/state")
    assert one != Config(file=Path("a.toml"), state="/other")
    assert one != "config"


def test_a_config_cannot_be_changed() -> None:
    config = Config(file=Path("a.toml"))

    with pytest.raises(AttributeError):
        config.state = "/other"  # type: ignore[misc]
