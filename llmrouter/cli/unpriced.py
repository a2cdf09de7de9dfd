"""Models that a budget pays for and that have no price: what becomes of calls to them."""

from collections.abc import Iterable, Iterator

import msgspec

from llmrouter.config.problems import Problem, key_text
from llmrouter.config.quotas import Ruled, counted_model, ruled
from llmrouter.config.references import covers_any
from llmrouter.config.schema import Config, Deployment
from llmrouter.contracts.patterns import is_pattern
from llmrouter.daemon.pricelist import PriceListError, read_now
from llmrouter.daemon.rules import prices, prices_at
from llmrouter.metering.prices import PriceBook, PriceTable

_MODELS_SHOWN_MAX = 8
_ADVICE = "set price = { input = …, output = … } there"

Missing = dict[str, tuple[str, ...]]
"""By model: the upstreams that serve it without a price."""


def price_notes(config: Config) -> list[Problem]:
    """A note for every org, team and user whose budget meets a model without a price.

    It reads the price list where a budget may need it, and blocks for as long as that takes.
    """
    paying = [found for found in ruled(config) if found.table.budgets]
    if not paying:
        return []
    file = str(config.file)
    try:
        missing = unpriced(config, _listed(config))
    except PriceListError as error:
        return [Problem(file, "models", f"which of them have a price is not known: {error}")]
    return [
        Problem(file, key_text((*found.key, "budgets")), _message(config, found, met))
        for found in paying
        if (met := {name: at for name, at in missing.items() if _pays_for(found, name, config)})
    ]


def unpriced(config: Config, listed: PriceTable) -> Missing:
    """The models that some deployment serves without a price.

    Of a pattern only what holds for all of its names: that the list knows nobody behind it.
    """
    table = msgspec.structs.replace(listed, explicit=prices(config), explicit_at=prices_at(config))
    book = PriceBook(table)
    found = {
        name: tuple(
            dict.fromkeys(
                deployment.upstream
                for deployment in model.deployments
                if not _has_price(name, deployment, book, table)
            )
        )
        for name, model in config.models.items()
    }
    return {name: upstreams for name, upstreams in found.items() if upstreams}


def _has_price(name: str, deployment: Deployment, book: PriceBook, table: PriceTable) -> bool:
    asked = deployment.model or name
    if book.price(name, deployment.upstream, asked) is not None:
        return True
    return is_pattern(asked) and deployment.upstream in table.providers


def _listed(config: Config) -> PriceTable:
    """What the list says of the upstreams that serve what has no price in the file."""
    wanted = {
        deployment.upstream
        for model in config.models.values()
        if model.price is None
        for deployment in model.deployments
        if deployment.price is None
    }
    urls = {
        name: upstream.url
        for name, upstream in config.upstreams.items()
        if name in wanted and upstream.url.lower().startswith("https:")
    }
    return read_now(urls) if urls else PriceTable()


def _pays_for(found: Ruled, name: str, config: Config) -> bool:
    """Whether calls to the model `name` may be made under a budget of `found`, and count there."""
    models = config.models
    names = (name, *models[name].aliases)
    may_be_called = any(
        all(any(covers_any(text, (each,)) for text in texts) for texts in found.allowed)
        for each in names
    )
    counted = (counted_model(budget.model, models) for budget in found.table.budgets)
    return may_be_called and any(model is None or covers_any(model, (name,)) for model in counted)


def _message(config: Config, found: Ruled, met: Missing) -> str:
    org = str(found.key[1])
    if config.orgs[org].unpriced == "refuse":
        then = "calls to them get 402 insufficient_quota"
        advice = f'{_ADVICE}, or unpriced = "warn" in {key_text(("orgs", org))}'
    else:
        then = 'unpriced = "warn" serves calls to them as if they cost nothing'
        advice = _ADVICE
    return f"no price is known of {', '.join(_shown(met.items()))}: {then}; {advice}"


def _shown(met: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    models = [f"'{name}' (at {' and '.join(upstreams)})" for name, upstreams in met]
    yield from models[:_MODELS_SHOWN_MAX]
    if len(models) > _MODELS_SHOWN_MAX:
        yield f"and {len(models) - _MODELS_SHOWN_MAX} more"
