"""What is allowed in router.toml, but probably not meant: notes, which refuse nothing.

`NO_EFFECT_YET` is the list of keys that the schema knows and this version does not act on. Whoever
gives a key its effect takes its line out, and nothing else.
"""

import os
import stat
from urllib.parse import urlsplit

from llmrouter.config.maps import map_notes
from llmrouter.config.problems import Findings, Key, Problem, key_text
from llmrouter.config.quotas import quota_notes
from llmrouter.config.references import uncovered_patterns
from llmrouter.config.routenotes import route_notes
from llmrouter.config.schema import SERVED_DIALECTS, Config, Upstream
from llmrouter.config.tags import tag_notes

NO_EFFECT_YET: dict[tuple[str, ...], str] = {
    ("orgs", "*", "weight"): "all orgs are treated alike",
    ("orgs", "*", "priority"): "all calls are treated alike",
    ("auth",): "only our own keys are accepted",
}
"""Keys without effect, `*` for any name, and what holds instead."""

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def notes(config: Config) -> list[Problem]:
    """Everything worth an operator's look that is no reason to refuse the file."""
    found = (
        *_without_effect(config),
        *_upstreams(config),
        *_models(config),
        *route_notes(config),
        *tag_notes(config),
        *map_notes(config),
        *quota_notes(config),
        *_readable_files(config),
    )
    return [Problem(str(config.file), key_text(key), message) for key, message in found]


def _without_effect(config: Config) -> Findings:
    for key in config.given:
        for pattern, instead in NO_EFFECT_YET.items():
            if len(key) == len(pattern) and all(
                wanted in ("*", part) for part, wanted in zip(key, pattern, strict=True)
            ):
                yield key, f"has no effect yet: {instead}"


def _upstreams(config: Config) -> Findings:
    used = {
        place.upstream
        for model in config.models.values()
        for place in (*model.deployments, model.shadow)
        if place is not None
    }
    for name, upstream in config.upstreams.items():
        if upstream.dialect not in SERVED_DIALECTS:
            message = f"the dialect '{upstream.dialect}' is not served yet; no model can use it"
            yield ("upstreams", name, "dialect"), message
        elif name not in used:
            yield ("upstreams", name), "no model uses this upstream"
        if upstream.credential is not None and _is_exposed(upstream):
            message = "sends its credential unencrypted; use https, or a tunnel"
            yield ("upstreams", name, "url"), message


def _is_exposed(upstream: Upstream) -> bool:
    parts = urlsplit(upstream.url)
    return parts.scheme == "http" and parts.hostname not in _LOCAL


def _models(config: Config) -> Findings:
    if not config.models:
        yield ("models",), 'no model is defined, so every call is refused; add [models."NAME"]'
    for name, org in config.orgs.items():
        groups: dict[Key, tuple[str, ...]] = {("orgs", name): org.models}
        for team_name, team in org.teams.items():
            groups["orgs", name, "teams", team_name] = team.models
        for key, allowed in groups.items():
            for pattern in uncovered_patterns(allowed, config.models):
                index = allowed.index(pattern)
                yield (*key, "models", index), f"'{pattern}' covers no model of this file"


def _readable_files(config: Config) -> Findings:
    for name, upstream in config.upstreams.items():
        credential = upstream.credential
        if credential is not None and credential.file is not None and _is_open(credential.file):
            yield ("upstreams", name, "credential", "file"), "others may read it; chmod it 0600"
    tls = config.server.tls
    if tls is not None and _is_open(tls.key):
        yield ("server", "tls", "key"), "others may read it; chmod it 0600"


def _is_open(file: str) -> bool:
    """Whether group or others may read the file; a missing one is somebody else's to report."""
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return False
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
