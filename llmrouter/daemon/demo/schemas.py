"""A value that fits a JSON schema, in the common cases: what a model would put into a tool call."""

from typing import Any

NODES_MAX = 1_000
"""Of one value: a schema may refer to itself, and ten short ones may describe a billion nodes."""
DEPTH_MAX = 12
OPTIONAL_DEPTH_MAX = 3
"""How deep optional members are filled in; deeper only required ones are."""

BOUND_MAX = 10**15
STEP_LEAST = 1e-6
"""Beyond these, arithmetic on what a caller sent would overflow; such bounds are not met."""

_BY_FORMAT = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "demo@example.com",
    "hostname": "demo.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/demo",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_SIMPLE = {"boolean": True, "null": None}
_FIRST_OF = ("anyOf", "oneOf")

Schema = dict[str, Any]


def fitting(schema: object) -> Any:
    """Give a value that fits `schema`; what no simple value can fit is met as far as it goes."""
    return _Filler(schema).value(schema, "value", 0)


class _Filler:
    def __init__(self, root: object) -> None:
        self._root = root
        self._nodes_left = NODES_MAX

    def value(self, schema: object, name: str, depth: int) -> Any:
        self._nodes_left -= 1
        if not isinstance(schema, dict) or depth > DEPTH_MAX or self._nodes_left < 0:
            return None
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        for given in ("enum", "examples"):
            if isinstance(values := schema.get(given), list) and values:
                return values[0]
        if "default" in schema:
            return schema["default"]
        return self._of_type(schema, name, depth)

    def _of_type(self, schema: Schema, name: str, depth: int) -> Any:
        kind = _type_of(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return round(_number(schema)) if kind == "integer" else _number(schema)
        return _SIMPLE[kind] if kind in _SIMPLE else _string(schema, name)

    def _object(self, schema: Schema, depth: int) -> Schema:
        properties = _dict(schema.get("properties"))
        names = [name for name in _list(schema.get("required")) if isinstance(name, str)]
        if depth <= OPTIONAL_DEPTH_MAX:
            names = [*properties, *(name for name in names if name not in properties)]
        return {name: self.value(properties.get(name, {}), name, depth + 1) for name in names}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        first = _list(schema.get("prefixItems"))
        found = [self.value(item, name, depth + 1) for item in first]
        least = min(_whole(schema.get("minItems"), 1), NODES_MAX)
        while len(found) < least and self._nodes_left > 0:
            found.append(self.value(schema.get("items", {}), name, depth + 1))
        return found

    def _resolved(self, schema: Schema) -> Schema:
        for _ in range(DEPTH_MAX):
            if isinstance(reference := schema.get("$ref"), str):
                schema = self._found(reference)
            elif chosen := next((_list(schema[key]) for key in _FIRST_OF if key in schema), []):
                schema = _dict(chosen[0])
            elif parts := _list(schema.get("allOf")):
                schema = self._merged({**schema, "allOf": None}, parts)
            else:
                break
        return schema

    def _found(self, reference: str) -> Schema:
        place = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            place = _dict(place).get(step.replace("~1", "/").replace("~0", "~"))
        return _dict(place)

    def _merged(self, schema: Schema, parts: list[Any]) -> Schema:
        for part in parts[:DEPTH_MAX]:
            more = _dict(part)
            more = self._found(more["$ref"]) if isinstance(more.get("$ref"), str) else more
            properties = {**_dict(schema.get("properties")), **_dict(more.get("properties"))}
            required = [*_list(schema.get("required")), *_list(more.get("required"))]
            schema = {**schema, **more}
            if properties:
                schema |= {"properties": properties, "required": required}
        return schema


def _dict(value: object) -> Schema:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _number(schema: Schema) -> float:
    step = max(_real(schema.get("multipleOf")) or 1, STEP_LEAST)
    least = _real(schema.get("minimum"))
    if (above := _real(schema.get("exclusiveMinimum"))) is not None:
        least = above + step
    most = _real(schema.get("maximum"))
    if (below := _real(schema.get("exclusiveMaximum"))) is not None:
        most = below - step
    value = 1.0 if least is None else max(least, 1.0)
    if most is not None and value > most:
        value = most
    return -(-value // step) * step if step != 1 else value


def _real(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) <= BOUND_MAX else None


def _string(schema: Schema, name: str) -> str:
    text = _BY_FORMAT.get(str(schema.get("format")), f"demo {name}")
    text = text.ljust(min(_whole(schema.get("minLength"), 0), NODES_MAX), ".")
    return text[: max(_whole(schema.get("maxLength"), NODES_MAX), 0)]
