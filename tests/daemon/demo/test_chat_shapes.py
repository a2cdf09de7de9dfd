import msgspec
import pytest

from llmrouter.daemon.demo.chat_shapes import Delta, logprobs_of


@pytest.mark.parametrize(("others", "names"), [(0, []), (1, ["é"]), (3, ["é", "é1", "é2"])])
def test_a_token_is_the_likeliest_of_those_in_its_place(others: int, names: list[str]) -> None:
    (token,) = logprobs_of(["é"], others).content

    assert (token.token, bytes(token.bytes).decode()) == ("é", "é")
    assert [other.token for other in token.top_logprobs] == names
    probabilities = [other.logprob for other in token.top_logprobs]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(value == token.logprob for value in probabilities[:1])


def test_a_delta_says_only_what_it_adds() -> None:
    assert msgspec.json.encode(Delta()) == b"{}"
    assert msgspec.json.encode(Delta(content=None)) == b'{"content":null}'
