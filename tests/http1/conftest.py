import pytest

from llmrouter.http1 import link


@pytest.fixture
def probed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PROBE_EVERY_S", 0.02)
