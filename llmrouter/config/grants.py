"""Grants: what each org and each team may use, as the checks of their tables go by it."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from llmrouter.config.names import counted_as, matches
from llmrouter.config.problems import Key
from llmrouter.config.schema import Model, Org, Settings, Team


class Grant(Struct, frozen=True):
    """The table of an org or of a team."""

    key: Key
    who: str
    """In words: `org acme`, `team acme/research`."""
    table: Org | Team
    allowed: tuple[tuple[str, ...], ...]
    """Lists of models, each of which must allow what its callers ask for."""
    require: Mapping[str, str]
    """The tags that it requires, and those that its org does."""

    def allows(self, name: str, models: Mapping[str, Model]) -> bool:
        """Whether its callers may use the model `name`, by that name or by the model's own."""
        return self._lists(name) or self._lists(counted_as(models, name))

    def _lists(self, name: str) -> bool:
        return all(any(matches(pattern, name) for pattern in names) for names in self.allowed)


def grants(settings: Settings) -> Iterator[Grant]:
    """Those of each org, then of its teams."""
    for name, org in settings.orgs.items():
        key: Key = ("orgs", name)
        yield Grant(key, f"org {name}", org, (org.models,), org.require)
        for team_name, team in org.teams.items():
            yield Grant(
                (*key, "teams", team_name),
                f"team {name}/{team_name}",
                team,
                (org.models, team.models),
                {**team.require, **org.require},
            )
