"""Whose call it is decides what was learned of it, so that must be the same for equal ones."""

from llmrouter.gateway.needs import Need, Who


def test_what_was_learned_is_found_by_key_and_model() -> None:
    learned = {Who("k1", "gpt"): 1, Who("k1", "other"): 2, Who("k2", "gpt"): 3}

    assert learned[Who("k" + "1", "gpt")] == 1
    assert len(learned) == 3


def test_a_need_of_which_no_bound_is_known_is_not_strict() -> None:
    need = Need(Who("k1", "gpt"), 10, 20, 30, 40, 50)

    assert need.output_max is None
    assert not need.is_strict
