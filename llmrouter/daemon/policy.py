"""Part of the composition root: from the orgs of router.toml to who may use which models."""

from collections.abc import Mapping

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.config.schema import Org, Team


def model_policy(orgs: Mapping[str, Org]) -> ModelPolicy:
    """What orgs and their teams say about models."""
    teams = {
        (org, team): _terms(table)
        for org, whole in orgs.items()
        for team, table in whole.teams.items()
    }
    return ModelPolicy({org: _terms(table) for org, table in orgs.items()}, teams)


def _terms(table: Org | Team) -> ModelTerms:
    return ModelTerms(
        models=ModelPatterns(table.models),
        model_map=ModelMap(table.model_map),
        require=table.require,
    )
