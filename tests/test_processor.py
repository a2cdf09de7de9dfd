"""Giving way is for the processor alone: it waits for nothing and returns at once."""

import os
import time

import pytest

from llmrouter.processor import give_way


def test_who_gives_way_asks_the_system_to_choose_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(os, "sched_yield", lambda: asked.append(True))

    give_way()

    assert asked == [True]


def test_giving_way_to_nobody_takes_no_processor_time_worth_counting() -> None:
    began_s = time.thread_time()
    for _ in range(1_000):
        give_way()

    assert time.thread_time() - began_s < 1.0
