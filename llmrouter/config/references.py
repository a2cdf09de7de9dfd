"""References: the upstreams and models that models, orgs and teams name must exist.

What limits and budgets name is checked beside the rest of them, in `quotas`.

A model may be named by its own name, by an alias, or by a name that a pattern covers.
"""

import re
from collections.abc import Iterable, Mapping

from llmrouter.config.names import find_model, matches, model_name_problem
from llmrouter.config.problems import Findings, Key, did_you_mean
from llmrouter.config.schema import SERVED_DIALECTS, Deployment, Model, Settings, Shadow
from llmrouter.contracts.patterns import is_pattern

_MODEL_TABLE = '[models."NAME"]'


def model_findings(settings: Settings) -> Findings:
    """Where models lead: to upstreams, and to other models."""
    for name, model in settings.models.items():
        yield from _deployment_findings(name, model, settings)
        yield from _shadow_findings(name, model, settings)
        for index, fallback in enumerate(model.fallbacks):
            key: Key = ("models", name, "fallbacks", index)
            if problem := model_problem(fallback, settings.models):
                yield key, problem
    yield from _loop_findings(settings.models)


def org_findings(settings: Settings) -> Findings:
    """The models that orgs and their teams may use."""
    for name, org in settings.orgs.items():
        key: Key = ("orgs", name)
        yield from _grant_findings(org.models, key, settings.models)
        for team_name, team in org.teams.items():
            yield from _grant_findings(team.models, (*key, "teams", team_name), settings.models)


def _deployment_findings(name: str, model: Model, settings: Settings) -> Findings:
    for index, deployment in enumerate(model.deployments):
        key: Key = ("models", name, "deployments", index)
        yield from _place_findings(deployment, key, settings)
        if any(_is_same(deployment, earlier) for earlier in model.deployments[:index]):
            yield key, "stands twice in this list; keep one and give it the weight of both"


def _shadow_findings(name: str, model: Model, settings: Settings) -> Findings:
    shadow, key = model.shadow, ("models", name, "shadow")
    if shadow is None:
        return
    yield from _place_findings(shadow, key, settings)
    if any(_is_same(shadow, deployment) for deployment in model.deployments):
        yield key, "is a deployment of this model, which serves its calls already; name another"


def _place_findings(place: Deployment | Shadow, key: Key, settings: Settings) -> Findings:
    """What is wrong with an upstream and the name of a model there."""
    upstream = settings.upstreams.get(place.upstream)
    if upstream is None:
        hint = _undefined(place.upstream, settings.upstreams, "[upstreams.NAME]")
        yield (*key, "upstream"), f"no upstream is called '{place.upstream}'; {hint}"
    elif upstream.dialect not in SERVED_DIALECTS:
        served = ", ".join(f"'{dialect}'" for dialect in SERVED_DIALECTS)
        yield (
            (*key, "upstream"),
            f"the dialect '{upstream.dialect}' of '{place.upstream}' is not served yet; "
            f"use an upstream that speaks {served}",
        )
    if place.model is not None and not re.fullmatch(r"[!-)+-~]+", place.model):
        message = f"{place.model!r} cannot be asked for upstream; write the name itself"
        yield (*key, "model"), f"{message}, in visible ASCII without *"


def _is_same(one: Deployment | Shadow, other: Deployment) -> bool:
    return (one.upstream, one.model) == (other.upstream, other.model)


def model_problem(name: str, models: Mapping[str, Model]) -> str | None:
    """Why `name` cannot be called as a model, if it cannot."""
    if is_pattern(name):
        return f"'{name}' is a pattern; name one model"
    if find_model(models, name) is None:
        return f"no model is called '{name}'; {_undefined(name, models, _MODEL_TABLE)}"
    return None


def _undefined(name: str, known: Iterable[str], table: str) -> str:
    names = list(known)
    hint = f"; the file has {', '.join(map(repr, names[:8]))}" if names else ""
    return f"define it as {table.replace('NAME', name)}{did_you_mean(name, names) or hint}"


def _loop_findings(models: Mapping[str, Model]) -> Findings:
    """Fallbacks that come back to where they started; each loop once."""
    seen: set[frozenset[str]] = set()
    for name in models:
        for index, fallback in enumerate(models[name].fallbacks):
            loop = _way_back(name, fallback, models)
            if loop and frozenset(loop) not in seen:
                seen.add(frozenset(loop))
                way = " -> ".join((name, *loop))
                message = f"falls back to itself: {way}; take one of these fallbacks out"
                yield ("models", name, "fallbacks", index), message


def _way_back(start: str, first: str, models: Mapping[str, Model]) -> tuple[str, ...]:
    """The models from `first` to `start` along fallbacks, both included; () without a way."""
    target = find_model(models, first)
    waiting: list[tuple[str, ...]] = [(target,)] if target is not None else []
    visited: set[str] = set()
    for way in waiting:  # grows while it is walked: breadth first, each model once
        if way[-1] == start:
            return way
        if way[-1] in visited:
            continue
        visited.add(way[-1])
        onward = (find_model(models, name) for name in models[way[-1]].fallbacks)
        waiting.extend((*way, model) for model in onward if model is not None)
    return ()


def _grant_findings(allowed: tuple[str, ...], key: Key, models: Mapping[str, Model]) -> Findings:
    for index, name in enumerate(allowed):
        if problem := reference_problem(name, models):
            yield (*key, "models", index), problem


def reference_problem(name: str, models: Mapping[str, Model]) -> str | None:
    """Why `name` matters to no model; a pattern may be written before the models that it covers."""
    if is_pattern(name):
        problem = model_name_problem(name)
        return f"{name!r} {problem}" if problem else None
    return model_problem(name, models)


def uncovered_patterns(allowed: Iterable[str], models: Mapping[str, Model]) -> list[str]:
    """The patterns in a list of models that cover no model of the file."""
    names = {*models, *(alias for model in models.values() for alias in model.aliases)}
    return [
        pattern for pattern in allowed if is_pattern(pattern) and not covers_any(pattern, names)
    ]


def covers_any(pattern: str, names: Iterable[str]) -> bool:
    """Whether there may be calls to one of `names`, themselves perhaps patterns, in `pattern`."""
    return any(matches(pattern, name) or matches(name, pattern) for name in names)
