"""Who a key stands for."""

import msgspec

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns

NO_MAP = ModelMap()


class Principal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who a call is made for: what policy, limits and books go by. Built once per key."""

    org: str
    team: str | None
    user: str | None
    key_id: str
    models: ModelPatterns
    """The models that the key opens, of those open to its org and team."""
    model_map: ModelMap = NO_MAP
    """Which model serves those who ask for another by this key."""
