"""Rules: what limits and budgets say, whoever wrote them; plain values that all parts share.

A rule applies to a scope (an org, a team, a user, a key), and its running state there is a bucket.
The name of a bucket holds everything that tells it from others, but not the amount: so a limit that
is raised or lowered keeps what was used, and one that is counted over another time starts anew.
"""

import enum

import msgspec

from llmrouter.contracts import patterns


class Kind(enum.StrEnum):
    """What a rule counts; the value is the word in files, on the command line and in names."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"
    USD = "usd"


RATE_PERIODS_MS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
"""The times that a rate is counted over."""
BUDGET_WINDOWS = ("hour", "day", "week", "month", "total")
"""The windows of a budget, of the UTC calendar; weeks begin on Monday."""
REJECT = "reject"
QUEUE = "queue"
MODEL_PREFIX = "model:"


class Rule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One limit or budget."""

    kind: Kind
    amount: int
    """Requests, tokens, calls at once, or nano-USD: what fits into one `per`."""
    per: str = ""
    """One of RATE_PERIODS_MS or BUDGET_WINDOWS; empty for concurrency."""
    model: str | None = None
    """A model's name or a pattern: only calls to these count; None means all."""
    burst: int | None = None
    """What a rate admits at once after a rest; None means `amount`."""
    at_limit: str = REJECT
    """REJECT, QUEUE, or MODEL_PREFIX and the model that serves instead."""
    wait_ms: int = 10_000
    """How long QUEUE waits."""
    strict: bool = False
    """A budget that holds the worst case of every call, so that it is never overshot."""
    cut: bool = False
    """A budget that ends running streams when it is spent, instead of letting them finish."""

    @property
    def name(self) -> str:
        """What tells it from the other rules of its scope: `tokens/minute`, `usd/day/gpt-4o*`."""
        return "/".join(part for part in (self.kind.value, self.per, self.model) if part)

    def covers(self, model: str) -> bool:
        """Whether calls to `model` count."""
        return self.model is None or patterns.matches(patterns.split(self.model), model)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a rule applies to."""

    kind: str
    """`org`, `team`, `user` or `key`; or `upstream`, whose places are a limit like any other."""
    name: str
    """The org's or upstream's name; `ORG/TEAM` or `ORG/USER`; the key's id. No name has a slash."""

    def bucket(self, rule: Rule) -> str:
        """The name of the bucket of `rule` here; no two buckets of a node have the same."""
        return f"{self.kind}/{self.name}/{rule.name}"
