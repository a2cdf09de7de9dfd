"""`[orgs.NAME]`: an org without a word may use everything, and its rules are lenient."""

from llmrouter.config.schema import Budget, Limit, Org, Team


def test_an_org_and_a_team_may_use_every_model_wherever_it_is_served() -> None:
    for table in (Org(), Team()):
        assert (table.models, table.model_map, table.require) == (("*",), {}, {})
    assert (Org().unpriced, Org().weight, Org().priority) == ("refuse", 1, "normal")


def test_a_limit_and_a_budget_count_all_calls_and_reject() -> None:
    limit, budget = Limit(), Budget(usd=1, per="day")

    assert (limit.burst, limit.at_limit, limit.wait) == (None, "reject", 10)
    assert (budget.model, budget.at_limit, budget.wait) == (None, "reject", 10)
    assert (budget.strict, budget.mid_stream) == (False, "finish")
