"""What a model's table says about routing that changes nothing: notes."""

from llmrouter.config.names import find_model
from llmrouter.config.problems import Findings, Key
from llmrouter.config.schema import Config, Model

_NO_REPEATS = "means nothing with retry.budget = 0, which lets no call be repeated"


def route_notes(config: Config) -> Findings:
    """Keys that another key would have to stand beside, and fallbacks that are no help."""
    for name, model in config.models.items():
        key: Key = ("models", name)
        if (*key, "sticky_by") in config.given and model.strategy != "sticky":
            yield (*key, "sticky_by"), 'means nothing without strategy = "sticky"'
        if (*key, "fallback_on") in config.given and not model.fallbacks:
            yield (*key, "fallback_on"), "means nothing without fallbacks"
        if model.fallbacks and (reason := _no_fallback(model)):
            yield (*key, "fallbacks"), reason
        if model.hedge_after is not None and (reason := _no_hedge(model)):
            yield (*key, "hedge_after"), reason
        yield from _context_notes(model, key, config)


def _no_fallback(model: Model) -> str:
    """Why no fallback of a model is ever tried; empty where one may be.

    With a single attempt one is, while nothing can be sent to the model's own deployments.
    """
    if not model.fallback_on:
        return "means nothing with fallback_on = []"
    return _NO_REPEATS if model.retry.budget == 0 else ""


def _no_hedge(model: Model) -> str:
    """Why no call is ever hedged; empty where one may be."""
    if len(model.deployments) == 1:
        return "there is no other deployment that a late call could be sent to as well"
    if model.retry.attempts == 1:
        return "means nothing with retry.attempts = 1: a hedge is a second attempt"
    return _NO_REPEATS if model.retry.budget == 0 else ""


def _context_notes(model: Model, key: Key, config: Config) -> Findings:
    if "context_length" not in model.fallback_on or model.context is None:
        return
    for index, fallback in enumerate(model.fallbacks):
        other = find_model(config.models, fallback)
        context = None if other is None else config.models[other].context
        if context is not None and context <= model.context:
            yield (
                (*key, "fallbacks", index),
                f"the context of '{fallback}' is no longer than this model's ({context} of "
                f"{model.context} tokens), so it does not help where a prompt is too long",
            )
