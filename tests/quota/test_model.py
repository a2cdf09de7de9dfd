"""The model of quotas, in many random histories (see `machine`)."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.quota.machine import QuotaMachine

TestModel = QuotaMachine.TestCase
TestModel.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_the_same_for_minutes() -> None:
    run_state_machine_as_test(
        QuotaMachine,
        settings=settings(
            max_examples=5_000,
            stateful_step_count=120,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
