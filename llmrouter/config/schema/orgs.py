"""`[orgs.NAME]`: who calls, what they may use, and how much of it."""

from msgspec import Struct

from llmrouter.config.schema.values import (
    WAIT_S,
    Count,
    MidStream,
    ModelMap,
    Names,
    Priority,
    Rate,
    Seconds,
    Tags,
    Text,
    Tokens,
    Unpriced,
    Usd,
    Weight,
    Window,
)


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule on a rate or on concurrency: one of `requests`, `tokens` and `concurrent`."""

    requests: Count | None = None
    """Calls admitted per `per`."""
    tokens: Tokens | None = None
    """Tokens, prompt and output together, per `per`."""
    concurrent: Count | None = None
    """Calls in flight at once; it takes no `per`."""
    per: Rate | None = None
    """The time that `requests` or `tokens` are counted over."""
    model: Text | None = None
    """Count only calls to this model, or to models of this pattern; absent means all calls."""
    burst: Tokens | None = None
    """What a rate admits at once after a rest; absent means all of one `per`. Lower it to spread
    calls evenly."""
    at_limit: Text = "reject"
    """What happens then: "reject", "queue", or "model:NAME" to serve with another model."""
    wait: Seconds = WAIT_S
    """With "queue": how long a call waits for room, in seconds, before it is refused."""


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule on money over a window of the UTC calendar."""

    usd: Usd
    """What may be spent in one window; at most nine decimals."""
    per: Window
    """The window; "total" never refills."""
    model: Text | None = None
    """Count only calls to this model, or to models of this pattern; absent means all calls."""
    at_limit: Text = "reject"
    """What happens then: "reject", "queue", or "model:NAME" to serve with a cheaper model."""
    wait: Seconds = WAIT_S
    """With "queue": how long a call waits for money, in seconds, before it is refused."""
    strict: bool = False
    """Hold the worst case of every call, so that the budget is never overshot. Leave it off unless
    that matters more than refusing calls which would have fitted."""
    mid_stream: MidStream = "finish"
    """What becomes of running streams when the money ends: "finish" lets them end, "cut" ends them
    with a reason."""


class User(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person or program that keys name as their user, in whatever team of the org."""

    limits: tuple[Limit, ...] = ()
    """Rates of this user over all of their keys, within those of the org."""
    budgets: tuple[Budget, ...] = ()
    """Money of this user over all of their keys, within that of the org."""


class Team(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of an org; what the org may not do, its team may not do either."""

    models: Names = ("*",)
    """Models, aliases or patterns that the team may use, among those of its org."""
    model_map: ModelMap = {}
    """As the org's, and before it."""
    require: Tags = {}
    """Tags besides those that its org requires."""
    limits: tuple[Limit, ...] = ()
    """Rates of the whole team, within those of its org."""
    budgets: tuple[Budget, ...] = ()
    """Money of the whole team, within that of its org."""


class Org(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who calls and who pays; keys are issued to an org, or to a team of it."""

    models: Names = ("*",)
    """Models, aliases or patterns that the org may use; absent means every model."""
    model_map: ModelMap = {}
    """Which model serves those who ask for another, such as { "gpt-4" = "gpt-4o-mini" }. On the
    left may stand a pattern; an exact name wins, then the longest pattern. One step only."""
    require: Tags = {}
    """Tags that a deployment must have to serve it, such as { region = "eu" }."""
    limits: tuple[Limit, ...] = ()
    """Rates of the whole org."""
    budgets: tuple[Budget, ...] = ()
    """Money of the whole org."""
    weight: Weight = 1
    """Its share, beside the other orgs, when a deployment is saturated."""
    priority: Priority = "normal"
    """Who waits for whom: "interactive" goes before "normal", "normal" before "batch"."""
    unpriced: Unpriced = "refuse"
    """What happens to calls to a model without a price while a budget applies to them: "refuse", or
    "warn" to serve them as if they cost nothing."""
    teams: dict[str, Team] = {}
    """Its teams, by name."""
    users: dict[str, User] = {}
    """Its users, by the name in their keys; "*" stands for each user without a table of its own."""
