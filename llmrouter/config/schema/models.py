"""`[models."NAME"]`: what callers may ask for, and what serves it."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from llmrouter.config.schema.values import (
    FallbackOn,
    Seconds,
    Share,
    StickyBy,
    StrategyName,
    Tags,
    Text,
    Tokens,
    UsdPerMillion,
    Weight,
)


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in USD per million tokens; absent means the price list's."""

    input: UsdPerMillion
    """Prompt tokens."""
    cached_input: UsdPerMillion | None = None
    """Prompt tokens that the upstream had in its cache; absent means the price of `input`."""
    output: UsdPerMillion
    """Output tokens, reasoning included."""


class Deployment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model at one upstream: what routing chooses."""

    upstream: Text
    """The upstream's name in this file."""
    model: Text | None = None
    """What the upstream calls the model; absent means the name that was asked for."""
    weight: Weight = 1
    """Its share of the calls, beside the other deployments of the model."""
    tags: Tags = {}
    """What it is, besides what its upstream is; of a tag that both have, this one counts."""
    price: Price | None = None
    """What it costs here, where that is not what the model costs elsewhere."""


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a call that failed before its first byte is tried again."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """Attempts a call may make in all, the first included."""
    budget: Share = 0.2
    """The share of traffic that may be repeats, so that an outage is not made worse."""


class ModelTimeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long we wait for this model, in seconds, where that is not as for its upstream."""

    connect: Seconds | None = None
    """Instead of the upstream's `connect`."""
    first_token: Seconds | None = None
    """Instead of the upstream's `first_token`. Raise it for a model that thinks for long."""
    idle: Seconds | None = None
    """Instead of the upstream's `idle`."""
    total: Seconds | None = None
    """Instead of the upstream's `total`."""


class Shadow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where copies of calls go whose answers nobody sees: to try a model under real traffic."""

    upstream: Text
    """The upstream's name in this file."""
    model: Text | None = None
    """What the upstream calls the model; absent means the name that was asked for."""
    share: Share = 1.0
    """Of the calls, the share that is copied. Each copy costs what a call costs."""


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public name that callers ask for, or a pattern of names with `*` in it."""

    aliases: tuple[Text, ...] = ()
    """Other names for the same model. A pattern has none."""
    strategy: StrategyName = "weighted"
    """How a deployment is chosen: "weighted" by weight; "ordered" as they stand here;
    "least-inflight", where fewest calls are; "fastest", where first tokens come soonest;
    "cheapest" by price; "sticky", where the calls before it went."""
    sticky_by: StickyBy = "conversation"
    """With "sticky": what keeps calls together. "conversation" lets upstreams find what they have
    in their prompt caches; choose "key" or "user" where whole callers belong together."""
    deployments: Annotated[tuple[Deployment, ...], Meta(min_length=1)]
    """Where it is served; calls fail over among them."""
    fallbacks: tuple[Text, ...] = ()
    """Other models to try, in order, when no deployment of this one can answer."""
    fallback_on: tuple[FallbackOn, ...] = ("unavailable", "context_length")
    """What leads to them: "unavailable", no deployment could answer; "context_length", the prompt
    is too long; "content_filter", the upstream refuses its content."""
    price: Price | None = None
    """What it costs; absent means the price list's figure. Set it for a model of your own."""
    max_output: Tokens | None = None
    """The most output tokens that one answer of it can have. Set it where a strict budget applies:
    a call that names no max_tokens of its own is held at this."""
    context: Tokens | None = None
    """The tokens that fit into it, prompt and output together; absent means not known. Fallbacks
    for "context_length" pass over models that are no longer."""
    timeouts: ModelTimeouts = ModelTimeouts()
    """How long we wait for it, where that is not as for its upstreams; see there."""
    hedge_after: Seconds | Literal["p95"] | None = None
    """When the first token is so late, in seconds, ask another deployment too, and take the answer
    that begins first. "p95" learns when only one call in twenty is. Both are paid for."""
    retry: Retry = Retry()
    """How often a failed call is tried again; see there."""
    shadow: Shadow | None = None
    """Where copies of its calls go; see there."""
