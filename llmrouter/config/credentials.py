"""Fetch the secrets that providers issued to us from where the configuration says they are.

Apart from `load`, because a `Config` never holds a secret: this runs once, where upstreams are
built, and what it returns hides its value from `repr`, logs and tracebacks.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from llmrouter.config.problems import ConfigError, Key, Problem, key_text
from llmrouter.config.schema import Config, Credential

_USUAL_NAME = re.compile(r"[A-Z]{2,32}(_[A-Z0-9]{1,32}){1,8}")

SECRET_BYTES_MAX = 16_384  # the longest header field that servers commonly accept


class Secret:
    """One credential's value; only `reveal` shows it."""

    __slots__ = ("_source", "_value")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self._source = source

    def reveal(self) -> str:
        """The secret itself, for the header that carries it upstream and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return f"<Secret from {self._source}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    __hash__ = None  # type: ignore[assignment]  # nothing may be looked up by a secret


def source_text(credential: Credential | None) -> str:
    """Where a credential comes from, in words."""
    if credential is None:
        return "no credential"
    if credential.env is not None:
        return f"env {credential.env}"
    return f"file {credential.file}"


def credentials(config: Config, environ: Mapping[str, str]) -> dict[str, Secret]:
    """The secret of each upstream that names one; raise ConfigError with all that are missing."""
    found: dict[str, Secret] = {}
    problems: list[Problem] = []
    for name, upstream in config.upstreams.items():
        if upstream.credential is None:
            continue
        member = "env" if upstream.credential.env is not None else "file"
        try:
            value = _checked(_read(upstream.credential, environ))
        except _Missing as error:
            key: Key = ("upstreams", name, "credential", member)
            problems.append(Problem(str(config.file), key_text(key), str(error)))
        else:
            found[name] = Secret(value, source_text(upstream.credential))
    if problems:
        raise ConfigError(problems)
    return found


class _Missing(Exception):
    """There is no usable secret at the place; the message never shows what is there."""


def _read(credential: Credential, environ: Mapping[str, str]) -> str:
    if credential.env is not None:
        if credential.env not in environ:
            name = _shown_name(credential.env)
            raise _Missing(f"the environment variable{name} is not set; export it, then start")
        return environ[credential.env]
    return _read_file(Path(credential.file or ""))


def _shown_name(name: str) -> str:
    """The name, where it is plainly one: people paste the secret itself there."""
    return f" {name}" if _USUAL_NAME.fullmatch(name) else ""


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except FileNotFoundError:
        raise _Missing(
            "no such file; create it with mode 0600 (relative paths start beside router.toml)"
        ) from None
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise _Missing(f"the file cannot be read: {reason}; let the daemon read it") from None
    return content.decode("ascii", "replace")


def _checked(text: str) -> str:
    """The secret without surrounding white space: `echo` and editors add a newline."""
    secret = text.strip()
    if not secret:
        raise _Missing("the secret there is empty; write it there, on one line")
    if len(secret) > SECRET_BYTES_MAX:
        raise _Missing(f"more than {SECRET_BYTES_MAX} bytes stand there; is it the secret?")
    if not all("!" <= character <= "~" for character in secret):
        raise _Missing(
            "what stands there is no secret: write one line of visible ASCII, without spaces"
        )
    return secret
