"""Explaining what the schema refuses: it and the walk over its types must agree."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from llmrouter.config.explain import explain
from llmrouter.config.problems import key_text


class Leaf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Annotated[str, Meta(min_length=1, max_length=3)]
    every: Annotated[float, Meta(gt=0, le=9)] = 1.0
    kind: Literal["a", "b"] = "a"
    strict: bool = False


class Tree(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=0, le=9)] = 0
    listen: (
        Annotated[str, Meta(min_length=1, max_length=3)]
        | Annotated[tuple[Annotated[str, Meta(max_length=3)], ...], Meta(min_length=1)]
    ) = "x"
    leaf: Leaf | None = None
    late: Annotated[float, Meta(gt=0, le=9)] | Literal["p95"] | None = None
    tags: Annotated[
        dict[str, Annotated[str, Meta(min_length=1, max_length=3)]], Meta(max_length=2)
    ] = {}
    leaves: dict[str, Leaf] = {}
    rows: tuple[Leaf, ...] = ()


NUMBER = "number: must be a whole number from 0 up to 9 (value 10)"
TAGS = 'tags: must be a table of words, such as {{ region = "eu" }} (value {})'
KIND = msgspec.inspect.type_info(Tree)


def findings(raw: object) -> list[str]:
    return [f"{key_text(key)}: {message}" for key, message in explain(raw, KIND)]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({}, []),
        ({"number": 10}, ["number: must be a whole number from 0 up to 9 (value 10)"]),
        ({"leaf": 5}, ["leaf: must be a table (value 5)"]),
        ({"leaf": {}}, ['leaf.path: is required, but missing; add path = "/models"']),
        (
            {"leaf": {"path": "x", "strict": 1}},
            ["leaf.strict: must be true or false (value 1)"],
        ),
        *(({"number": 10, "late": fits}, [NUMBER]) for fits in ("p95", 1, 0.5)),
        *(
            ({"late": value}, [f"late: must be a number above 0 up to 9 or 'p95' (value {shown})"])
            for value, shown in (("p96", "'p96'"), (0, "0"), (True, "true"), ([], "[]"))
        ),
        ({"tags": "eu"}, [TAGS.format("a string, not shown")]),
        ({"tags": {"a": 1}}, ["tags.a: must be a string of 1 to 3 characters (value 1)"]),
        ({"tags": {"a": "x", "b": "x", "c": "x"}}, ["tags: holds 3 names; make it at most 2"]),
        ({"rows": {"path": "x"}}, ["rows: must be a list (value a table)"]),
        (
            {"rows": [{"path": "x"}, {"path": "x", "every": 0}]},
            ["rows[1].every: must be a number above 0 up to 9 (value 0)"],
        ),
        (
            {"leaves": {"a.b": {"path": "long", "kind": "c"}}},
            [
                "leaves.\"a.b\".path: must be a string of 1 to 3 characters (value 'long')",
                "leaves.\"a.b\".kind: must be one of 'a', 'b' (value 'c')",
            ],
        ),
        (
            {"listen": {}},
            [
                "listen: must be a string of 1 to 3 characters "
                "or a list with at least one entry (value a table)"
            ],
        ),
    ],
)
def test_names_each_wrong_value_by_its_place(raw: object, found: list[str]) -> None:
    assert findings(raw) == found


_SCALARS = (
    st.booleans()
    | st.integers(-2, 12)
    | st.floats(-1, 12)
    | st.sampled_from(["", "a", "b", "abcd", "p95"])
)
_LEAVES = (
    st.dictionaries(st.sampled_from(["path", "every", "kind", "strict", "x"]), _SCALARS) | _SCALARS
)
_TREES = st.fixed_dictionaries(
    {},
    optional={
        "number": _SCALARS,
        "listen": _SCALARS | st.lists(_SCALARS, max_size=2) | _LEAVES,
        "leaf": _LEAVES,
        "leaves": st.dictionaries(st.sampled_from(["m", "n"]), _LEAVES) | _SCALARS,
        "rows": st.lists(_LEAVES, max_size=2) | _LEAVES,
        "late": _SCALARS | st.lists(_SCALARS, max_size=1),
        "tags": st.dictionaries(st.sampled_from("abc"), _SCALARS) | _SCALARS,
        "unknown": _SCALARS,
    },
)


@settings(deadline=None)
@given(raw=_TREES)
def test_finds_something_exactly_where_the_schema_refuses(raw: dict[str, Any]) -> None:
    assert bool(findings(raw)) == refuses(raw)


def refuses(raw: dict[str, Any]) -> bool:
    try:
        msgspec.convert(raw, Tree)
    except msgspec.ValidationError:
        return True
    return False
