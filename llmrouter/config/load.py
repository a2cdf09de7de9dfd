"""Read router.toml: a `Config`, or a `ConfigError` with everything that is wrong with it.

Relative paths start at the directory of the file, not at the working directory, so that the same
file means the same wherever the daemon is started. They are made absolute here, once.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from llmrouter.config.checks import CHECKS
from llmrouter.config.explain import explain
from llmrouter.config.problems import ConfigError, Finding, Problem, key_text
from llmrouter.config.schema import Config, Credential, Server, Settings, Upstream

FILE_BYTES_MAX = 4 * 2**20  # a hundred thousand lines; more is some other file

_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_SYNTAX_HINTS = {
    "Invalid value": "a string needs quotes, and true, false and numbers have none",
    "Cannot overwrite a value": "the same key stands twice, or is both a value and a table",
    "Cannot declare": "the same table stands twice; put its keys under one heading",
    "Cannot redefine": "the same table stands twice; put its keys under one heading",
    "Unclosed array": "close the list with ]",
    "Unterminated string": "close the string with a quote",
}
_SYNTAX_HINT = "look for a missing quote, bracket, comma or = there"


def load(path: Path) -> Config:
    """Read and check the file at `path`; raise ConfigError with all problems found in it."""
    raw = _parsed(_text(path), path)
    anchored = _anchored(_shaped(raw, path), path.absolute().parent)
    findings = [finding for check in CHECKS for finding in check(anchored)]
    if findings:
        raise _error(path, findings)
    settings = {name: getattr(anchored, name) for name in Settings.__struct_fields__}
    return Config(file=path, given=tuple(_given(raw, ())), **settings)


def workers(server: Server) -> int:
    """How many workers to run: as configured, or one for each core that we may use."""
    if server.workers:
        return server.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        message = (
            "no such file; name one with --config or $LLMROUTER_CONFIG, "
            "or start from the commented router.toml that llmrouter ships with"
        )
        raise ConfigError([Problem(str(path), "", message)]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot be read: {reason.lower()}; name a file that the daemon may read"
        raise ConfigError([Problem(str(path), "", message)]) from None
    if len(content) > FILE_BYTES_MAX:
        message = f"is longer than {FILE_BYTES_MAX} bytes; is it a router.toml?"
        raise ConfigError([Problem(str(path), "", message)])
    return _decoded(content, path)


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(str(path), f"line {line}", "is not UTF-8; save the file as UTF-8")
        raise ConfigError([problem]) from None


def _parsed(text: str, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(str(error), text, path)]) from None
    except RecursionError:
        problem = Problem(str(path), "", "nests lists or tables too deeply; is it a router.toml?")
        raise ConfigError([problem]) from None
    except ValueError:
        problem = Problem(str(path), "", "holds a number that is too long; shorten it")
        raise ConfigError([problem]) from None


def _syntax_problem(said: str, text: str, path: Path) -> Problem:
    """What the parser said, with the place first, and what usually causes it."""
    place = _AT.search(said)
    reason = said[: place.start()] if place else said
    if place and place[1]:
        where = f"line {place[1]}, column {place[2]}"
    else:
        where = f"line {max(1, len(text.splitlines()))}, at the end of the file"
    hint = next((hint for start, hint in _SYNTAX_HINTS.items() if reason.startswith(start)), None)
    message = f"not TOML: {reason[:1].lower()}{reason[1:]}; {hint or _SYNTAX_HINT}"
    return Problem(str(path), where, message)


def _shaped(raw: dict[str, object], path: Path) -> Settings:
    try:
        return msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        findings = list(explain(raw, msgspec.inspect.type_info(Settings)))
        raise _error(path, findings or [((), str(error))]) from None


def _error(path: Path, findings: list[Finding]) -> ConfigError:
    return ConfigError([Problem(str(path), key_text(key), text) for key, text in findings])


def _anchored(settings: Settings, base: Path) -> Settings:
    """The settings with every path made absolute, from `base`."""
    upstreams = {name: _upstream(value, base) for name, value in settings.upstreams.items()}
    server = settings.server
    if isinstance(server.listen, str):
        server = replace(server, listen=_listen(server.listen, base))
    else:
        server = replace(server, listen=tuple(_listen(text, base) for text in server.listen))
    server = replace(server, admin_listen=_listen(server.admin_listen, base))
    if (tls := server.tls) is not None:
        tls = replace(tls, cert=str(base / tls.cert), key=str(base / tls.key))
        server = replace(server, tls=tls)
    state = str(base / settings.state)
    return replace(settings, state=state, server=server, upstreams=upstreams)


def _listen(text: str, base: Path) -> str:
    kind, _, path = text.partition(":")
    return f"unix:{base / path}" if kind == "unix" and path else text


def _upstream(upstream: Upstream, base: Path) -> Upstream:
    if upstream.credential is None or upstream.credential.file is None:
        return upstream
    credential: Credential = replace(upstream.credential, file=str(base / upstream.credential.file))
    return replace(upstream, credential=credential)


def _given(raw: Mapping[str, object], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every table and key that stands in the file, outermost first."""
    for name, value in raw.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _given(value, (*above, name))
