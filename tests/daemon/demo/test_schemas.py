from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon.demo.schemas import NODES_MAX, fitting

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["name"],
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "demo value"),
        ({"type": "string", "maxLength": 4}, "demo"),
        ({"type": "string", "minLength": 12}, "demo value.."),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "string", "enum": ["c", "f"]}, "c"),
        ({"const": 7}, 7),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10}, 11),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "multipleOf": 5, "minimum": 11}, 15),
        ({"type": "number", "minimum": 0.5}, 1.0),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 0}, []),
        ({"prefixItems": [{"const": 1}, {"const": 2}], "type": "array"}, [1, 2]),
        ({"type": "object"}, {}),
        ({"properties": {"city": {"type": "string"}}}, {"city": "demo city"}),
        ({"type": "object", "required": ["x"]}, {"x": "demo x"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"oneOf": [{"type": "boolean"}, {"type": "string"}]}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, 1),
        ({"type": "integer", "multipleOf": 1e-300, "minimum": 5}, 5),
        ({"type": "integer", "minimum": 10**400}, 1),
        ({"default": "d", "type": "string"}, "d"),
        ({"examples": ["e"], "type": "string"}, "e"),
    ],
)
def test_a_value_fits_its_schema(schema: Any, expected: Any) -> None:
    assert fitting(schema) == expected


def test_all_properties_of_an_object_are_filled_in() -> None:
    schema = {
        "type": "object",
        "properties": {"place": {"type": "object", "properties": {"zip": {"type": "integer"}}}},
        "allOf": [
            {"properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]},
            {"$ref": "#/$defs/more"},
        ],
        "$defs": {"more": {"properties": {"ok": {"type": "boolean"}}}},
    }

    assert fitting(schema) == {"place": {"zip": 1}, "day": "2026-01-31", "ok": True}


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    value = fitting(TREE)

    assert value["name"] == "demo name"
    assert value["next"]["name"] == "demo name"
    assert len(msgspec.json.encode(value)) < 1_000


def test_a_short_schema_cannot_ask_for_a_huge_value() -> None:
    lists: dict[str, Any] = {"type": "integer"}
    for _ in range(10):
        lists = {"type": "array", "items": lists, "minItems": 100_000}

    assert len(msgspec.json.encode(fitting(lists))) < 20 * NODES_MAX


@pytest.mark.parametrize(
    "schema",
    [
        None,
        True,
        [],
        "x",
        {"type": 5},
        {"$ref": "#/nowhere"},
        {"anyOf": []},
        {"enum": []},
        {"properties": [1]},
        {"required": 3, "type": "object"},
        {"$ref": "#"},
        {"minimum": "a"},
        {"type": []},
        {"minItems": -1, "type": "array"},
        {"maxLength": -5},
        {"allOf": [3]},
    ],
)
def test_a_schema_that_is_none_is_met_as_far_as_it_goes(schema: Any) -> None:
    msgspec.json.encode(fitting(schema))


KEYWORDS = [
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "anyOf",
    "allOf",
    "$ref",
    "minItems",
    "maxLength",
    "minLength",
    "minimum",
    "maximum",
    "multipleOf",
    "format",
    "prefixItems",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(-9, 9)
    | st.sampled_from(["object", "array", "integer", "number", "string", "#", "#/items", "date"])
)


@given(
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4)
        ),
    )
)
def test_no_schema_makes_it_fail(schema: Any) -> None:
    msgspec.json.encode(fitting(schema))
