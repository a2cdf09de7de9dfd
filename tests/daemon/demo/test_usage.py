from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.saying import Ending, Saying
from llmrouter.daemon.demo.usage import response_usage_of, usage_of

SAID = Saying(text="12345", ending=Ending.STOP, reasoning_tokens=3)


def test_usage_is_the_sum_over_all_choices() -> None:
    usage = usage_of(10, [SAID, SAID], NONE)

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 10, 20)
    assert usage.completion_tokens_details.reasoning_tokens == 6
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_response_tells_the_same_in_its_own_words() -> None:
    usage = response_usage_of(10, SAID, Directives(cached=4))

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 5, 15)
    assert usage.output_tokens_details.reasoning_tokens == 3
    assert usage.input_tokens_details.cached_tokens == 4


def test_no_more_was_cached_than_was_sent() -> None:
    usage = usage_of(10, [SAID], Directives(cached=100))

    assert usage is not None
    assert usage.prompt_tokens_details.cached_tokens == 10


def test_usage_that_is_not_to_be_told_is_none() -> None:
    assert usage_of(10, [SAID], Directives(no_usage=True)) is None
    assert response_usage_of(10, SAID, Directives(no_usage=True)) is None
