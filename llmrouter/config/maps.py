"""Maps: which model serves those who ask for another; each must lead to one that they may use."""

from collections.abc import Mapping

from llmrouter.config.grants import Grant, grants
from llmrouter.config.names import find_model, model_name_problem
from llmrouter.config.problems import Findings
from llmrouter.config.references import model_problem
from llmrouter.config.schema import Model, Settings
from llmrouter.config.tags import has_fitting, tags_text
from llmrouter.contracts.patterns import is_pattern


def map_findings(settings: Settings) -> Findings:
    """Names that are mapped to what cannot serve."""
    for grant in grants(settings):
        for asked, served in grant.table.model_map.items():
            if problem := model_name_problem(asked) or _problem(asked, served, grant, settings):
                yield (*grant.key, "model_map", asked), problem


def map_notes(settings: Settings) -> Findings:
    """Maps that seem to go on, and maps of an org that are no use to a team of it."""
    org_map: Mapping[str, str] = {}
    for grant in grants(settings):
        key, own = (*grant.key, "model_map"), grant.table.model_map
        if len(grant.allowed) == 1:
            org_map = own
        else:
            for served in dict.fromkeys(_left_to(org_map, own).values()):
                if not grant.allows(served, settings.models):
                    message = f"its org maps names to '{served}', which {grant.who} may not use"
                    yield (*grant.key, "models"), message
        for asked, served in own.items():
            if (onward := own.get(served)) is not None:
                message = f"'{served}' is itself mapped to '{onward}', but a name is mapped once"
                yield (*key, asked), f"{message}: '{served}' serves"


def _left_to(org_map: Mapping[str, str], team_map: Mapping[str, str]) -> dict[str, str]:
    """What of its org's map a team does not replace, name by name."""
    return {asked: served for asked, served in org_map.items() if asked not in team_map}


def _problem(asked: str, served: str, grant: Grant, settings: Settings) -> str | None:
    models = settings.models
    if problem := model_problem(served, models):
        return problem
    if _is_same(asked, served, models):
        return f"'{asked}' is mapped to itself; name another model, or take it out"
    if not grant.allows(served, models):
        return f"'{served}' is not among the models that may be used here; add it to models"
    model = find_model(models, served)
    assert model is not None
    if not has_fitting(model, grant.require, settings):
        tags = tags_text(grant.require)
        return f"no deployment of '{served}' has {tags}, which {grant.who} requires; name another"
    return None


def _is_same(asked: str, served: str, models: Mapping[str, Model]) -> bool:
    """Whether a name is mapped to itself, or an alias to the model that it stands for."""
    if is_pattern(asked):
        return False  # what it covers besides may well be meant
    model = find_model(models, asked)
    return asked == served or (
        model is not None and not is_pattern(model) and model == find_model(models, served)
    )
