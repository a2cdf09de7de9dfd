"""Say what is wrong with raw TOML that the schema refuses: every place, by its full key path.

msgspec stops at the first mistake and writes `$.upstreams[...]` for any upstream. This walks the
schema's own types beside the raw values instead, so that names, indexes and values are at hand and
everything is reported at once. msgspec stays the judge: this runs only after it refused.
"""

from collections.abc import Mapping, Sequence, Sized

from msgspec import inspect

from llmrouter.config.problems import Findings, Key, did_you_mean, shown, shown_unknown

_WRITE = {
    "url": 'url = "https://HOST/v1"',
    "upstream": 'upstream = "NAME", one of [upstreams.NAME]',
    "deployments": 'deployments = [{ upstream = "NAME" }]',
    "cert": 'cert = "FILE"',
    "key": 'key = "FILE"',
    "path": 'path = "/models"',
    "usd": "usd = 100.0",
    "per": 'per = "month"',
    "input": "input = USD per million tokens",
    "output": "output = USD per million tokens",
    "issuer": 'issuer = "https://login.example.com"',
    "audience": 'audience = "llmrouter"',
}
"""What to write where a required key is missing."""

_SECRETS = frozenset({"api_key", "apikey", "key", "secret", "token", "password", "authorization"})
_BY_NAME = {
    "upstreams": "one table for each upstream, such as [upstreams.demo]",
    "models": 'one table for each model, such as [models."demo"]',
    "orgs": "one table for each org, such as [orgs.acme]",
    "teams": "one table for each team, such as [orgs.acme.teams.research]",
    "users": 'one table for each user, such as [orgs.acme.users."ann@example.com"]',
    "oidc": "one table for each identity provider, such as [auth.oidc.corp]",
    "tags": 'a table of words, such as { region = "eu" }',
    "require": 'a table of words, such as { region = "eu" }',
    "model_map": 'a table of names, such as { "gpt-4" = "gpt-4o-mini" }',
}


def explain(raw: object, kind: inspect.Type, key: Key = ()) -> Findings:
    """Compare `raw`, which stands at `key`, with what the schema has there."""
    match kind:
        case inspect.StructType() if isinstance(raw, dict):
            yield from _table(raw, kind, key)
        case inspect.DictType() if isinstance(raw, dict):
            if kind.max_length is not None and len(raw) > kind.max_length:
                yield key, f"holds {len(raw)} names; make it at most {kind.max_length}"
            for name, value in raw.items():
                yield from explain(value, kind.value_type, (*key, name))
        case inspect.VarTupleType() if isinstance(raw, list) and _has_length(raw, kind):
            for index, value in enumerate(raw):
                yield from explain(value, kind.item_type, (*key, index))
        case inspect.UnionType():
            yield from _union(raw, kind, key)
        case inspect.StructType() | inspect.DictType():
            yield key, f"must be {_expected(kind, key)} (value {shown_unknown(raw, key)})"
        case _:
            if not _fits(raw, kind):
                near = _near(raw, kind)
                yield key, f"must be {_expected(kind, key)} (value {shown(raw, key)}){near}"


def _table(raw: Mapping[str, object], kind: inspect.StructType, key: Key) -> Findings:
    fields = {field.name: field for field in kind.fields}
    for name, value in raw.items():
        if name in fields:
            yield from explain(value, fields[name].type, (*key, name))
        else:
            hint = _unknown_hint(name, tuple(fields), key)
            yield (*key, name), f"unknown key (value {shown_unknown(value, key)}){hint}"
    for field in kind.fields:
        if field.required and field.name not in raw:
            yield (*key, field.name), f"is required, but missing; add {_WRITE[field.name]}"


def _union(raw: object, kind: inspect.UnionType, key: Key) -> Findings:
    """Follow the branch that `raw` was meant for; a null branch cannot be written in TOML."""
    branches = [branch for branch in kind.types if not isinstance(branch, inspect.NoneType)]
    meant = next((branch for branch in branches if _is_meant_for(raw, branch)), None)
    if meant is not None or len(branches) == 1:
        yield from explain(raw, meant or branches[0], key)
    elif not any(_fits(raw, branch) for branch in branches):
        expected = " or ".join(_expected(branch, key) for branch in branches)
        yield key, f"must be {expected} (value {shown(raw, key)})"


def _is_meant_for(raw: object, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.VarTupleType):
        return isinstance(raw, list)
    return isinstance(raw, str) and isinstance(kind, inspect.StrType)


def _fits(raw: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.StrType():
            return isinstance(raw, str) and _has_length(raw, kind)
        case inspect.IntType():
            return type(raw) is int and _in_range(raw, kind)
        case inspect.FloatType():
            return isinstance(raw, int | float) and type(raw) is not bool and _in_range(raw, kind)
        case inspect.BoolType():
            return type(raw) is bool
        case inspect.LiteralType():
            return raw in kind.values if isinstance(raw, str) else False
        case _:
            return False


def _in_range(number: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or number >= kind.ge)
        and (kind.gt is None or number > kind.gt)
        and (kind.le is None or number <= kind.le)
    )


def _has_length(raw: Sized, kind: inspect.StrType | inspect.VarTupleType) -> bool:
    return _least(kind) <= len(raw) <= (kind.max_length or 2**62)


def _least(kind: inspect.StrType | inspect.VarTupleType) -> int:
    return kind.min_length or 0


def _expected(kind: inspect.Type, key: Key) -> str:
    match kind:
        case inspect.StrType():
            return f"a string of 1 to {kind.max_length} characters"
        case inspect.IntType() | inspect.FloatType():
            return _number(kind)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            words = ", ".join(f"'{value}'" for value in kind.values)
            return words if len(kind.values) == 1 else f"one of {words}"
        case inspect.VarTupleType():
            return "a list" + _count(kind)
        case _:
            return _BY_NAME.get(str(key[-1]), "a table") if key else "a table"


def _count(kind: inspect.VarTupleType) -> str:
    if kind.max_length is not None:
        return f" of {_least(kind)} to {kind.max_length} entries"
    return " with at least one entry" if _least(kind) else ""


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    number = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    least = f"from {kind.ge}" if kind.ge is not None else f"above {kind.gt}"
    return f"{number} {least} up to {kind.le}"


def _near(raw: object, kind: inspect.Type) -> str:
    if isinstance(raw, str) and isinstance(kind, inspect.LiteralType):
        return did_you_mean(raw, [str(value) for value in kind.values])
    return ""


def _unknown_hint(name: str, known: Sequence[str], key: Key) -> str:
    in_upstream = len(key) >= 2 and key[0] == "upstreams"
    if in_upstream and name.lower().replace("-", "_") in _SECRETS:
        return '; write credential = { env = "NAME" }: no secret stands in this file'
    return did_you_mean(name, known) or f"; known here: {', '.join(known)}"
