"""Names in router.toml: what they may hold, and which model a name leads to.

A model whose name has `*` in it is a pattern; `*` stands for any run of characters, also none, and
may stand anywhere, more than once. An exact name wins, then an alias, then the longest pattern, and
of two as long the one that stands first in the file. Names are compared letter for letter, so two
that differ only by case are refused unless they lead to the same model.
"""

import re
from collections.abc import Iterable, Mapping

from llmrouter.config.problems import Findings, Key
from llmrouter.config.schema import Model, Settings
from llmrouter.contracts import patterns
from llmrouter.contracts.patterns import is_pattern

_TABLE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/@+~=*-]{1,256}")
_TABLE_RULE = "use letters, digits and . _ - only, at most 64 of them"
_MODEL_RULE = (
    "use letters, digits and . _ : / @ + ~ = - only, at most 256 of them, "
    "and * for any run of characters in a pattern"
)
_USER_CHARS_MAX = 128
_USER_RULE = (
    f"write 1 to {_USER_CHARS_MAX} printable characters, without / and without spaces at either "
    'end, or "*" for each user without a table of its own'
)

EVERY_USER = "*"
"""The table of users that have none of their own."""


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is, or is covered by, `pattern`."""
    return patterns.matches(patterns.split(pattern), name)


def aliases(models: Mapping[str, Model]) -> dict[str, str]:
    """The model of each alias; the first, where a file that will be refused has several."""
    owners: dict[str, str] = {}
    for name, model in models.items():
        for alias in model.aliases:
            owners.setdefault(alias, name)
    return owners


def find_model(models: Mapping[str, Model], name: str) -> str | None:
    """The key in `models` of the model that `name` leads to; None if nothing serves it."""
    if name in models and not is_pattern(name):
        return name
    if (model := aliases(models).get(name)) is not None:
        return model
    covering = [pattern for pattern in models if is_pattern(pattern) and matches(pattern, name)]
    return max(covering, key=len, default=None)


def counted_as(models: Mapping[str, Model], name: str) -> str:
    """The name that calls which ask for `name` count under: the model's own, never an alias."""
    model = find_model(models, name)
    return name if model is None or is_pattern(model) else model


def name_findings(settings: Settings) -> Findings:
    """Names that hold something they may not, and names that clash."""
    yield from _bad_names("upstreams", settings.upstreams)
    yield from _bad_names("orgs", settings.orgs)
    for org, value in settings.orgs.items():
        yield from _bad_names("orgs", value.teams, org, "teams")
        for user in value.users:
            if not is_user_name(user):
                yield ("orgs", org, "users", user), f"is not the name of a user; {_USER_RULE}"
    yield from _bad_names("auth", settings.auth.oidc, "oidc")
    for name, model in settings.models.items():
        if problem := model_name_problem(name):
            yield ("models", name), problem
        yield from _alias_findings(name, model, settings.models)
    yield from _case_findings(settings.models)


def _bad_names(top: str, names: Iterable[str], *tables: str) -> Findings:
    lower: dict[str, str] = {}
    for name in names:
        key = (top, *tables, name)
        first = lower.setdefault(name.lower(), name)
        if not _TABLE_NAME.fullmatch(name):
            yield key, f"is not a name; {_TABLE_RULE}"
        elif first != name:
            yield key, f"differs from '{first}' only by case, so people mix them up; rename one"


def is_user_name(name: str) -> bool:
    """Whether a key may name such a user; those that differ by case are users of their own."""
    fits = 0 < len(name) <= _USER_CHARS_MAX and name.isprintable() and "/" not in name
    return fits and name == name.strip()


def model_name_problem(name: str) -> str:
    """What is wrong with the name of a model or a pattern; the empty text if nothing is."""
    if not _MODEL_NAME.fullmatch(name):
        return f"is not a model name; {_MODEL_RULE}"
    return "has ** in it, which means the same as *; write one" if "**" in name else ""


def _alias_findings(name: str, model: Model, models: Mapping[str, Model]) -> Findings:
    if model.aliases and is_pattern(name):
        yield (
            ("models", name, "aliases"),
            "a pattern has no aliases; add a table of their own for these names",
        )
        return
    owners = aliases(models)
    for index, alias in enumerate(model.aliases):
        key = ("models", name, "aliases", index)
        if not _MODEL_NAME.fullmatch(alias):
            yield key, f"{alias!r} is not a model name; {_MODEL_RULE}"
        elif is_pattern(alias):
            yield key, f"'{alias}' is a pattern; give it a table of its own: [models.\"{alias}\"]"
        elif alias in models:
            yield key, f"'{alias}' is already the name of a model; rename or remove the alias"
        elif alias in model.aliases[:index]:
            yield key, f"'{alias}' stands twice in this list; keep one"
        elif owners[alias] != name:
            yield key, f"'{alias}' is also an alias of the model '{owners[alias]}'; keep one"


def _case_findings(models: Mapping[str, Model]) -> Findings:
    """Names that differ only by case and lead to different models."""
    first: dict[str, tuple[str, str]] = {}
    for name, model in models.items():
        keys: dict[str, Key] = {name: ("models", name)}
        keys |= {
            alias: ("models", name, "aliases", index) for index, alias in enumerate(model.aliases)
        }
        for text, key in keys.items():
            other, owner = first.setdefault(text.lower(), (text, name))
            if other != text and owner != name:
                yield key, f"'{text}' differs from '{other}' only by case; rename one"
