"""The schema: documented keys, defaults of the design, and values that cannot change."""

import ast
import inspect
from pathlib import Path

import msgspec
import pytest

from llmrouter.config import schema
from llmrouter.config.schema import (
    Books,
    Budget,
    Config,
    Drain,
    Limit,
    Model,
    Org,
    Quotas,
    Server,
    Upstream,
    UpstreamTimeouts,
)


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


def test_every_key_is_documented_beneath_it() -> None:
    tree = ast.parse(inspect.getsource(schema))
    structs = [node for node in tree.body if isinstance(node, ast.ClassDef)]

    assert len(structs) > 15
    assert _undocumented(structs) == []


def test_every_table_refuses_unknown_keys_and_changes() -> None:
    tables = [
        table
        for table in vars(schema).values()
        if inspect.isclass(table) and issubclass(table, msgspec.Struct) and table.__struct_fields__
    ]

    assert all(table.__struct_config__.forbid_unknown_fields for table in tables)
    assert all(table.__struct_config__.frozen for table in tables)


def test_defaults_are_those_of_the_design() -> None:
    server, limits, timeouts = Server(), Server().limits, Server().timeouts

    assert (server.listen, server.admin_listen) == ("127.0.0.1:4000", "127.0.0.1:4001")
    assert (server.workers, server.tls) == (0, None)
    assert (limits.connections, limits.head_bytes, limits.body_bytes) == (
        10_000,
        65_536,
        33_554_432,
    )
    assert (limits.inflight, limits.queued, limits.buffered_bytes) == (4_000, 2_000, 536_870_912)
    assert (timeouts.head, timeouts.body, timeouts.idle, timeouts.drain) == (10, 60, 75, 30)
    assert UpstreamTimeouts() == UpstreamTimeouts(connect=5, first_token=60, idle=30, total=600)
    upstream = Upstream(url="builtin:demo")
    assert upstream.dialect == "openai"
    assert upstream.drain_after_disconnect == Drain(seconds=5, bytes=65_536)
    assert Model(deployments=()).strategy == "weighted"
    assert (Org().models, Org().unpriced) == (("*",), "refuse")
    assert Quotas().hold_wait == 2
    assert Books() == Books(keep_days=400, on_disk_full="refuse")
    limit, budget = Limit(), Budget(usd=1, per="day")
    assert (limit.burst, limit.at_limit, limit.wait) == (None, "reject", 10)
    assert (budget.model, budget.at_limit, budget.wait) == (None, "reject", 10)
    assert (budget.strict, budget.mid_stream) == (False, "finish")


def test_configs_are_equal_when_they_would_run_the_same() -> None:
    one = Config(file=Path("a.toml"), given=(("state",),), state="/state")

    assert one == Config(file=Path("b.toml"), state="/state")
    assert one != Config(file=Path("a.toml"), state="/other")
    assert one != "config"


def test_a_config_cannot_be_changed() -> None:
    config = Config(file=Path("a.toml"))

    with pytest.raises(AttributeError):
        config.state = "/other"  # type: ignore[misc]
