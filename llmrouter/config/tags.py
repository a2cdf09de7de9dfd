"""Tags: what deployments are, and which of them an org or a team requires.

A deployment has its own tags and those of its upstream. A model of which no deployment has what is
required cannot be used: where a list names it exactly that is a mistake, and the file is refused;
where a pattern covers it, it is worth a note.
"""

import re
from collections.abc import Mapping

from llmrouter.config.grants import Grant, grants
from llmrouter.config.names import find_model
from llmrouter.config.problems import Findings, Key
from llmrouter.config.references import covers_any
from llmrouter.config.schema import Deployment, Org, Settings
from llmrouter.contracts.patterns import is_pattern

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORD_RULE = "use letters, digits and . _ - only, at most 64 of them"
_MODELS_SHOWN_MAX = 8


def tags_of(deployment: Deployment, settings: Settings) -> dict[str, str]:
    """The tags of a deployment: its upstream's, and its own before them."""
    upstream = settings.upstreams.get(deployment.upstream)
    return {**(upstream.tags if upstream is not None else {}), **deployment.tags}


def tags_text(tags: Mapping[str, str]) -> str:
    """Tags as they stand in the file: `region = "eu" and tier = "gold"`."""
    return " and ".join(f'{name} = "{value}"' for name, value in tags.items())


def has_fitting(model: str, tags: Mapping[str, str], settings: Settings) -> bool:
    """Whether a deployment of `model`, a key of the models, has all of `tags`."""
    deployments = settings.models[model].deployments
    return any(tags.items() <= tags_of(one, settings).items() for one in deployments)


def tag_findings(settings: Settings) -> Findings:
    """Tags that are no words, and requirements that contradict each other or the models."""
    for name, upstream in settings.upstreams.items():
        yield from _word_findings(upstream.tags, ("upstreams", name, "tags"))
    for name, model in settings.models.items():
        for index, deployment in enumerate(model.deployments):
            key: Key = ("models", name, "deployments", index, "tags")
            yield from _word_findings(deployment.tags, key)
    for grant in grants(settings):
        found = [*_require_findings(grant)]
        yield from found
        if not found and grant.require:
            yield from _unservable_findings(grant, settings)


def tag_notes(settings: Settings) -> Findings:
    """Models that an org or a team seems to have, and that no deployment may serve to it."""
    for grant in grants(settings):
        tags = grant.require
        names = [
            name
            for name in settings.models
            if tags and _is_reached(name, grant) and not has_fitting(name, tags, settings)
        ]
        if names and (grant.table.require or isinstance(grant.table, Org)):
            more = f" and {len(names) - _MODELS_SHOWN_MAX} more" * (len(names) > _MODELS_SHOWN_MAX)
            shown = ", ".join(f"'{name}'" for name in names[:_MODELS_SHOWN_MAX]) + more
            message = f"no deployment of {shown} has {tags_text(tags)}, so it cannot be used here"
            yield (*grant.key, "require"), message


def _word_findings(tags: Mapping[str, str], key: Key) -> Findings:
    for name, value in tags.items():
        if not _WORD.fullmatch(name):
            yield (*key, name), f"is not the name of a tag; {_WORD_RULE}"
        elif not _WORD.fullmatch(value):
            yield (*key, name), f"{value[:64]!r} is not the value of a tag; {_WORD_RULE}"


def _require_findings(grant: Grant) -> Findings:
    own, key = grant.table.require, (*grant.key, "require")
    yield from _word_findings(own, key)
    for tag, value in own.items():
        of_org = grant.require[tag]
        if value != of_org:
            yield (
                (*key, tag),
                f"is '{value}', but the org requires '{of_org}', which a team cannot change; "
                "take it out",
            )


def _unservable_findings(grant: Grant, settings: Settings) -> Findings:
    """Models that are named themselves, and that nothing may serve."""
    tags = grant.require
    for index, name in enumerate(grant.table.models):
        model = None if is_pattern(name) else find_model(settings.models, name)
        if model is not None and not has_fitting(model, tags, settings):
            yield (
                (*grant.key, "models", index),
                f"no deployment of '{name}' has {tags_text(tags)}, which {grant.who} requires; "
                "give it one that has, or take it out of models",
            )


def _is_reached(name: str, grant: Grant) -> bool:
    """Whether calls to the model `name`, perhaps a pattern, are allowed only by patterns."""
    if name in grant.table.models:
        return False  # that is refused
    return all(any(covers_any(text, (name,)) for text in texts) for texts in grant.allowed)
