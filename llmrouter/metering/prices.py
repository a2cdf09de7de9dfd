"""Which price a call goes by: that of router.toml, else that of the list.

In router.toml a price stands with a deployment, or with a model for all of its deployments.

`price` says what a price is, `costs` what it makes of a call's tokens, `pricelist` what the list
knows; prices are asked for here, so that nobody else has to know which is where.
"""

import msgspec

from llmrouter.contracts.call import Usage
from llmrouter.metering import costs
from llmrouter.metering.price import Price, dearest
from llmrouter.metering.pricelist import (
    AllOf,
    AnyOf,
    Clause,
    Contains,
    EndsWith,
    Equals,
    Listed,
    PriceList,
    Regex,
    StartsWith,
)

__all__ = [
    "AllOf", "AnyOf", "Clause", "Contains", "EndsWith", "Equals", "Listed", "Price", "PriceBook",
    "PriceTable", "Regex", "StartsWith", "dearest",
]  # fmt: skip


TYPICAL = Usage(prompt_tokens=3_000, output_tokens=500)
"""A call of middling size, to compare deployments by, before anything is known of a call."""


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that prices are found by, as plain data to send to a worker."""

    explicit: dict[str, Price] = {}
    """By public model, as it stands in router.toml."""
    explicit_at: dict[str, dict[str, Price]] = {}
    """By public model, and then by `upstream/model`: the prices that stand with deployments. One
    that passes on the name that was asked for is `upstream` alone: all names there that no other
    deployment of the model has a price for."""
    providers: dict[str, str] = {}
    """By upstream: whose prices it has, where the list knows that."""
    listed: dict[str, tuple[Listed, ...]] = {}
    """By provider: its models, the first that matches a name is meant."""
    valid_until_ms: int | None = None
    """When the first of the listed prices changes, in Unix time; None if none is known to. From
    then on the table is out of date, and the list has to be read again."""


class PriceBook:
    """Says what a call costs: by router.toml where that has a price for it, else by the list."""

    __slots__ = ("_explicit", "_explicit_at", "_list", "_providers")

    def __init__(self, table: PriceTable) -> None:
        self._explicit = table.explicit
        self._explicit_at = table.explicit_at
        self._providers = table.providers
        self._list = PriceList(table.listed)

    def __repr__(self) -> str:
        return f"<PriceBook explicit={len(self._explicit)} {self._list!r}>"

    def price(self, model: str, upstream: str, upstream_model: str) -> Price | None:
        """The price of `model`, a table of router.toml, served as `upstream_model` by `upstream`.

        None if it has none: whoever counts money must not take that for free.
        """
        if (prices := self._explicit_at.get(model)) is not None:
            own = prices.get(f"{upstream}/{upstream_model}") or prices.get(upstream)
            if own is not None:
                return own
        if (explicit := self._explicit.get(model)) is not None:
            return explicit
        provider = self._providers.get(upstream)
        return None if provider is None else self._list.find(provider, upstream_model)

    def typical(self, model: str, upstream: str, upstream_model: str) -> int | None:
        """What a typical call costs there, in nano-USD; None where there is no price."""
        price = self.price(model, upstream, upstream_model)
        return None if price is None else costs.cost(price, TYPICAL)
