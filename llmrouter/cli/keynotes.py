"""What is allowed in a key, but probably not meant, as router.toml stands: a line each."""

from collections.abc import Iterable, Iterator, Mapping

from llmrouter.config.names import aliases, counted_as, find_model, matches
from llmrouter.config.references import covers_any
from llmrouter.config.schema import Config
from llmrouter.config.tags import has_fitting, tags_text
from llmrouter.contracts.patterns import is_pattern
from llmrouter.contracts.rule import MODEL_PREFIX, Rule


def org_notes(config: Config, org: str, team: str | None) -> Iterator[str]:
    """An org or team that the file has no table of."""
    table = config.orgs.get(org)
    if table is None:
        yield f"router.toml has no [orgs.{org}], so no limits or budgets of it apply"
    elif team is not None and team not in table.teams:
        yield f"router.toml has no [orgs.{org}.teams.{team}]: only what the org has applies"


def rule_notes(config: Config, rules: Iterable[Rule]) -> Iterator[str]:
    """Limits and budgets that name models which nothing serves, or no call counts as."""
    for rule in rules:
        other = rule.at_limit.removeprefix(MODEL_PREFIX)
        if other != rule.at_limit and find_model(config.models, other) is None:
            yield f"no model in router.toml serves {other!r}, the at_limit of {rule.name}"
        if rule.model is not None and (note := _never_counted(config, rule.model)):
            yield f"{note}: {rule.name} counts nothing"


def map_notes(
    config: Config, org: str, team: str | None, models: Iterable[str], model_map: Mapping[str, str]
) -> Iterator[str]:
    """Names that a key maps to what nothing serves, or to what may not serve or be used by it."""
    table = config.orgs.get(org)
    team_table = table.teams.get(team) if table is not None and team is not None else None
    lists = {
        "this key": tuple(models),
        f"org {org}": table.models if table is not None else (),
        f"team {org}/{team}": team_table.models if team_table is not None else (),
    }
    required = {
        **(team_table.require if team_table is not None else {}),
        **(table.require if table is not None else {}),
    }
    for served in dict.fromkeys(model_map.values()):
        model = find_model(config.models, served)
        if model is None:
            yield f"no model in router.toml serves {served!r}, which names are mapped to"
            continue
        if not has_fitting(model, required, config):
            tags = tags_text(dict(sorted(required.items())))
            yield f"no deployment with {tags} serves {served!r}, which names are mapped to"
        names = {served, counted_as(config.models, served)}
        for who, allowed in lists.items():
            if allowed and not any(matches(text, name) for text in allowed for name in names):
                yield f"{who} may not use {served!r}, which names are mapped to"


def _never_counted(config: Config, model: str) -> str | None:
    """Why no call counts as one to `model`, if so."""
    if is_pattern(model):
        covers = covers_any(model, config.models)
        return None if covers else f"no model in router.toml is covered by {model!r}"
    if (of := aliases(config.models).get(model)) is not None:
        return f"{model!r} is an alias, whose calls are counted as {of!r}"
    if find_model(config.models, model) is None:
        return f"no model in router.toml serves {model!r}"
    return None
