"""A real model server as the upstream: opt in by REAL_UPSTREAM, its base URL (see README)."""

import http.client
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import pair
from tests.support.daemon import Daemon, create_key, serving, wait_for

REAL_UPSTREAM = os.environ.get("REAL_UPSTREAM", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL_UPSTREAM, reason="REAL_UPSTREAM names no server"),
]

ASKS: list[Any] = [{"role": "user", "content": "Once upon a time"}]
SETTINGS = {
    "upstreams": {"real": {"url": REAL_UPSTREAM}},
    "models": {"real": {"deployments": [{"upstream": "real", "model": "tiny"}]}},
    "orgs": {"acme": {}},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("real"), SETTINGS, workers=2) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    key = create_key(daemon.config)["key"]
    with openai.OpenAI(base_url=daemon.base_url, api_key=key, max_retries=0) as client:
        yield client


def processing() -> int:
    """How many requests the model server works on at this moment."""
    parts = urlsplit(REAL_UPSTREAM)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:requests_proc"))


def test_a_real_model_answers_plain_and_streamed(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    call = {"model": "real", "messages": ASKS, "max_tokens": 12, "temperature": 0, "seed": 1}
    plain = create(**call)
    assert plain.usage.completion_tokens == 12
    events = list(create(**call, stream=True))
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == plain.choices[0].message.content
    assert all(event.choices for event in events)
    asked = list(create(**call, stream=True, stream_options={"include_usage": True}))
    assert asked[-1].usage.completion_tokens == 12


def test_a_real_server_answers_completions_and_responses(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="real", prompt="Once", max_tokens=5)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    response = client.responses.create(model="real", input="Once", max_output_tokens=5)
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    create: Any = client.responses.create
    events = list(create(model="real", input="Once", max_output_tokens=5, stream=True))
    assert events[-1].type in {"response.completed", "response.incomplete"}


def test_closed_connections_of_the_server_are_replaced(client: openai.OpenAI) -> None:
    """It promises keep-alive after a stream, and closes all the same."""
    create: Any = client.chat.completions.create
    for _ in range(20):
        list(create(model="real", messages=ASKS, max_tokens=2, stream=True))
        create(model="real", messages=ASKS, max_tokens=2)


def test_a_client_that_leaves_cancels_upstream(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    stream = create(model="real", messages=ASKS, max_tokens=100_000, stream=True)
    next(iter(stream))
    assert processing() == 1
    stream.close()
    wait_for(lambda: processing() == 0, timeout_s=10, what="the end upstream")


def test_the_journal_has_the_tokens_that_the_server_told(
    daemon: Daemon, client: openai.OpenAI
) -> None:
    create: Any = client.chat.completions.create
    usage = create(model="real", messages=ASKS, max_tokens=7).usage
    told = (usage.prompt_tokens, 7)

    def found() -> bool:
        calls = pair(journal_paths(daemon.state / "journal")).calls
        used = [call.end.usage for call in calls if call.end is not None]
        return told in [(usage.prompt_tokens, usage.output_tokens) for usage in used]

    wait_for(found, what="the journal's end record")
