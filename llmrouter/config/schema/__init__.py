"""What router.toml may hold: one struct a table, one field a key, and what each is for.

The string beneath a field is its documentation, in the operator's words: what it is, and when to
change it. A constraint on one value stands in its type; whatever ties two keys together, or needs
more than a range, is in `checks`. A field that is None by default is simply absent from the file.

A group of tables a module; whoever reads the configuration imports them from here.
"""

from llmrouter.config.schema.models import Deployment, Model, ModelTimeouts, Price, Retry, Shadow
from llmrouter.config.schema.orgs import Budget, Limit, Org, Team, User
from llmrouter.config.schema.server import Server, ServerLimits, ServerTimeouts, Tls
from llmrouter.config.schema.settings import (
    Auth,
    Books,
    Claims,
    Config,
    Journal,
    Oidc,
    Quotas,
    Settings,
    settings_names,
)
from llmrouter.config.schema.upstreams import (
    Breaker,
    Credential,
    Drain,
    Health,
    Upstream,
    UpstreamTimeouts,
)
from llmrouter.config.schema.values import (
    SERVED_DIALECTS,
    WAIT_S,
    DialectName,
    FallbackOn,
    StickyBy,
    StrategyName,
)

__all__ = [
    "SERVED_DIALECTS",
    "WAIT_S",
    "Auth",
    "Books",
    "Breaker",
    "Budget",
    "Claims",
    "Config",
    "Credential",
    "Deployment",
    "DialectName",
    "Drain",
    "FallbackOn",
    "Health",
    "Journal",
    "Limit",
    "Model",
    "ModelTimeouts",
    "Oidc",
    "Org",
    "Price",
    "Quotas",
    "Retry",
    "Server",
    "ServerLimits",
    "ServerTimeouts",
    "Settings",
    "Shadow",
    "StickyBy",
    "StrategyName",
    "Team",
    "Tls",
    "Upstream",
    "UpstreamTimeouts",
    "User",
    "settings_names",
]
