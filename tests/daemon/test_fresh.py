"""A gateway that serves nobody: made for one explanation, and gone without a trace."""

import tempfile
from pathlib import Path

import msgspec
import pytest

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.load import load
from llmrouter.contracts.call import Operation
from llmrouter.daemon import build
from llmrouter.daemon.fresh import NOTE, Fresh
from llmrouter.gateway.explanation import Caller, Question
from llmrouter.stores.memory import MemoryStore

FILE = """
[upstreams.demo]
url = "builtin:demo"
[upstreams.far]
url = "http://192.0.2.1/v1"
dialect = "openai"
credential = { env = "FAR_KEY" }
concurrent = 4
[models.demo]
deployments = [{ upstream = "demo", weight = 2 }, { upstream = "far", model = "x" }]
price = { input = 1, output = 1 }
[orgs.acme]
limits = [{ requests = 5, per = "day" }]
"""
DIGEST_KEY = bytes(32)


def issued() -> IssuedKey:
    key, _ = KeyBook(MemoryStore(), KeyDigest(DIGEST_KEY)).create(KeyTerms(org="acme"), 1e9)
    return key


def question(key: IssuedKey, model: str = "demo") -> Question:
    caller = Caller(
        id=key.id, name=None, org="acme", team=None, user=None, status="active", expires_at=None
    )
    return Question(
        caller=caller,
        operation=Operation.CHAT,
        body=msgspec.json.encode({"model": model}),
        is_sample=False,
        standings=(),
        at_ms=1_800_000_000_000,
    )


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Fresh, IssuedKey]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    file = tmp_path / "router.toml"
    file.write_text(FILE)
    config, key = load(file), issued()
    return Fresh(config, DIGEST_KEY, [key], build.rulebook(config, [key], 0)), key


def test_it_explains_as_a_daemon_would_that_has_just_started(
    fresh: tuple[Fresh, IssuedKey],
) -> None:
    made, key = fresh

    said = made.explain(question(key))

    assert said.outcome.admitted
    assert said.notes == [NOTE]
    assert [(place.deployment, place.turn, place.breaker) for place in said.deployments] == [
        ("demo/demo", 1, "closed"),
        ("far/x", 2, "closed"),
    ]
    assert [(limit.rule, limit.needed) for limit in said.limits] == [("requests=5/day", 1)]
    assert made.explain(question(key, "nope")).outcome.code == "model_not_found"


def test_nothing_is_left_of_it(fresh: tuple[Fresh, IssuedKey], tmp_path: Path) -> None:
    made, key = fresh

    made.explain(question(key))

    assert {path.name for path in tmp_path.iterdir()} == {"router.toml", "scratch"}
    assert list((tmp_path / "scratch").iterdir()) == []
