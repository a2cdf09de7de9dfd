import pytest

from llmrouter.routing.facts import NO_FACTS, Facts, StickyBy


def test_no_facts_say_nothing() -> None:
    assert Facts(asked="", key_id="", user=None, conversation=b"") == NO_FACTS


@pytest.mark.parametrize("word", ["conversation", "key", "user"])
def test_calls_stay_together_by_the_words_of_the_configuration(word: str) -> None:
    assert StickyBy(word).value == word
