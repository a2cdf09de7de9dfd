"""What the schema cannot see: rules between keys, files that must be there, and references.

Each check is a generator of findings over settings of the right shape; `CHECKS` is the list of all
of them. None depends on another, so everything that is wrong is reported at once.
"""

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from llmrouter.config.addresses import listen_findings, url_problem
from llmrouter.config.maps import map_findings
from llmrouter.config.names import name_findings
from llmrouter.config.problems import Findings, Key
from llmrouter.config.quotas import quota_findings
from llmrouter.config.references import model_findings, org_findings
from llmrouter.config.schema import Credential, Settings
from llmrouter.config.tags import tag_findings

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def server_findings(settings: Settings) -> Findings:
    """The state directory, listeners, TLS files, and limits that contradict each other."""
    if "\0" in settings.state or (
        os.path.exists(settings.state) and not os.path.isdir(settings.state)
    ):
        yield ("state",), f"is no directory (value {settings.state!r}); name one, or a new one"
    server = settings.server
    yield from listen_findings(server)
    if server.tls is not None:
        for name, file in (("cert", server.tls.cert), ("key", server.tls.key)):
            if not os.path.isfile(file):
                message = f"no such file: {file}; relative paths start beside router.toml"
                yield ("server", "tls", name), message
            elif not os.access(file, os.R_OK):
                yield ("server", "tls", name), f"may not be read: {file}; change its owner or mode"
    limits = server.limits
    if limits.buffered_bytes < limits.body_bytes:
        yield (
            ("server", "limits", "buffered_bytes"),
            f"is less than body_bytes, so the longest body never fits (value "
            f"{limits.buffered_bytes}); make it at least {limits.body_bytes}",
        )


def upstream_findings(settings: Settings) -> Findings:
    """Base URLs, probes, breakers, and where credentials are said to be."""
    for name, upstream in settings.upstreams.items():
        key: Key = ("upstreams", name)
        if problem := url_problem(upstream.url):
            yield (*key, "url"), problem
        if upstream.credential is not None:
            yield from _credential_findings(upstream.credential, (*key, "credential"))
        if upstream.health is not None and not re.fullmatch(r"/[!-~]*", upstream.health.path):
            yield (*key, "health", "path"), 'is no path; write one from its slash, as in "/models"'
        breaker = upstream.breaker
        if breaker.rest > breaker.rest_max:
            yield (
                (*key, "breaker", "rest"),
                f"is longer than rest_max (value {breaker.rest:g}); "
                f"make it at most {breaker.rest_max:g}, or rest_max longer",
            )


def auth_findings(settings: Settings) -> Findings:
    """Identity providers, whose issuer is compared letter for letter."""
    for name, provider in settings.auth.oidc.items():
        if not _is_issuer(provider.issuer):
            message = 'is no issuer; write the https URL that stands as "iss" in its JWTs'
            yield ("auth", "oidc", name, "issuer"), message


CHECKS: tuple[Callable[[Settings], Findings], ...] = (
    server_findings,
    name_findings,
    upstream_findings,
    model_findings,
    org_findings,
    tag_findings,
    map_findings,
    quota_findings,
    auth_findings,
)


def _is_issuer(text: str) -> bool:
    if not re.fullmatch(r"https?://[!-~]+", text):
        return False
    try:
        parts = urlsplit(text)
        is_local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    return plain and bool(parts.hostname) and (parts.scheme == "https" or is_local)


def _credential_findings(credential: Credential, key: Key) -> Findings:
    if (credential.env is None) == (credential.file is None):
        yield key, 'must hold one of env and file, as in { env = "NAME" }'
    if credential.env is not None and not _ENV_NAME.fullmatch(credential.env):
        yield (
            (*key, "env"),
            "is not the name of an environment variable (a string, not shown); "
            "use letters, digits and _, and keep the secret itself out of this file",
        )
    if credential.file is not None and "\0" in credential.file:
        yield (*key, "file"), "is not the name of a file (a string, not shown)"
